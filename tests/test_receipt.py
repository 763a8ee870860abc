"""verify: what it finds, what it names."""

import json

import keras
import numpy as np
import pytest
from conftest import NEEDS_STRINGS, copied

import kerassplit as ks


@pytest.fixture
def chain():
    x = inputs = keras.Input((4,), name="x")
    for name in "abcd":
        x = keras.layers.Dense(4, name=name)(x)
    return keras.Model(inputs, x, name="chain")


def test_a_receipt_says_what_was_compared(resnet, images):
    split = ks.split(resnet, ["conv3_block4_out", "conv4_block6_out"])
    receipt = ks.verify(resnet, split, images(resnet))
    assert receipt.ok
    assert receipt.check() is receipt
    assert (receipt.max_difference, receipt.first_difference, receipt.problems) == (0.0, None, ())
    assert [(one.stage, one.tensor, one.is_output) for one in receipt.comparisons] == [
        ("stage_0", "conv3_block4_out", False),
        ("stage_1", "conv4_block6_out", False),
        ("stage_2", "predictions", True),
    ]
    assert receipt.num_calls == 176
    assert receipt.weights_shared == len(resnet.variables)
    assert receipt.weights_equal == 0
    text = str(receipt)
    assert "The stages compute what 'resnet50' computes, bit for bit." in text
    assert "conv3_block4_out" in text
    assert "0 (identical)" in text
    assert json.loads(json.dumps(receipt.to_dict()))["ok"] is True


def test_the_first_stage_that_differs_is_named(chain):
    split = ks.split(chain, ["a", "b", "c"])
    twin = ks.build_submodel(chain, end="b", copy_weights=True)
    wrong = ks.build_submodel(twin, start="a")
    wrong.layers[-1].set_weights([weight + 0.25 for weight in wrong.layers[-1].get_weights()])
    stages = list(split.stages)
    stages[1] = ks.Stage("stage_1", wrong, ("a",), ("b",))
    broken = ks.Split(tuple(stages), split.inputs, split.outputs, split.name, chain)
    receipt = broken.verify()
    assert not receipt.ok
    assert receipt.first_difference == "stage_1"
    assert receipt.max_difference > 0.01
    assert receipt.problems == (
        "Variable 'b/kernel' has other values in its stage than in the model.",
        "Variable 'b/bias' has other values in its stage than in the model.",
    )
    with pytest.raises(ks.VerificationError, match="'stage_1' is the first stage that differs") as error:
        receipt.check()
    assert error.value.receipt is receipt
    assert ks.verify(chain, broken, tolerance=1e6).first_difference is None
    assert not ks.verify(chain, broken, tolerance=1e6).ok  # the weights still differ


def test_a_call_in_two_stages_is_found_though_the_numbers_are_right(chain):
    stages = (
        ks.Stage("one", ks.build_submodel(chain, end=["a", "b"]), ("x",), ("a", "b")),
        ks.Stage("two", ks.build_submodel(chain, start="a"), ("a",), ("d",)),
    )
    receipt = ks.Split(stages, "x", "d", "chain", chain).verify()
    assert receipt.identical
    assert not receipt.ok
    assert receipt.problems == ("'b' is called 1 times in the model and 2 times in the stages (one, two).",)


def test_a_call_that_is_in_no_stage_is_found(chain):
    stages = (ks.Stage("one", ks.build_submodel(chain, end="c"), ("x",), ("c",)),)
    receipt = ks.Split(stages, "x", "c", "chain", chain).verify()
    assert not receipt.ok
    assert receipt.problems == (
        "'d' is called 1 times in the model and 0 times in the stages.",
        "No stage makes the model's output 'd'.",
    )


def test_numbers_that_are_not_numbers_count_as_different():
    inputs = keras.Input((2,), name="x")
    dense = keras.layers.Dense(2, name="a")
    model = keras.Model(inputs, keras.layers.Dense(2, name="b")(dense(inputs)))
    split = ks.split(model, "a")
    copied = ks.build_submodel(model, start="a", copy_weights=True)
    copied.layers[-1].set_weights([np.full((2, 2), np.nan, "float32"), np.zeros(2, "float32")])
    broken = ks.Split((split[0], ks.Stage("stage_1", copied, ("a",), ("b",))), split.inputs, split.outputs, "m", model)
    receipt = broken.verify()
    assert receipt.max_difference == float("inf")
    assert not receipt.ok


def test_a_split_of_another_model_is_refused(chain, resnet):
    with pytest.raises(
        ks.SplitError, match="This is no split of 'chain': the stages make 'conv4_block6_out' and 'predictions'"
    ):
        ks.verify(chain, ks.split(resnet, "conv4_block6_out"))


def test_random_input_fits_integer_inputs():
    tokens = keras.Input((7,), dtype="int32", name="tokens")
    x = keras.layers.Embedding(5, 8, name="embedding")(tokens)
    model = keras.Model(tokens, keras.layers.GlobalAveragePooling1D(name="pool")(x))
    assert ks.split(model, "embedding").verify().identical


def test_state_is_as_it_was_after_verifying():
    class Noise(keras.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.generator = keras.random.SeedGenerator(1)

        def call(self, x):
            return x + keras.random.normal(keras.ops.shape(x), seed=self.generator)

    inputs = keras.Input((5, 4), name="x", batch_size=2)
    x = keras.layers.LSTM(4, stateful=True, return_sequences=True, name="lstm")(Noise(name="noise")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="y")(x))
    before = [copied(variable) for variable in model.variables]
    receipt = ks.split(model, "noise").verify()
    assert receipt.ok
    assert receipt.identical
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, keras.ops.convert_to_numpy(variable), err_msg=variable.path)


@NEEDS_STRINGS
def test_strings_cannot_be_drawn():
    words = keras.Input((1,), dtype="string", name="words")
    x = keras.layers.Hashing(8, name="hash")(words)
    model = keras.Model(words, keras.layers.Embedding(8, 2, name="embedding")(x))
    with pytest.raises(ks.SplitError, match="'words' takes strings: give an input as `x`"):
        ks.split(model, "hash").verify()


def test_names_of_inputs_may_differ():
    def build():
        inputs = keras.Input((4,))  # named by Keras: another name each time
        return keras.Model(inputs, keras.layers.Dense(4, name="b")(keras.layers.Dense(4, name="a")(inputs)))

    model, twin = build(), build()
    twin.set_weights(model.get_weights())
    assert ks.verify(twin, ks.split(model, "a")).identical
