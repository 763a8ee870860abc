"""Stages as Ray actors: real processes, killed with SIGKILL; rows, order and values as without Ray."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from actors import gone, processes_of
from comparing import copied, same_bits

import kerassplit as ks
from kerassplit.engines.ray.engine import RayOptions, run
from kerassplit.engines.route import Batch
from kerassplit.graph.compiling import compiled

if "CI" in os.environ:
    import ray
else:
    ray = pytest.importorskip("ray")

TENSORFLOW_ONLY = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="others do not check indices")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster that counts four CPUs, however many there are."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    """`small` in three stages."""
    path = tmp_path_factory.mktemp("ray") / "small"
    ks.split(small, ["block1_out", "block2_out"], names=["head", "middle", "tail"]).save(path)
    return path


@pytest.fixture(scope="module")
def pair(small, tmp_path_factory):
    """`small` in two stages."""
    path = tmp_path_factory.mktemp("ray") / "small"
    ks.split(small, ["block1_out"], names=["head", "tail"]).save(path)
    return path


@pytest.fixture(scope="module")
def undisturbed(folder):
    """The results if nothing dies, with three processes for the middle stage, five in total on four CPUs."""
    options = RayOptions(replicas=[1, 3, 1], num_cpus=0.5)
    return list(run(folder, some_batches(77, 4), options))


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "kerassplit")
    return caplog


def some_batches(rows: int, size: int, seed: int = 0) -> Iterator[Batch]:
    """Batches for `small`, the same for the same seed."""
    dice = np.random.default_rng(seed)
    for number, first in enumerate(range(0, rows, size)):
        count = min(size, rows - first)
        image, extra = dice.normal(size=(count, 8, 8, 3)), dice.normal(size=(count, 4))
        yield Batch(number, first, count, {"image": image.astype("float32"), "extra": extra.astype("float32")})


def plainly(small, batches):
    """Returns the results of a loop over the compiled model."""
    compute = compiled(small)
    for batch in batches:
        outputs = compute(list(batch.tensors.values()))
        yield dict(zip(["pool", "score"], map(copied, outputs), strict=True))


def chain(*layers, name="chain"):
    """A small chain, and a split after each of its layers except the last."""
    x = inputs = keras.Input((4,), name="x")
    for layer in layers:
        x = layer(x)
    return ks.split(keras.Model(inputs, x, name=name), [layer.name for layer in layers[:-1]])


def rows_of_x(count: int, width: int = 4) -> Iterator[Batch]:
    for number in range(count):
        yield Batch(number, number, 1, {"x": np.full((1, width), number, "float32")})


def our_processes():
    return processes_of("StageActor")


def temporary_folders():
    return set(Path(tempfile.gettempdir()).glob("kerassplit-*"))


def test_rows_order_and_values_are_those_of_the_plain_model(small, undisturbed):
    assert [(one.number, one.first, one.rows) for one in undisturbed] == [
        (number, 4 * number, 4 if number < 19 else 1) for number in range(20)
    ]
    for result, expected in zip(undisturbed, plainly(small, some_batches(77, 4)), strict=True):
        assert set(result.tensors) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(result.tensors[name], value, rtol=1e-5, atol=1e-6)
            assert result.tensors[name].flags.writeable


def test_a_plan_with_the_whole_model_on_every_device_runs_in_as_many_processes(small, tmp_path):
    plan = ks.plan(small, ks.Device("chip", count=2), replicas=True)
    ks.split(small, plan, names=["all"]).save(tmp_path / "out")
    results = run(tmp_path / "out", some_batches(9, 2), RayOptions(replicas=plan.replicas))
    got = [next(results)]
    assert len(our_processes()) == 2
    got += list(results)
    for result, expected in zip(got, plainly(small, some_batches(9, 2)), strict=True):
        for name, value in expected.items():
            np.testing.assert_allclose(result.tensors[name], value, rtol=1e-5, atol=1e-6)


def test_a_killed_process_is_started_again_and_every_row_comes_out_once_and_equal(folder, undisturbed, log):
    results = run(folder, some_batches(77, 4), RayOptions())
    got = [next(results)]
    killed = our_processes()[0]
    killed.kill()
    got += list(results)
    assert [one.first for one in got] == list(range(0, 77, 4))
    assert all(same_bits(one.tensors, other.tensors) for one, other in zip(got, undisturbed, strict=True))
    died = [record.getMessage() for record in log.records if "died" in record.getMessage()]
    assert len(died) == 1
    assert f"(process {killed.pid}) died; restarted (1 of 3 times)." in died[0]


def test_kills_at_random_moments_lose_nothing_and_double_nothing(small, pair, log):
    rows, size = 2000, 8
    count = 30 if os.environ.get("KERASSPLIT_LONG") else 10  # each costs a process that imports Keras
    moments = np.random.default_rng(29).choice(rows // size - 10, count // 2, replace=False)

    def kill_two(seed):
        dice = np.random.default_rng(seed)
        for _ in range(2):
            time.sleep(dice.uniform(0, 0.05))
            alive = []
            while not alive:
                alive = [one for one in our_processes() if one.pid not in killed]
            killed.append(dice.choice(alive).pid)
            os.kill(killed[-1], signal.SIGKILL)

    def batches():
        for batch in some_batches(rows, size):
            if batch.number in moments:
                threads.append(threading.Thread(target=kill_two, args=(batch.number,)))
                threads[-1].start()
            yield batch

    killed, threads = [], []
    options = RayOptions(max_restarts=count, max_retries=count)
    results = list(run(pair, batches(), options))
    for thread in threads:
        thread.join()
    assert len(killed) == count
    assert [row for one in results for row in range(one.first, one.first + one.rows)] == list(range(rows))
    for result, expected in zip(results, plainly(small, some_batches(rows, size)), strict=True):
        for name, value in expected.items():
            np.testing.assert_allclose(result.tensors[name], value, rtol=1e-5, atol=1e-6)
    assert sum("died; restarted" in record.getMessage() for record in log.records) >= count - 5  # some died at the end


@TENSORFLOW_ONLY
def test_a_batch_that_always_fails_is_named_and_what_was_finished_is_kept(tmp_path, log):
    numbers = keras.Input((3,), dtype="int32", name="numbers")
    known = keras.layers.Embedding(5, 4, name="known")(keras.layers.Identity(name="same")(numbers))
    ks.split(keras.Model(numbers, known, name="words"), ["same"], names=["first", "second"]).save(tmp_path / "words")
    values = [np.full((2, 3), value, "int32") for value in (1, 2, 3, 9, 4, 0, 1, 2)]
    batches = (Batch(number, 2 * number, 2, {"numbers": value}) for number, value in enumerate(values))
    kept = []
    with pytest.raises(
        ks.RunError,
        match=r"Stage 'second', batch 3 \(rows 6 to 7\): failed 3 times, with max_retries=2"
        r".*\[0,0\] = 9 is not in \[0, 5\)",
    ) as caught:
        kept.extend(run(tmp_path / "words", batches, RayOptions(max_retries=2)))
    assert [one.number for one in kept] == [0, 1, 2]
    assert (caught.value.stage, caught.value.batch, caught.value.rows) == ("second", 3, (6, 8))
    assert sum("Stage 'second' failed on batch 3 (rows 6 to 7), which runs again" in one for one in log.messages) == 2


@TENSORFLOW_ONLY
def test_a_batch_that_kills_its_process_every_time_is_named(tmp_path):
    dies = keras.layers.Lambda(  # in Python for each batch, not where it is traced
        lambda x: __import__("tensorflow").ensure_shape(
            __import__("tensorflow").py_function(
                lambda y: y if y.shape[0] == 1 else __import__("os").kill(__import__("os").getpid(), 9), [x], x.dtype
            ),
            x.shape,
        ),
        output_shape=(4,),
        name="dies",
    )
    split = chain(keras.layers.Dense(4, name="a"), dies, keras.layers.Dense(2, name="b"))
    split.save(tmp_path / "dies")

    def batches():
        for batch in rows_of_x(6):
            yield batch if batch.number != 3 else Batch(3, 3, 2, {"x": np.ones((2, 4), "float32")})

    kept = []
    with pytest.raises(ks.RunError, match=r"Stage 'stage_1', batch 3 \(rows 3 to 4\): failed 2 times.*process died"):
        options = RayOptions(max_retries=1, in_flight=2)
        kept.extend(run(tmp_path / "dies", batches(), options, safe_mode=False))
    assert [one.number for one in kept] == [0, 1, 2]


def test_a_process_that_died_too_often_is_named_with_its_batch(pair):
    results = run(pair, some_batches(400, 4), RayOptions(max_restarts=0))
    next(results)
    our_processes()[0].kill()
    with pytest.raises(ks.RunError, match=r"batch \d+ \(rows \d+ to \d+\): its process died once, with max_restarts=0"):
        list(results)


def test_resources_are_checked_first(folder):
    with pytest.raises(ks.SplitError, match=r"need 6 CPUs; the cluster has 4\. Lower num_cpus"):
        list(run(folder, some_batches(8, 4), RayOptions(num_cpus=2)))
    with pytest.raises(ks.SplitError, match="need 1 GPU; the cluster has 0"):
        list(run(folder, some_batches(8, 4), RayOptions(num_gpus={"tail": 1})))


def test_cpus_that_others_keep_are_not_waited_for_for_ever(pair, monkeypatch):
    monkeypatch.setattr("kerassplit.engines.ray.cluster.PATIENCE", 1.0)
    other = run(pair, some_batches(40, 4), RayOptions())
    next(other)
    with pytest.raises(ks.SplitError, match=r"others use the cluster: it has 4 CPUs, of which 2 CPUs were free"):
        list(run(pair, some_batches(8, 4), RayOptions(num_cpus={"head": 2})))
    assert len(list(other)) == 9


def test_input_is_taken_as_there_is_room(pair):
    taken = 0

    def counted():
        nonlocal taken
        for batch in some_batches(80, 4):
            taken += 1
            yield batch

    for handed_out, _ in enumerate(run(pair, counted(), RayOptions(in_flight=3)), 1):
        assert taken <= handed_out + 2
    assert taken == handed_out == 20


def test_an_iterator_that_is_closed_leaves_nothing(pair):
    before = temporary_folders()
    results = run(pair, some_batches(400, 4), RayOptions())
    next(results)
    processes = our_processes()
    assert len(processes) == 2
    results.close()
    assert gone(processes)
    assert temporary_folders() == before
    assert ray.is_initialized()  # it was there before


def test_an_error_of_the_input_comes_after_the_rows_before_it(pair):
    def damaged():
        yield from some_batches(12, 4)
        raise OSError("the disk is gone")

    kept = []
    with pytest.raises(OSError, match="the disk is gone"):
        kept.extend(run(pair, damaged(), RayOptions()))
    assert [one.number for one in kept] == [0, 1, 2]
    assert gone(our_processes())


def test_code_in_a_stage_runs_only_if_trusted_and_sees_no_gpu(tmp_path):
    environment = keras.layers.Lambda(
        lambda x: (
            x * 0
            + float(__import__("os").environ["CUDA_VISIBLE_DEVICES"])
            + 10 * (__import__("os").environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true")
        ),
        output_shape=(4,),
        name="environment",
    )
    chain(keras.layers.Identity(name="same"), environment).save(tmp_path / "out")
    with pytest.raises(ks.SplitError, match=r"Stage 'stage_1' cannot be loaded: .* pass safe_mode=False"):
        list(run(tmp_path / "out", rows_of_x(2)))
    (result,) = run(tmp_path / "out", rows_of_x(1), safe_mode=False)
    np.testing.assert_array_equal(result.tensors["environment"], np.full((1, 4), 9.0))


def test_states_that_a_restart_would_lose_are_refused(tmp_path):
    x = keras.Input(batch_shape=(1, 3, 2), name="x")
    y = keras.layers.LSTM(2, stateful=True, name="lstm")(keras.layers.Identity(name="same")(x))
    ks.split(keras.Model(x, y, name="states"), ["same"]).save(tmp_path / "out")
    batches = [Batch(0, 0, 1, {"x": np.ones((1, 3, 2), "float32")})]
    with pytest.raises(ks.SplitError, match="Layer 'lstm' of stage 'stage_1' keeps a state"):
        list(run(tmp_path / "out", batches))


def test_batches_are_filled_up_where_the_model_takes_one_size():
    x = keras.Input(batch_shape=(4, 3), name="x")
    flat = keras.ops.reshape(keras.layers.Dense(4, name="stem")(x), (2, 8))
    model = keras.Model(x, keras.ops.reshape(keras.layers.ReLU(name="relu")(flat), (4, 4)), name="fours")
    split, rows = ks.split(model, "stem"), np.random.default_rng(6).normal(size=(6, 3)).astype("float32")
    options = {"engine": "ray", "num_cpus": 0.5}
    np.testing.assert_allclose(split.predict(rows, **options), split.predict(rows), rtol=1e-5, atol=1e-6)


def test_damaged_files_are_noticed_before_anything_starts(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = bytearray((tmp_path / "middle.keras").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "middle.keras").write_bytes(content)
    with pytest.raises(ks.StoreError, match=r"middle\.keras is damaged"):
        run(tmp_path, some_batches(8, 4))
    (tmp_path / "middle.keras").unlink()
    with pytest.raises(ks.StoreError, match="The file of stage 'middle' is missing"):
        run(tmp_path, some_batches(8, 4))
    with pytest.raises(ks.StoreError, match="holds no split"):
        run(tmp_path / "nowhere", some_batches(8, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RayOptions(replicas={"heads": 2}), "`replicas` names 'heads'; the stages are 'head', 'middle'"),
        (RayOptions(replicas=[2, 1]), "`replicas` must be one number for each of 'head', .*; got \\[2, 1\\]"),
        (RayOptions(replicas=2), "`replicas` must be one number for each of .* or numbers by stage name; got 2"),
        (RayOptions(num_cpus={"tails": 2}), "`num_cpus` names 'tails'"),
        (RayOptions(replicas={"head": 0}), r"`replicas\['head'\]` must be a whole number, at least 1; got 0"),
        (RayOptions(in_flight=0), "`in_flight` must be a whole number, at least 1; got 0"),
        (RayOptions(max_retries=-1), "`max_retries` must be a whole number, at least 0; got -1"),
        (RayOptions(max_restarts=1.5), "`max_restarts` must be a whole number, at least 0; got 1.5"),
        (
            RayOptions(num_gpus=-1),
            "`num_gpus` must be .* fraction of 1, at least 0; got -1 for stage 'head'",
        ),
        (RayOptions(num_cpus=0), "`num_cpus` must be a whole number or a fraction of 1, at least 0.001"),
        (RayOptions(num_cpus={"tail": 1.5}), "`num_cpus` must be a whole number or a fraction of 1"),
        (RayOptions(address="192.0.2.1:6379"), "already connected to the Ray cluster at .*, so it"),
    ],
)
def test_options_that_make_no_sense_are_refused(folder, options, message):
    with pytest.raises(ks.SplitError, match=message):
        list(run(folder, some_batches(8, 4), options))


def test_resnet50_at_full_size_gives_the_numbers_of_the_plain_model(applications, tmp_path):
    model = applications("ResNet50", 224)
    split = ks.split(model, ["conv3_block4_out", "conv4_block6_out"])
    split.save(tmp_path / "resnet")
    images = np.random.default_rng(0).uniform(-120, 130, (22, 224, 224, 3)).astype("float32")
    batches = [
        Batch(n, 4 * n, len(part), {split.inputs: part}) for n, part in enumerate(np.split(images, [4, 8, 12, 16, 20]))
    ]
    results = list(run(tmp_path / "resnet", batches))
    compute = compiled(model)
    for batch, result in zip(batches, results, strict=True):
        (expected,) = map(copied, compute(list(batch.tensors.values())))
        np.testing.assert_allclose(result.tensors["predictions"], expected, rtol=1e-4, atol=1e-6)


def run_alone(script: str, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=300,
    )


MUCH = """
    import numpy as np, psutil
    from kerassplit.engines.ray.engine import run
    from kerassplit.engines.route import Batch

    image = np.ones((16, 64, 64, 16), "float32")  # 4 MiB
    batches = (Batch(number, 16 * number, 16, {"x": image * number}) for number in range(300))  # 1.2 GiB
    used = []
    for batch in run(FOLDER, batches):
        assert np.all(batch.tensors["mean"] == batch.number)
        if batch.number % 50 == 49:
            below = psutil.Process().children(recursive=True)
            ours = [psutil.Process(), *(one for one in below if "StageActor" in " ".join(one.cmdline()))]
            assert len(ours) == 3
            used.append(sum(process.memory_full_info().uss for process in ours))
    print((max(used) - used[0]) / 2**20)
