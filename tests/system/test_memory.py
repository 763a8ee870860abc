"""However many sub-models and graphs are created, memory stays flat and no node is left behind.

Each test counts in a new process: the memory of a process with a long history is meaningless.
"""

import json
import os
import subprocess
import sys
import textwrap

from checkout import ROOT, SUPPORT

COUNTING = """
    import gc, json
    import keras, psutil

    def counted(make, rounds, builds):
        \"\"\"Mebibytes of this process and objects that Python tracks, after each round of builds.\"\"\"
        found = []
        for _ in range(rounds):
            for _ in range(builds):
                make()
            for _ in range(10):  # what a dead model has nested goes one level a round
                gc.collect()
            found.append((psutil.Process().memory_info().rss / 2**20, len(gc.get_objects())))
        return found
"""

TAILS = """
    import kerassplit as ks
    from comparing import fingerprint
    from kerassplit.zoo.models import load_model

    model = load_model("ResNet50", weights="random", seed=7, input_shape=(64, 64, 3))
    before = fingerprint(model)
    found = counted(lambda: ks.build_submodel(model, start="conv2_block1_out"), 5, 200)
    print(json.dumps([*found, fingerprint(model) == before]))
"""

GRAPHS = """
    import numpy as np
    from kerassplit import trace

    class Block(keras.layers.Layer):
        def __init__(self, name):
            super().__init__(name=name)
            self.conv = keras.layers.Conv2D(4, 3, padding="same", name="conv")
            self.norm = keras.layers.BatchNormalization(name="norm")
            self.relu = keras.layers.ReLU(name="relu")

        def call(self, x):
            return self.relu(x + self.norm(self.conv(x)))

    class Model(keras.Model):
        def __init__(self):
            super().__init__(name="resnet")
            self.blocks = [Block(f"block_{number}") for number in range(3)]
            self.top = keras.layers.Dense(3, name="top")

        def call(self, x):
            for block in self.blocks:
                x = block(x)
            return self.top(keras.ops.mean(x, axis=(1, 2)))

    model, x = Model(), np.ones((2, 6, 6, 4), "float32")
    model(x)
    print(json.dumps(counted(lambda: trace(model, x, open="block_*"), 5, 15)))
"""


def numbers_of(code):
    """Returns what code prints as JSON in a new process."""
    command = [sys.executable, "-c", textwrap.dedent(COUNTING) + textwrap.dedent(code)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), str(ROOT)])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def assert_flat(rounds, megabytes):
    """Checks that nothing is added after the first round, in which Keras and Python fill their caches."""
    (first, objects), *_, (last, objects_last) = rounds
    assert last - first < megabytes, rounds
    assert objects_last - objects < 100, rounds


def test_a_thousand_tails_leave_every_node_list_as_it_was_and_memory_flat():
    *rounds, alike = numbers_of(TAILS)
    assert alike
    assert_flat(rounds, 8)


def test_memory_stays_flat_over_many_graphs():
    assert_flat(numbers_of(GRAPHS), 40)
