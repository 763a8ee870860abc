"""copy_weights=True: separate layers and variables, with everything that the originals have learned."""

import copy
import pickle

import keras
import numpy as np
import pytest
from comparing import copied, fingerprint, same_bits
from samples import due

import kerassplit as ks
from kerassplit.graph.backends import backend

layers = keras.layers


class TiedDense(keras.Layer):
    """Multiplies by the transposed embedding matrix of another layer."""

    def __init__(self, embedding, **options):
        super().__init__(**options)
        self.matrix = embedding.embeddings

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.matrix))


def test_copies_have_the_values_and_no_variable_in_common():
    x = keras.Input((4,), name="x")
    shared = layers.Dense(4, name="shared")
    model = keras.Model(x, shared(layers.BatchNormalization(name="norm")(shared(x) + 1)))
    model.get_layer("norm").moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    model.get_layer("norm").trainable = False
    before = fingerprint(model)
    copy = ks.build_submodel(model, copy_weights=True)
    data = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    assert same_bits(copy(data), model(data))
    assert len(copy.weights) == len(model.weights)
    assert not {id(variable) for variable in copy.variables} & {id(variable) for variable in model.variables}
    assert not copy.get_layer("norm").trainable
    copy.set_weights([np.zeros(variable.shape) for variable in copy.weights])
    assert not same_bits(copy(data), model(data))
    assert fingerprint(model) == before


def test_a_copied_nested_model_is_a_nested_model_of_its_own():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="dense")], name="inner")
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2, name="last")(inner(x)))
    copy = ks.build_submodel(model, copy_weights=True)
    data = np.ones((2, 4), "float32")
    assert same_bits(copy(data), model(data))
    assert copy.get_layer("inner") is not inner
    inner.get_layer("dense").kernel.assign(np.zeros((4, 3)))
    assert not same_bits(copy(data), model(data))


def test_copies_have_their_adapted_statistics_and_lambdas():
    normalize = layers.Normalization(name="normalize")
    normalize.adapt(np.random.default_rng(0).normal(3, 2, (50, 4)))
    x = keras.Input((4,), name="x")
    model = keras.Model(x, layers.Lambda(lambda value: value * 2, name="double")(normalize(x)[:, 1:]))
    data = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")
    assert same_bits(ks.build_submodel(model, copy_weights=True)(data), model(data))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras looks up vocabularies with TensorFlow")
def test_copies_have_their_vocabulary():
    lookup = layers.IntegerLookup(name="lookup")
    lookup.adapt(np.array([[5], [7], [9]]))
    x = keras.Input((2,), dtype="int64", name="x")
    model = keras.Model(x, layers.Embedding(6, 3, name="embedding")(lookup(x)))
    data = np.array([[5, 9], [1, 7]])
    assert same_bits(ks.build_submodel(model, copy_weights=True)(data), model(data))


def test_copies_that_would_untie_a_variable_are_refused():
    x = keras.Input((4,), dtype="int32", name="x")
    embedding = layers.Embedding(6, 3, name="embedding")
    embedded = embedding(x)
    model = keras.Model(x, TiedDense(embedding, name="tied")(embedded))
    message = "'embedding' and 'tied' share the variable 'embedding/embeddings', and copies of these layers would not"
    with pytest.raises(ks.UnsupportedModelError, match=message):
        ks.build_submodel(model, copy_weights=True)


def test_a_stage_that_cannot_be_copied_to_a_device_says_so_and_runs_without_one():
    x = keras.Input((4,), dtype="int32", name="x")
    embedding = layers.Embedding(6, 3, name="embedding")
    embedded = embedding(x)
    tied = TiedDense(embedding, name="tied")(embedded)
    model = keras.Model(x, layers.Dense(2, name="last")(tied))
    split = ks.split(model, ["tied"])
    data = np.array([[0, 1, 2, 3], [5, 4, 3, 2]], "int32")
    with pytest.raises(ks.UnsupportedModelError) as caught:
        split.predict(data, devices=[backend().devices()[0]], verbose=False)
    assert str(caught.value) == (
        "On a device of its own, stage 'stage_0' would be a copy. 'embedding' and 'tied' share the variable "
        "'embedding/embeddings', and copies of these layers would not.\n"
        "Leave `devices` out; where there are several GPUs, let the process see one (CUDA_VISIBLE_DEVICES)."
    )
    np.testing.assert_allclose(split.predict(data, verbose=False), model.predict(data, verbose=0), rtol=1e-5, atol=1e-6)


def test_training_a_copy_leaves_the_original_as_it_was(small):
    """JAX deletes the arrays of the weights that it trains."""
    before = fingerprint(small)
    copy = ks.flatten(small, copy_weights=True)
    copy.compile("adam", "mse")
    generator = np.random.default_rng(0)
    x = [generator.normal(size=shape).astype("float32") for shape in ((8, 8, 8, 3), (8, 4))]
    y = {"score": np.ones((8, 3), "float32"), "pooled": np.ones((8, 4), "float32")}
    copy.fit(x, y, verbose=0)
    assert fingerprint(small) == before


def _plain():
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.Dense(2, name="out")(layers.Dense(4, name="a")(x)), name="plain"), "a"


def _shared():
    x = keras.Input((4,), name="x")
    shared = layers.Dense(4, name="shared")
    y = layers.BatchNormalization(name="norm")(shared(x))
    return keras.Model(x, {"y": shared(y), "early": y}, name="shared_layers"), "norm"