"""


def test_memory_stays_the_same_however_many_rows_go_through(tmp_path):
    side = keras.Input((64, 64, 16), name="x")
    halved = keras.layers.AveragePooling2D(2, name="halved")(side)
    mean = keras.layers.GlobalAveragePooling2D(name="mean")(halved)
    ks.split(keras.Model(side, mean, name="means"), ["halved"]).save(tmp_path / "out")
    done = run_alone(MUCH.replace("FOLDER", repr(str(tmp_path / "out"))))
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 150, "mebibytes"


def test_without_ray_the_extra_is_named(folder):
    done = run_alone(f"""
        import sys
        sys.modules["ray"] = None
        from kerassplit.engines.ray.engine import run
        try:
            run({str(folder)!r}, [])
        except ValueError as error:
            print(error)
    """)
    assert 'pip install "kerassplit[ray]"' in done.stdout


ALONE = """
    import logging, os, psutil, sys
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    import numpy as np
    from kerassplit.engines.ray.engine import RayOptions, run
    from kerassplit.engines.route import Batch

    def batches():
        for number in range(12):
            yield Batch(number, number, 1, {"image": np.ones((1, 8, 8, 3), "f4"), "extra": np.ones((1, 4), "f4")})

    for batch in run(FOLDER, batches(), RayOptions(num_cpus=0.3, in_flight=2)):
        print(batch.number, sorted(batch.tensors), flush=True)
        if batch.number == 3:
            below = psutil.Process().children(recursive=True)
            next(one for one in below if "StageActor" in " ".join(one.cmdline())).kill()
    import ray
    print("left", ray.is_initialized(), [one.name() for one in psutil.Process().children(recursive=True)])
