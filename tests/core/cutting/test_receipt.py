"""verify: what it finds and reports."""

import importlib
import json
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from applications import NEEDS_STRINGS
from comparing import copied, same_bits

import kerassplit as ks
from kerassplit.engines.running import run_stages


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
        "Variable 'b/kernel' has different values in its stage and in the model.",
        "Variable 'b/bias' has different values in its stage and in the model.",
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
        "No stage computes the model's output 'd'.",
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
        ks.SplitError, match="This is not a split of 'chain': the stages compute 'conv4_block6_out' and 'predictions'"
    ):
        ks.verify(chain, ks.split(resnet, "conv4_block6_out"))


def test_random_input_fits_integer_inputs():
    tokens = keras.Input((7,), dtype="int32", name="tokens")
    x = keras.layers.Embedding(5, 8, name="embedding")(tokens)
    model = keras.Model(tokens, keras.layers.GlobalAveragePooling1D(name="pool")(x))
    assert ks.split(model, "embedding").verify().identical


def test_random_input_has_the_sides_that_are_said():
    x = inputs = keras.Input((None, 4), name="x")
    for layer in (keras.layers.Dense(4, name="a"), keras.layers.Dense(2, name="b")):
        x = layer(keras.ops.add(x, np.ones((12, 4), "float32")))
    split = ks.split(keras.Model(inputs, x, name="twelve"), "a")
    for sides in (12, {"x": (12, 4)}):
        receipt = split.verify(open_sides=sides)
        assert receipt.identical
        assert receipt.comparisons[-1].shape == (2, 12, 2)
    with pytest.raises(ks.SplitError, match="(?s)with 32 for open dimensions, .*Say what stands .* open_sides=N"):
        split.verify()
    with pytest.raises(ks.SplitError, match="`open_sides` names 'y', and the inputs of 'twelve' are 'x'"):
        split.verify(open_sides={"y": (12, 4)})


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


def test_the_state_of_recurrent_layers_in_nested_models_is_as_it_was_too():
    inner = keras.Sequential([keras.Input((5, 4), batch_size=2), keras.layers.LSTM(4, stateful=True)], name="inner")
    inputs = keras.Input((5, 4), name="x", batch_size=2)
    model = keras.Model(inputs, inner(keras.layers.Dense(4, name="a")(inputs)))
    assert ks.split(model, "a").verify().identical
    for state in inner.layers[0].states:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(state), 0)


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


def test_a_receipt_is_true_only_where_it_is_ok(chain):
    split = ks.split(chain, "b")
    assert split.verify()
    other = keras.models.clone_model(chain)
    other.set_weights([weight + 1 for weight in chain.get_weights()])
    failed = ks.verify(other, split)
    assert not failed.ok
    assert not failed


def test_where_nothing_was_compared_the_receipt_says_so(chain):
    split = ks.split(chain, "b")
    for x, why in ((np.zeros((0, 4)), r"hold no numbers \(0 rows\?\)"), (np.full((2, 4), np.nan), "are all NaN")):
        receipt = split.verify(x.astype("float32"))
        assert (receipt.ok, receipt.identical, receipt.compared) == (False, False, False)
        assert "nothing compared" in str(receipt)
        with pytest.raises(ks.VerificationError, match=f"Nothing was compared: on this input, the outputs of .* {why}"):
            receipt.check()


def test_an_output_that_is_nan_alone_is_named():
    x = keras.Input((4,), name="x")
    a = keras.layers.Dense(4, name="a")(x)
    nan = keras.layers.Rescaling(float("nan"), name="nan")(a)
    receipt = ks.split(keras.Model(x, [nan, keras.layers.Dense(2, name="b")(a)]), "a").verify()
    assert receipt.ok
    assert receipt.verdict().endswith("bit for bit. Nothing was compared of 'nan': no numbers, or NaN only.")


@NEEDS_STRINGS
def test_texts_are_compared_as_texts():
    numbers = keras.Input((2,), dtype="int64", name="numbers")
    lookup = keras.layers.StringLookup(vocabulary=["a", "b"], invert=True, name="lookup")
    model = keras.Model(numbers, lookup(keras.layers.Identity(name="same")(numbers)))
    split = ks.split(model, "same")
    assert split.verify().identical
    other = keras.Model(
        numbers,
        keras.layers.StringLookup(vocabulary=["a", "c"], invert=True, name="lookup")(
            keras.layers.Identity(name="same")(numbers)
        ),
    )
    x = np.array([[1, 2]])
    assert ks.verify(other, split, x).first_difference == "stage_1"


