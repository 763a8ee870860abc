"""Long runs: killed thirty times, they lose nothing, and their memory use stays constant."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import keras
import numpy as np
import pytest

import kerassplit as ks
from kerassplit.engines.running import run_stages

MEMORY = """
    import sys, numpy as np, resource
    from pathlib import Path
    from kerassplit.engines.running import run_stages
    peaks = []
    for source in sys.argv[2:]:
        run_stages(Path(sys.argv[1]), source, Path(source + ".out.npy"), batch_size=50)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(peaks[-1] - peaks[0])
"""


def test_memory_stays_the_same_over_a_hundred_thousand_rows(tmp_path):
    """A gigabyte of results and as much input; a first run compiles."""
    x = keras.Input((2500,), name="x")
    model = keras.Model(x, keras.layers.Activation("relu", name="b")(keras.layers.Rescaling(2.0, name="a")(x)))
    ks.split(model, "a").save(tmp_path / "stages")
    rows = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", "float32", (100_000, 2500))
    rows[:, 0] = np.arange(100_000)
    rows.flush()
    np.save(tmp_path / "few.npy", rows[:500])
    files = [str(tmp_path / name) for name in ("stages", "few.npy", "rows.npy")]
    command = [sys.executable, "-c", textwrap.dedent(MEMORY), *files]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    results = np.load(tmp_path / "rows.npy.out.npy", mmap_mode="r")
    assert results.shape == (100_000, 2500)
    np.testing.assert_array_equal(results[:, 0], 2 * np.arange(100_000, dtype="float32"))
    assert float(done.stdout) < 100, "megabytes"


FORKS = """
    import os, sys
    from pathlib import Path
    from kerassplit.engines.running import run_stages
    folder, rows, output = map(Path, sys.argv[1:])
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            print(run_stages(folder, rows, output, batch_size=8, resume=True).computed, flush=True)
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has threads as soon as it is imported")
def test_killed_thirty_times_over_two_thousand_rows_nothing_is_lost_and_nothing_is_twice(tmp_path):
    """Each attempt is a separate process, forked from one that has imported everything."""
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((16,), name="x")
    for number in range(4):
        x = keras.layers.Dense(1500, "tanh", name=f"wide{number}")(x)
    ks.split(keras.Model(inputs, x, name="wide"), ["wide1"]).save(tmp_path / "stages")
    rows = np.random.default_rng(2).normal(size=(2000, 16)).astype("float32")
    np.save(tmp_path / "rows.npy", rows)
    expected = run_stages(tmp_path / "stages", tmp_path / "rows.npy", tmp_path / "whole.npy", batch_size=8).results
    output, kills, generator = tmp_path / "out.npy", 0, random.Random(4)
    growing = tmp_path / "out.npy.unfinished" / "out.npy"
    command = [sys.executable, "-c", textwrap.dedent(FORKS)]
    command += [str(tmp_path / "stages"), str(tmp_path / "rows.npy"), str(output)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdin
        assert parent.stdout
        while kills < 30:
            before = growing.stat().st_size if growing.exists() else 0
            parent.stdin.write("run\n")
            parent.stdin.flush()
            child = int(parent.stdout.readline())
            while not growing.exists() or growing.stat().st_size <= before:
                time.sleep(0.001)
            time.sleep(generator.uniform(0, 0.04))
            os.kill(child, signal.SIGKILL)
            assert int(parent.stdout.readline()) == signal.SIGKILL
            kills += 1
        parent.stdin.write("run\n")
        parent.stdin.close()
        answers = [int(line) for line in parent.stdout]
    _, computed, status = answers  # the child's number, what it printed, how it ended
    assert status == 0
    assert 0 < computed < 2000
    np.testing.assert_array_equal(np.load(output), np.asarray(expected))