"""


def test_a_cluster_of_its_own_is_started_and_stopped_and_nothing_else_is_printed(pair):
    done = run_alone(ALONE.replace("FOLDER", repr(str(pair))), "-W", "error")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    died = [line for line in lines if "died; restarted (1 of 3 times)" in line]
    assert len(died) == 1
    assert [line for line in lines if line not in died] == [
        *(f"{number} ['pool', 'score']" for number in range(12)),
        "left False []",
    ]
    assert "ray" not in done.stderr.lower()


LOSES_A_MACHINE = """
    import logging, psutil, sys
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    import numpy as np
    import ray
    from ray.cluster_utils import Cluster
    from kerassplit.engines.ray.engine import run
    from kerassplit.engines.route import Batch

    def busy(machine):
        (raylet,) = machine.all_processes["raylet"]
        below = psutil.Process(raylet.process.pid).children(recursive=True)
        return any("StageActor" in " ".join(one.cmdline()) for one in below)

    def batches():
        for number in range(20):
            yield Batch(number, number, 1, {"x": np.full((1, 500_000), number, "float32")})

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    machines = [cluster.add_node(num_cpus=2) for _ in range(2)]  # one for the stages, one to spare
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    for batch in run(FOLDER, batches()):
        print("row", batch.number, np.all(batch.tensors["second"] == batch.number), flush=True)
        if batch.number == 5:
            cluster.remove_node(next(filter(busy, machines)), allow_graceful=False)
    ray.shutdown()
    cluster.shutdown()
"""


def test_a_machine_that_is_lost_with_its_tensors_loses_no_rows(tmp_path):
    x = keras.Input((500_000,), name="x")
    second = keras.layers.Identity(name="second")(keras.layers.Identity(name="first")(x))
    ks.split(keras.Model(x, second, name="wide"), ["first"]).save(tmp_path / "wide")
    done = run_alone(LOSES_A_MACHINE.replace("FOLDER", repr(str(tmp_path / "wide"))))
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("row ")]
    assert rows == [f"row {number} True" for number in range(20)]
    assert "died; restarted" in done.stdout