def _nested():
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="first"), layers.Dense(3, name="second")], name="i"
    )
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.Dense(2, name="last")(inner(x) + 1), name="nested"), "i/first"


def _masked():
    x = keras.Input((4,), dtype="int32", name="x")
    y = layers.Embedding(5, 3, mask_zero=True, name="words")(x)
    y = layers.LSTM(3, return_sequences=True, name="lstm")(y)
    y = layers.MultiHeadAttention(2, 3, name="attention")(y, y)
    return keras.Model(x, layers.GlobalAveragePooling1D(name="pool")(y), name="masked"), ["lstm", "attention"]


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda split: pickle.loads(pickle.dumps(split))}


@pytest.mark.filterwarnings("ignore:Several stages share", "ignore:.*was passed an input with a mask")
@pytest.mark.parametrize("loaded", [False, True], ids=["cut", "loaded"])
@pytest.mark.parametrize("build", due([_plain, _shared, _nested, _masked], 2))
@pytest.mark.parametrize("way", COPIES)
def test_a_copied_split_is_whole_and_independent(way, build, loaded, tmp_path):
    model, at = build()
    split = ks.split(model, at, allow_crossing=True)
    if loaded:
        split.save(tmp_path / "out")
        split = ks.load(tmp_path / "out")
    x = np.array([[1, 2, 3, 0], [4, 0, 0, 0]], model.inputs[0].dtype)
    expected = split.predict(x)
    twin = COPIES[way](split)
    assert [stage.name for stage in twin] == [stage.name for stage in split]
    assert same_bits(twin.predict(x), expected)
    assert twin.verify(x).identical
    ours, theirs = ({id(one) for stage in some for one in stage.model.variables} for some in (twin, split))
    assert not ours & theirs
    assert ours == {id(one) for one in twin.model.variables}
    assert len(twin.shared_variables) == len(split.shared_variables)
    for variable in twin.model.weights:
        variable.assign(np.zeros(variable.shape))
    assert same_bits(split.predict(x), expected)
    assert not same_bits(twin.predict(x), expected)
    assert twin.verify(x).identical


def test_a_copy_and_the_copied_model_belong_together():
    model, at = _plain()
    split = ks.split(model, at)
    twin = copy.deepcopy({"model": model, "split": split})
    assert twin["split"].model is twin["model"]
    assert twin["split"].verify().weights_shared == len(model.variables)


def test_a_shallow_copy_shares_the_stages():
    split = ks.split(*_plain())
    twin = copy.copy(split)
    assert twin.stages is split.stages
    assert twin.model is split.model
    assert twin.verify()
    stage = copy.copy(split[0])
    assert stage.model is split[0].model


@pytest.mark.parametrize("way", COPIES)
def test_a_copied_stage_computes_with_its_own_weights(way):
    stage = ks.split(*_plain())[0]
    x = np.ones((2, 4), "float32")
    before = copied(stage.compiled([x])[0])
    twin = COPIES[way](stage)
    twin.model.set_weights([weight + 1 for weight in twin.model.get_weights()])
    assert same_bits(stage.compiled([x]), [before])
    assert not same_bits(twin.compiled([x]), [before])
    assert (twin.name, twin.inputs, twin.outputs) == (stage.name, stage.inputs, stage.outputs)


def test_stages_of_other_layers_than_the_models_are_copied_as_they_are():
    model, _ = _plain()
    tail = ks.build_submodel(model, start="a", copy_weights=True)
    tail.set_weights([weight + 1 for weight in tail.get_weights()])
    split = ks.split(model, "a")
    mixed = ks.Split((split[0], ks.Stage("tail", tail, ("a",), ("out",))), split.inputs, split.outputs, "m", model)
    x = np.ones((2, 4), "float32")
    twin = copy.deepcopy(mixed)
    assert same_bits(twin(x), mixed(x))
    assert not same_bits(twin(x), twin.model(x))


def test_a_split_of_classes_that_are_registered_nowhere_is_copied():
    class Hidden(layers.Layer):
        def call(self, x):
            return 2 * x

    x = keras.Input((4,), name="x")
    model = keras.Model(x, Hidden(name="hidden")(layers.Dense(3, name="a")(x)))
    assert copy.deepcopy(ks.split(model, "a")).verify()
    model.get_layer("hidden").call = lambda x, training=None: 3 * x
    with pytest.raises(ks.UnsupportedModelError, match="The `call` of 'hidden' has been replaced, and a copy would"):
        copy.deepcopy(ks.split(model, "a"))


def test_what_describes_a_split_and_every_error_can_be_copied_and_pickled():
    model, at = _plain()
    split = ks.split(model, at)
    errors = []
    for wrong in (
        lambda: split["none"],
        lambda: ks.split(model, "b"),
        lambda: ks.verify(model, split, np.full((2, 4), np.nan, "float32")).check(),
        lambda: ks.load("nowhere"),
        lambda: ks.plan(model, 9),
    ):
        with pytest.raises(ks.SplitError) as error:
            wrong()
        errors.append(error.value)
    for way in (copy.copy, *COPIES.values()):
        for one in (split.verify(), split.crossings, ks.explain(model, "a"), ks.plan(model, 2)):
            assert way(one) == one
        (point,) = way(ks.split_points(model))
        assert ks.split(model, point)[0].outputs == ("a",)
        for error in errors:
            twin = way(error)
            assert (type(twin), str(twin), list(vars(twin))) == (type(error), str(error), list(vars(error)))