class Doubled(keras.Model):
    """A model whose call returns twice what its graph computes."""

    def __call__(self, x, **options):
        return 2 * super().__call__(x, **options)


class Logged(keras.Sequential):
    def __call__(self, *args, **options):
        return super().__call__(*args, **options)


def _doubling(model):
    before = model.call
    model.call = lambda x, **options: 2 * before(x, **options)
    return model


READERS = {
    "split": lambda model: ks.split(model, "b"),
    "split_points": ks.split_points,
    "tap": lambda model: ks.tap(model, "b"),
    "flatten": ks.flatten,
    "build_submodel": lambda model: ks.build_submodel(model, end="b"),
    "profile": ks.profile,
    "join": lambda model: ks.join([model]),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_graph_that_is_not_what_a_call_computes_is_refused(chain, reader):
    read = READERS[reader]
    doubled = Doubled(chain.input, chain.output, name="doubled")
    with pytest.raises(
        ks.UnsupportedModelError, match="'doubled' .* has its own `__call__`, so its graph does not say"
    ):
        read(doubled)
    read(keras.Model(doubled.inputs, doubled.outputs))  # the way out
    layers = [keras.Input((4,)), keras.layers.Dense(4, name="b"), keras.layers.Dense(4, name="c")]
    with pytest.raises(ks.UnsupportedModelError, match=r"'logged' \(Logged\) has its own `__call__`"):
        read(Logged(layers, name="logged"))
    for model in (keras.models.clone_model(chain), keras.Sequential(layers, name="chain")):
        _doubling(model)
        with pytest.raises(ks.UnsupportedModelError, match=r"The `call` of 'chain' .* has been replaced, so its"):
            read(model)
        del model.call  # the way out
        read(model)


def test_a_replaced_call_can_be_traced(chain):
    x = np.ones((2, 4), "float32")
    traced = ks.trace(_doubling(chain), (None, 4))
    assert same_bits(traced(x), chain(x))
    assert ks.split(traced, "b").verify()
    with pytest.raises(ks.UnsupportedModelError, match="has its own `__call__`"):
        ks.trace(Doubled(traced.inputs, traced.outputs), (None, 4))


@pytest.mark.parametrize("change", ["call", "__call__"])
def test_nested_models_that_are_called_in_their_own_way_stay_closed_and_exact(chain, change):
    inner = _doubling(chain) if change == "call" else Doubled(chain.input, chain.output, name="chain")
    x = keras.Input((4,), name="input")
    model = keras.Model(x, keras.layers.Dense(2, name="out")(inner(keras.layers.Dense(4, name="in")(x))))
    data = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    split = ks.split(model, ["in", "chain"])
    assert same_bits(split(data), model(data))
    assert split.verify(data).identical
    assert "chain/b" not in {one.tensor for one in split.verify(data).comparisons}
    with pytest.raises(ks.UnknownTensorError, match="chain/b"):
        ks.split(model, "chain/b")


def test_a_replaced_call_is_neither_copied_nor_saved_without_a_word(chain, tmp_path):
    layer = chain.get_layer("c")
    layer.call = lambda x, training=None: 2 * x
    split = ks.split(chain, "b")
    assert split.verify()
    with pytest.raises(ks.StoreError, match="'stage_1' cannot be saved: the `call` of 'c' has been replaced"):
        split.save(tmp_path / "out")
    with pytest.raises(ks.UnsupportedModelError, match="The `call` of 'c' has been replaced, and a copy would have"):
        ks.build_submodel(chain, copy_weights=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
def test_a_call_that_is_only_compiled_is_no_other(chain):
    backend = importlib.import_module(keras.backend.backend())
    compiler = {"tensorflow": "function", "jax": "jit", "torch": "compile"}[keras.backend.backend()]
    chain.call = getattr(backend, compiler)(chain.call)
    assert ks.split(chain, "b").verify(tolerance=1e-6)


def test_a_model_that_computes_something_other_than_its_graph_is_found(chain):
    class Odd(type(chain)):  # what cannot be seen before
        def _standardize_inputs(self, inputs):
            return [2 * x for x in super()._standardize_inputs(inputs)]

    odd = Odd(chain.inputs, chain.outputs, name="odd")
    receipt = ks.split(odd, "b").verify()
    assert not receipt
    assert receipt.problems == (
        "When called, 'odd' computes something other than its graph: 'd' is not what the calls of its layers return.",
    )
    assert [one.identical for one in receipt.comparisons] == [False, False]  # what it makes on the way is its own, too

    split = ks.split(chain, "b")
    chain.__class__ = type("More", (type(chain),), {"_run_through_graph": lambda self, x, *_, **__: [x, x]})
    receipt = split.verify()
    assert not receipt
    assert receipt.problems == ("When called, 'chain' returns another number of tensors than its graph has outputs.",)


def test_progress_is_shown_on_demand_and_never_where_there_is_no_terminal(chain, capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    split = ks.split(chain, "b")
    assert split.verify(verbose=True)
    shown = capsys.readouterr()
    assert (shown.out, "Verifying chain" in shown.err) == ("", True)
    assert split.verify()
    assert split.verify(verbose=False)
    assert capsys.readouterr() == ("", "")


def test_verifying_runs_the_model_once_and_leaves_it_alone(chain):
    runs = []

    class Counted(type(chain)):
        def _standardize_inputs(self, inputs):
            runs.append(len(inputs))
            return super()._standardize_inputs(inputs)

    counted = Counted(chain.inputs, chain.outputs, name="counted")
    before = [(vars(node.arguments).copy(), node) for layer in counted.layers for node in layer._inbound_nodes]
    receipt = ks.split(counted, ["a", "b"]).verify()
    assert receipt.identical
    assert [one.tensor for one in receipt.comparisons] == ["a", "b", "d"]
    assert runs == [1]
    assert all(vars(node.arguments) == attributes for attributes, node in before)


def test_two_threads_verify_one_model_at_once(chain):
    splits = [ks.split(chain, name) for name in "abcabc"]
    with ThreadPoolExecutor(len(splits)) as threads:
        assert all(receipt.identical for receipt in threads.map(lambda split: split.verify(), splits))
    assert not any("fill_in" in vars(node.arguments) for layer in chain.layers for node in layer._inbound_nodes)


def passing_on(dtype="float32"):
    f, g = keras.Input((2,), name="f", dtype=dtype), keras.Input((1,), name="g")
    h = keras.layers.Add(name="add")([keras.layers.Dense(2, name="h")(f), keras.layers.Dense(2, name="more")(g)])
    return keras.Model([f, g], {"y": keras.layers.Dense(2, name="y")(h), "f": f, "g": [g]}, name="passing_on")


@pytest.mark.parametrize("given", ["float64", "int64", "float16"])
@pytest.mark.parametrize("taken", ["float32", "float16"])
def test_outputs_that_are_inputs_are_given_as_the_model_gives_them_and_compared(given, taken, tmp_path):
    model = passing_on(taken)
    split = ks.split(model, "add")
    x = [np.arange(6).reshape(3, 2).astype(given), np.arange(3).reshape(3, 1).astype(given)]
    split.save(tmp_path / "out")
    expected = model(x)
    ran = run_stages(tmp_path / "out", {"f": x[0], "g": x[1]}, tmp_path / "y.npy").results
    for one in (split(x), split.predict(x), split.predict(x, batch_size=2), ks.load(tmp_path / "out")(x), ran):
        assert same_bits(one["f"], expected["f"])
        assert same_bits(one["g"][0], expected["g"][0])
    assert same_bits(split([x[0], x[1][:, 0]])["g"][0], model([x[0], x[1][:, 0]])["g"][0])  # Keras adds the side
    receipt = split.verify(x)
    assert receipt.identical
    assert [(one.stage, one.tensor, one.is_output, one.dtype) for one in receipt.comparisons] == [
        ("(input)", "f", True, taken),
        ("(input)", "g", True, "float32"),
        ("stage_0", "add", False, "float32"),
        ("stage_1", "y", True, "float32"),
    ]


def test_an_input_that_another_model_gives_out_as_another_type_is_found():
    receipt = ks.verify(
        passing_on("float16"), ks.split(passing_on("float32"), "add"), [np.ones((3, 2)), np.ones((3, 1))]
    )
    assert receipt.comparisons[0].tensor == "f"
    assert not receipt.comparisons[0].identical
    assert not receipt.identical


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning")
@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_variables_that_keras_loads_in_another_order_are_compared_by_name(mode, chain, tmp_path):
    chain.quantize(mode)
    ks.split(chain, "b").save(tmp_path / "out")
    loaded = ks.load(tmp_path / "out")
    receipt = ks.verify(chain, loaded)
    assert receipt.identical
    assert (receipt.problems, receipt.weights_equal) == ((), len(chain.weights))
    bias = next(one for one in loaded[1].model.get_layer("c").weights if one.name == "bias")
    bias.assign(bias + 1)
    assert ks.verify(chain, loaded).problems == (
        "Variable 'c/bias' has different values in its stage and in the model.",
    )
