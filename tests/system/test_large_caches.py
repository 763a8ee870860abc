"""Large feature caches: full disks, kills, memory."""

import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import kerassplit as ks

FULL_DISK = """
    import sys
    from pathlib import Path
    import keras, numpy as np, kerassplit as ks
    place = Path(sys.argv[1])
    x = keras.Input((100,), name="x")
    head = keras.Model(x, keras.layers.Rescaling(2.0, name="twice")(x), name="doubling")
    rows = np.arange(1e6, dtype="float32").reshape(-1, 100)
    ballast = place / "ballast"

    def fills_the_disk(inputs):
        if inputs[0, 0] > 500_000 and not ballast.exists():
            try:
                with ballast.open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(1024))
            except OSError:
                pass
        return inputs

    try:
        ks.cache_features(head, rows, place / "cache", preprocess=fills_the_disk)
        sys.exit("it was cached")
    except ks.StoreError as error:
        message = str(error)
    assert "cannot be written: No space left on device. " in message, message
    kept = int(message.split("device. ")[1].split(" rows are kept: make room, and call again to go on.")[0])
    assert kept >= 4096, message
    assert not list((place / "cache").glob(".kerassplit.*"))
    try:
        ks.cache_features(head, rows, place / "cache", preprocess=fills_the_disk)
        sys.exit("it was cached")
    except ks.StoreError as error:
        assert "do not fit into" in str(error) and f"; {kept:,} rows are there already, and " in str(error), str(error)
    ballast.write_bytes(b"")
    features = ks.cache_features(head, rows, place / "cache", preprocess=fills_the_disk)
    np.testing.assert_array_equal(features.with_batches(len(rows), shuffle=False)[0], 2 * rows)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts of Linux")
def test_a_full_disk_stops_it_with_a_message_and_it_goes_on_later(tmp_path):
    if not shutil.which("unshare"):
        pytest.skip("there is no unshare; test_where_a_file_cannot_be_written_to_its_end_it_goes_on_later runs")
    mount = 'mount -t tmpfs -o size=6m tmpfs "$1" || exit 77; "$2" -c "$3" "$1"'
    script = ["unshare", "-m", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, textwrap.dedent(FULL_DISK)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("mounting is not allowed; the test of files that cannot be written to their end runs")
    assert done.returncode == 0, done.stderr[-2000:]


FORKS = """
    import os, sys
    from pathlib import Path
    import keras, numpy as np, kerassplit as ks
    model, rows, place = map(Path, sys.argv[1:])
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            data = np.load(rows), np.arange(len(np.load(rows)))
            features = ks.cache_features(keras.saving.load_model(model), data, place, batch_size=64, verbose=False)
            print(features.rows, flush=True)
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals, forks and limits of POSIX")
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has threads as soon as it is imported")
def test_killed_ten_times_the_cache_is_equal_to_an_undisturbed_one(tmp_path):
    """Each attempt is a separate process, forked from one that has imported everything."""
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((16,), name="x")
    for number in range(2):
        x = keras.layers.Dense(200, "tanh", name=f"wide{number}")(x)
    head = keras.Model(inputs, x, name="wide")
    head.save(tmp_path / "head.keras")
    rows = np.random.default_rng(2).normal(size=(80_000, 16)).astype("float32")
    np.save(tmp_path / "rows.npy", rows)
    data = rows, np.arange(len(rows))
    whole = ks.cache_features(keras.saving.load_model(tmp_path / "head.keras"), data, tmp_path / "whole", batch_size=64)
    place, generator = tmp_path / "killed", random.Random(4)
    command = [sys.executable, "-c", textwrap.dedent(FORKS)]
    command += [str(tmp_path / "head.keras"), str(tmp_path / "rows.npy"), str(place)]
    pipe = subprocess.PIPE
    there = []
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdin
        assert parent.stdout
        for _ in range(10):
            there.append(len(list(place.glob("*.safetensors"))))
            parent.stdin.write("run\n")
            parent.stdin.flush()
            child = int(parent.stdout.readline())
            while len(list(place.glob("*.safetensors"))) <= there[-1]:
                time.sleep(0.0005)
            time.sleep(generator.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
            assert int(parent.stdout.readline()) == signal.SIGKILL
        parent.stdin.write("run\n")
        parent.stdin.close()
        answers = [int(line) for line in parent.stdout]
    assert answers[1:] == [len(rows), 0]
    assert there == sorted(set(there))
    features = ks.cache_features(head, data, place)
    both = (one.with_batches(one.rows, shuffle=False)[0] for one in (features, whole))
    for ours, theirs in zip(*both, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    names = [path.name for path in sorted(place.iterdir())]
    assert names == [path.name for path in sorted((tmp_path / "whole").iterdir())]
    assert len(names) > 35


MEMORY = """
    import re, sys
    from pathlib import Path
    import keras, numpy as np, kerassplit as ks

    def own_memory():
        return int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

    x = keras.Input((2500,), name="x")
    head = keras.Model(x, keras.layers.Rescaling(2.0, name="twice")(x), name="doubling")
    rows = np.load(sys.argv[1] + "/rows.npy", mmap_mode="r")
    ks.cache_features(head, rows[:500], sys.argv[1] + "/few")
    largest = before = own_memory()
    features = ks.cache_features(head, rows, sys.argv[1] + "/cache", batch_size=50, seed=1)
    total = 0.0
    for number, batch in enumerate(features):
        total += float(batch[:, 0].sum())
        if number % 10 == 0:
            largest = max(largest, own_memory())
    assert total == 2 * sum(range(len(rows))), total
    print(largest - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process its memory")
def test_memory_stays_the_same_however_large_the_cache(tmp_path):
    rows = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", "float32", (40_000, 2500))  # 400 MB
    rows[:, 0] = np.arange(40_000)
    rows.flush()
    command = [sys.executable, "-c", textwrap.dedent(MEMORY), str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    assert float(done.stdout) < 150, "megabytes"
