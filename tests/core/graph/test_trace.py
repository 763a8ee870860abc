"""`trace` turns subclassed models and composite layers into equivalent graphs, and reports what it cannot trace."""

import gc
import inspect
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from comparing import copied, same_bits
from gradients import gradients
from keras import layers, ops
from samples import due

import kerassplit as ks
from kerassplit.errors import SplitError, UnknownTensorError, UnsupportedModelError
from kerassplit.graph.tracing.trace import trace
from kerassplit.graph.unsupported import why_no_graph

BACKEND = keras.backend.backend()
TOKENS = np.array([[3, 1, 4, 1, 0, 0], [5, 2, 6, 0, 0, 0]], "int32")  # 0 is padding
register = keras.saving.register_keras_serializable("test_trace")


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([13, seed]).normal(size=shape).astype("float32")


@register
class Perceptron(keras.Model):
    def __init__(self, **options: Any):
        super().__init__(**options)
        self.hidden = layers.Dense(6, activation="relu", name="hidden")
        self.score = layers.Dense(2, name="score")

    def call(self, x):
        x = self.hidden(x) * 2
        return self.score(x + 1) - 0.5


@register
class Residual(layers.Layer):
    def __init__(self, filters=4, **options: Any):
        super().__init__(**options)
        self.filters = filters
        self.conv = layers.Conv2D(filters, 3, padding="same", name="conv")
        self.norm = layers.BatchNormalization(name="norm")
        self.drop = layers.Dropout(0.25, seed=3, name="drop")

    def call(self, x, training=None):
        y = self.drop(self.norm(self.conv(x), training=training), training=training)
        return ops.relu(x + y)

    def get_config(self):
        return super().get_config() | {"filters": self.filters}


class Resnet(keras.Model):
    def __init__(self, **options: Any):
        super().__init__(**options)
        self.stem = layers.Conv2D(4, 3, padding="same", name="stem")
        self.blocks = [Residual(name=f"block_{number}") for number in range(3)]
        self.score = layers.Dense(2, name="score")

    def call(self, images, training=None):
        x = self.stem(images)
        for block in self.blocks:
            x = block(x, training=training)
        pooled = ops.mean(x, axis=(1, 2))
        return [self.score(pooled), pooled]


@register
class Attending(layers.Layer):
    """A transformer layer that uses the mask on its input."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.supports_masking = True
        self.attention = layers.MultiHeadAttention(2, 4, dropout=0.25, seed=1, name="attention")
        self.norm = layers.LayerNormalization(name="norm")
        self.feed = layers.Dense(8, activation="relu", name="feed")
        self.drop = layers.Dropout(0.25, seed=2, name="drop")
        self.last_norm = layers.LayerNormalization(name="last_norm")

    def call(self, x, mask=None, training=None):
        allowed = None if mask is None else mask[:, None, :]
        x = self.norm(x + self.attention(x, x, attention_mask=allowed, training=training))
        return self.last_norm(x + self.drop(self.feed(x), training=training))


class Encoder(keras.Model):
    def __init__(self, **options: Any):
        super().__init__(**options)
        self.table = layers.Embedding(10, 8, mask_zero=True, name="table")
        self.attending = [Attending(name=f"transformer_layer_{number}") for number in range(2)]
        self.score = layers.Dense(3, name="score")

    def call(self, tokens, training=None):
        x = self.table(tokens)
        for layer in self.attending:
            x = layer(x, training=training)
        return {"sequence": x, "score": self.score(x[:, 0])}


@register
class Stage(layers.Layer):
    """Composite layers within a composite layer."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.one = Residual(name="one")
        self.other = Residual(name="other")

    def call(self, x):
        return self.other(self.one(x)) + x


class Holder(layers.Layer):
    def __init__(self, held, **options: Any):
        super().__init__(**options)
        self.held = held

    def call(self, x):
        return self.held(ops.relu(x))


class Deep(keras.Model):
    def __init__(self, **options: Any):
        super().__init__(**options)
        self.stage = Stage(name="stage")
        self.late_stage = Stage(name="late_stage")

    def call(self, x):
        return self.late_stage(self.stage(x))


class Placed(layers.Layer):
    """Tokens and their positions, as in Keras's examples."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.token = layers.Embedding(10, 4, name="token")
        self.place = layers.Embedding(9, 4, name="place")

    def call(self, ids):
        places = ops.arange(start=0, stop=ops.shape(ids)[-1], step=1)
        return self.token(ids) + self.place(inputs=places)


class Positions(keras.Model):
    """Layers called on constants: by position, by name, with a mask, whole models, in a composite layer."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.placed = Placed(name="placed")
        self.place = layers.Embedding(6, 4, name="place")
        self.state = layers.GRU(4, name="state")
        self.slope = keras.Sequential([layers.Dense(3), layers.Dropout(0.5, seed=1), layers.Dense(4)], name="slope")
        self.drop = layers.Dropout(0.5, seed=2, name="drop")
        self.score = layers.Dense(2, name="score")

    def call(self, ids, training=None):
        x = self.placed(ids) + self.place(ops.arange(6))
        slopes = self.slope(ops.cast(ops.arange(6), "float32")[:, None] / 7, training=training)
        kept = self.state(np.ones((1, 3, 4)), mask=np.array([[True, True, False]]))
        return self.score(self.drop(x * slopes, training=training) + kept + self.place(np.arange(6, dtype="int64")))


def built(model: Any, x: Any) -> Any:
    """Returns the model or layer, called once, with random weights."""
    model(x)
    for seed, variable in enumerate(model.weights):
        drawn = floats(*variable.shape, seed=seed) / 2
        variable.assign(np.abs(drawn) + 0.5 if "variance" in variable.name else drawn)
    return model


def perceptron() -> tuple[Any, Any]:
    return built(Perceptron(name="perceptron"), floats(2, 5)), floats(2, 5)


def resnet_like() -> tuple[Any, Any]:
    images = floats(2, 6, 6, 3)
    return built(Resnet(name="resnet"), images), images


def encoder() -> tuple[Any, Any]:
    return built(Encoder(name="encoder"), TOKENS), TOKENS


def positions() -> tuple[Any, Any]:
    return built(Positions(name="positions"), TOKENS), TOKENS


def deep() -> tuple[Any, Any]:
    images = floats(2, 6, 6, 4)
    return built(Deep(name="deep"), images), images


ALL = pytest.mark.parametrize(
    ("make", "opened"),
    due(
        [
            (perceptron, ()),
            (resnet_like, ()),
            (resnet_like, "block_*"),
            (encoder, ()),
            (encoder, "transformer_layer_*"),
            (positions, ()),
            (positions, "placed"),
            (deep, "stage"),
            (deep, "*/*"),
        ],
        2,
    ),
)


def states(model: Any) -> list[np.ndarray]:
    return [copied(variable) for variable in model.variables]


def in_training(model: Any, x: Any, run: Any = None) -> tuple[Any, list[np.ndarray]]:
    """Returns the result of `run` in training mode and the variables after it, which are restored."""
    before = states(model)
    keras.utils.set_random_seed(5)  # torch draws dropout from its own generator
    outputs = (run or model)(x, training=True)
    after = states(model)
    for variable, value in zip(model.variables, before, strict=True):
        variable.assign(value)
    return outputs, after


def nodes(model: Any) -> list[tuple[int, int]]:
    return [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model._flatten_layers()]


def collect() -> None:
    """Nested models are freed after the model around them."""
    for _ in range(4):
        gc.collect()


@ALL
def test_the_graph_gives_the_models_outputs_bit_for_bit_with_its_own_layers_and_variables(make, opened):
    model, x = make()
    graph = trace(model, x, open=opened)
    assert same_bits(graph(x), model(x))
    assert {id(variable) for variable in graph.variables} == {id(variable) for variable in model.variables}
    assert graph.name == model.name
    keras.tree.assert_same_structure(graph(x), model(x))


@ALL
def test_training_mode_gradients_and_batch_norm_updates_are_the_models(make, opened):
    model, x = make()
    graph = trace(model, x, open=opened)
    expected, updated = in_training(model, x)
    outputs, own = in_training(model, x, run=graph)
    assert same_bits(outputs, expected)
    assert same_bits(own, updated)
    if opened != () and make is not encoder:
        assert not same_bits(updated, states(model))  # there are statistics to update

    def loss(run: Any) -> Callable[[], Any]:
        return lambda: sum(ops.mean(ops.square(one)) for one in keras.tree.flatten(run(x, training=False)))

    ours, theirs = (
        {id(v): g for v, g in zip(one.trainable_variables, gradients(one, loss(one)), strict=True)}
        for one in (graph, model)
    )
    assert all(same_bits(ours[key], theirs[key]) for key in theirs if theirs[key] is not None)


@ALL
def test_every_split_of_the_graph_gives_the_models_outputs(make, opened):
    model, x = make()
    graph = trace(model, x, open=opened)
    points = [point.name for point in ks.split_points(graph)]
    assert points
    for name in due(points, 3):
        try:
            split = ks.split(graph, [name])
        except ks.UnsupportedModelError as error:  # the layers of opened layers may bear one name
            assert re.match(r"Two different layers are called '(place|norm|conv|drop|relu)' ", str(error)), error
            continue
        assert same_bits(split(x), model(x)), name
        assert split.verify(x).check().identical


def test_calls_have_names_that_say_where_they_are_and_are_the_same_each_time():
    model, x = deep()
    expected = [
        "stage/one/conv", "stage/one/norm", "stage/one/drop", "stage/one/add", "stage/one/relu",
        "stage/other/conv", "stage/other/norm", "stage/other/drop", "stage/other/add", "stage/other/relu",
        "stage/add",
    ]  # fmt: skip
    for _ in range(2):
        graph = trace(model, x, open="stage/*")
        head = ks.build_submodel(graph, end="stage/add")
        assert same_bits(head(x), model.stage(x))
        for name in expected:
            assert ks.explain(graph, name).name == name
        ops.add(keras.Input((3,)), 1)  # Keras counts its names through the whole process


def test_raw_operations_are_numbered_within_the_graph_and_past_the_users_names():
    class Named(keras.Model):
        def __init__(self):
            super().__init__(name="named")
            self.mine = layers.Dense(3, name="add_1")

        def call(self, x):
            return ops.sigmoid(self.mine(x + 1) + 2 + ops.tanh(x[:, :1]))

    model, x = built(Named(), floats(2, 3)), floats(2, 3)
    names = [operation.name for operation in trace(model, x).operations]
    assert sorted(names) == ["add", "add_1", "add_2", "add_3", "get_item", "sigmoid", "tanh", "x"]
    assert model.mine.name == "add_1"


def test_a_layer_called_twice_and_opened_is_one_nested_model():
    class Twice(keras.Model):
        def __init__(self):
            super().__init__(name="twice")
            self.block = Residual(3, name="block")

        def call(self, pair):
            wide, narrow = pair
            return ops.mean(self.block(wide), axis=(1, 2)) + ops.mean(self.block(narrow), axis=(1, 2))

    x = (floats(2, 6, 6, 3), floats(2, 4, 6, 3))
    model = built(Twice(), x)
    graph = trace(model, x, open="block")
    nested = graph.get_layer("block")
    assert [layer.name for layer in graph.layers if layer is nested] == ["block"]
    assert nested.input_shape == (None, None, 6, 3)
    assert same_bits(graph(x), model(x))
    assert ks.explain(graph, "block@1/norm").name == "block@1/norm"


def test_a_shared_layer_keeps_its_calls_apart():
    class Shared(keras.Model):
        def __init__(self):
            super().__init__(name="shared")
            self.dense = layers.Dense(4, name="dense")

        def call(self, x):
            return self.dense(ops.relu(self.dense(x)))

    model, x = built(Shared(), floats(2, 4)), floats(2, 4)
    graph = trace(model, x)
    assert [point.name for point in ks.split_points(graph)] == ["dense@0", "relu"]
    assert same_bits(graph(x), model(x))


def test_an_opened_layer_is_a_nested_model_of_its_name_and_the_others_stay_one_call():
    model, x = resnet_like()
    graph = trace(model, x, open=["block_1"])
    assert isinstance(graph.get_layer("block_1"), keras.Model)
    assert graph.get_layer("block_0") is model.blocks[0]
    names = [point.name for point in ks.split_points(graph)]
    assert names[:2] == ["stem", "block_0"]
    assert "block_1/relu" in names


def test_keras_own_composites_are_opened_by_their_full_names_only():
    model, x = encoder()
    closed = trace(model, x, open="transformer_layer_*")
    attention = closed.get_layer("transformer_layer_0").get_layer("attention")
    assert attention is model.attending[0].attention
    graph = trace(model, x, open="transformer_layer_0/attention")
    opened = graph.get_layer("transformer_layer_0").get_layer("attention")
    assert opened.get_layer("query") is attention.query_dense


def test_a_composite_layer_alone_is_traced_as_a_model_is():
    images = floats(2, 6, 6, 4)
    layer = built(Stage(name="stage"), images)
    graph = trace(layer, images, open="one")
    assert isinstance(graph, keras.Model)
    assert same_bits(graph(images), layer(images))
    points = {point.name: point.also for point in ks.split_points(graph)}
    assert points["one/relu"] == ("x",)  # the shortcut
    explanation = ks.explain(graph, "one/conv")
    assert (explanation.crossing, explanation.also) == (("one/conv",), ("x",))


@pytest.mark.parametrize("inputs", ["arrays", "symbols", "shapes"])
def test_inputs_are_arrays_symbolic_tensors_or_shapes_in_the_structure_that_call_takes(inputs):
    class Two(keras.Model):
        def __init__(self):
            super().__init__(name="two")
            self.image = layers.Dense(3, name="image_dense")
            self.text = layers.Embedding(10, 3, name="text_table")

        def call(self, data):
            return {"sum": self.image(data["image"]) + ops.mean(self.text(data["text"]), axis=1)}

    x = {"image": floats(2, 4), "text": TOKENS}
    model = built(Two(), x)
    given = {
        "arrays": x,
        "symbols": {"image": keras.Input((4,)), "text": keras.Input((6,), dtype="int32")},
        "shapes": {"image": (None, 4), "text": (None, 6)},
    }[inputs]
    graph = trace(model, given)
    assert {key: tuple(symbol.shape) for key, symbol in graph.input.items()} == {"image": (None, 4), "text": (None, 6)}
    assert [symbol.name for symbol in graph.inputs] == ["image", "text"]
    assert graph.input["text"].dtype == ("float32" if inputs == "shapes" else "int32")
    assert same_bits(graph(x), model(x))


def test_lists_and_tuples_of_inputs_are_named_after_the_argument():
    class Pair(keras.Model):
        def __init__(self):
            super().__init__(name="pair")
            self.dense = layers.Dense(3, name="dense")

        def call(self, pair):
            return self.dense(pair[0]), pair[1] * 2

    x = [floats(2, 4), floats(2, 2)]
    model = built(Pair(), x)
    graph = trace(model, x)
    assert [symbol.name for symbol in graph.inputs] == ["pair_0", "pair_1"]
    assert isinstance(graph(x), tuple)
    assert same_bits(graph(x), model(x))


def test_tensors_by_keyword_become_inputs_by_name_and_constants_stay():
    class Masked(layers.Layer):
        def __init__(self):
            super().__init__(name="masked")
            self.attention = layers.MultiHeadAttention(2, 3, name="attention")

        def call(self, x, allowed=None, scale=1.0):
            return self.attention(x, x, attention_mask=allowed) * scale

    x, allowed = floats(2, 5, 4), np.tri(5, dtype="bool")[None].repeat(2, 0)
    layer = built(Masked(), x)
    graph = trace(layer, x, allowed=allowed, scale=0.5)
    assert {key: symbol.dtype for key, symbol in graph.input.items()} == {"x": "float32", "allowed": "bool"}
    assert same_bits(graph({"x": x, "allowed": allowed}), layer(x, allowed=allowed, scale=0.5))
    assert not same_bits(graph({"x": x, "allowed": allowed}), layer(x, scale=0.5))


def test_a_functional_model_keeps_its_inputs_and_only_what_is_named_is_opened():
    image = keras.Input((6, 6, 4), name="image")
    model = keras.Model(image, Stage(name="stage")(layers.ReLU(name="relu")(image)), name="whole")
    x = floats(2, 6, 6, 4)
    built(model, x)
    for opened, name in ((), "stage"), ("stage", "stage/one"), ("stage/one", "stage/one/conv"):
        graph = trace(model, open=opened)
        assert graph.input.name == "image"
        assert ks.explain(graph, name).name.startswith(name)
        assert same_bits(graph(x), model(x))


def test_composites_inside_nested_functional_and_sequential_models_are_opened():
    class Around(keras.Model):
        def __init__(self):
            super().__init__(name="around")
            image = keras.Input((6, 6, 4), name="image")
            self.backbone = keras.Model(image, Residual(name="block")(image) + 1, name="backbone")
            self.tail = keras.Sequential([Residual(name="last")], name="tail")

        def call(self, x, training=None):
            return self.tail(self.backbone(x, training=training), training=training)

    x = floats(2, 6, 6, 4)
    model = built(Around(), x)
    closed = trace(model, x)
    assert closed.get_layer("backbone") is model.backbone
    graph = trace(model, x, open=["backbone/*", "tail/last"])
    assert ks.explain(graph, "backbone/block/conv").name == "backbone/block/conv"
    assert ks.explain(graph, "tail/last/conv").name == "tail/last/conv"
    assert same_bits(graph(x), model(x))
    expected, updated = in_training(model, x)
    assert all(map(same_bits, in_training(model, x, run=graph), (expected, updated)))


def test_the_dtype_policy_and_the_casts_of_mixed_precision_are_kept():
    class Mixed(keras.Model):
        def __init__(self):
            super().__init__(name="mixed", dtype="mixed_bfloat16")
            self.block = Holder(layers.Dense(3, dtype="float32", name="exact"), name="block", dtype="mixed_bfloat16")
            self.score = layers.Dense(2, dtype="float32", name="score")

        def call(self, x):
            return self.score(self.block(x))

    x = floats(2, 6, 6, 4)
    model = built(Mixed(), x)
    for opened in (), "block":
        graph = trace(model, x, open=opened)
        assert graph.dtype_policy.name == "mixed_bfloat16"
        assert graph.input.dtype == "float32"
        assert same_bits(graph(x), model(x))


def test_a_traced_model_is_saved_and_loaded_with_its_names(tmp_path):
    model, x = resnet_like()
    graph = trace(model, x, open="block_*")
    graph.save(tmp_path / "graph.keras")
    loaded = keras.saving.load_model(tmp_path / "graph.keras")
    assert same_bits(loaded(x), model(x))
    assert [point.name for point in ks.split_points(loaded)] == [point.name for point in ks.split_points(graph)]


class Doubled:
    """Mixin for Sequential and functional models whose own `call` doubles the result."""

    def call(self, x, training=None, mask=None):
        return super().call(x, training=training) * 2  # type: ignore[misc]


def doubled_functional() -> keras.Model:
    inputs = keras.Input((5,))
    hidden = layers.Dropout(0.5, seed=1)(layers.Dense(4, name="hidden")(inputs))
    return type("Graph", (Doubled, keras.Model), {})(inputs, layers.Dense(2, name="score")(hidden), name="doubled")


def doubled_sequential(*first: Any) -> keras.Model:
    own = [layers.Dense(4, name="hidden"), layers.Dropout(0.5, seed=1), layers.Dense(2, name="score")]
    return type("Chain", (Doubled, keras.Sequential), {})([*first, *own], name="doubled")


@pytest.mark.parametrize(
    "make", [doubled_functional, doubled_sequential, lambda: doubled_sequential(keras.Input((5,)))]
)
def test_a_sequential_or_functional_model_with_a_call_of_its_own_is_told_so_and_traced(make):
    x = floats(2, 5)
    model = built(make(), x)
    with pytest.raises(UnsupportedModelError) as caught:
        ks.split_points(model)
    assert str(caught.value) == (
        f"Model 'doubled' ({type(model).__name__}) computes in its own `call`, so it has no graph that can be cut. "
        "Turn it into a graph: `kerassplit.trace(model, inputs)`."
    )
    graph = trace(model, x)
    assert same_bits(graph(x), model(x))
    assert same_bits(in_training(graph, x), in_training(model, x))
    assert same_bits(ks.split(graph, ["hidden"])(x), model(x))


def test_layers_called_on_constants_are_in_the_graph_with_their_weights_and_in_its_file(tmp_path):
    model, x = positions()
    graph = trace(model, x, open="placed")
    layer = graph.get_layer("place")
    assert layer is model.place
    assert len(layer._inbound_nodes) == 2
    before = copied(layer.embeddings)
    graph.compile("sgd", "mse")
    graph.fit(x, np.ones((2, 6, 2)), verbose=0)
    assert np.abs(before - copied(layer.embeddings)).min() > 0
    graph.save(tmp_path / "graph.keras")
    assert same_bits(keras.saving.load_model(tmp_path / "graph.keras")(x), graph(x))


class Counting(keras.Model):
    """Embeds tokens and their positions, which `places` computes."""

    def __init__(self, places: Callable[[Any], Any]):
        super().__init__(name="counting")
        self.token = layers.Embedding(10, 4, name="token")
        self.place = layers.Embedding(9, 4, name="place")
        self.places = places

    def call(self, ids):
        return self.token(ids) + self.place(self.places(ids))


@pytest.mark.parametrize(
    "places",
    [
        lambda ids: ops.arange(ops.shape(ids)[1]),
        lambda ids: ops.arange(0, ops.shape(ids)[-1], 1),
        lambda ids: ops.arange(start=0, stop=ops.shape(ids)[1], dtype="int16"),
        lambda ids: ops.arange(3, 3 + ops.shape(ids)[1]),
        lambda ids: ops.expand_dims(ops.arange(1, ops.shape(ids)[1]), 0)[:, :1],
    ],
)
@pytest.mark.parametrize("length", [6, None])
def test_constants_as_long_as_an_input_are_so_whether_its_length_is_known_or_not(places, length, tmp_path):
    model = built(Counting(places), TOKENS)
    graph = trace(model, keras.KerasTensor((None, length), "int32"))
    graph.save(tmp_path / "graph.keras")
    loaded = keras.saving.load_model(tmp_path / "graph.keras")
    stages = ks.split(graph, [ks.split_points(graph)[-1].name]) if ks.split_points(graph) else graph
    for x in [TOKENS] if length else [TOKENS, TOKENS[:, :4], TOKENS[:1, :2]]:
        assert same_bits(graph(x), model(x))
        assert same_bits(loaded(x), model(x))
        assert same_bits(stages(x), model(x))
    assert graph.output_shape == (None, length, 4)


@pytest.mark.parametrize(
    ("places", "line", "remedy"),
    [
        (lambda ids: ops.arange(ids.shape[1]), "ops.arange(ids.shape[1])", "take it from `keras.ops.shape`"),
        (lambda ids: ops.arange(0, ops.shape(ids)[1], 2)[:1], "ops.shape(ids)[1], 2)", "count from 0 in steps of 1"),
        (lambda ids: ops.arange(ops.shape(ids)[1] * 2)[:6], "[1] * 2)", "state that dimension in `inputs`"),
        (lambda ids: ops.arange(6)[: ops.shape(ids)[1] + 1], "[1] + 1]", "state that dimension in `inputs`"),
    ],
)
def test_what_cannot_be_counted_along_an_open_side_is_refused_with_its_line(places, line, remedy):
    model = built(Counting(places), TOKENS)
    with pytest.raises(
        UnsupportedModelError, match=r"computes with an unknown dimension of a shape \(`None`\)"
    ) as caught:
        trace(model, keras.KerasTensor((None, None), "int32"))
    assert line in str(caught.value)
    assert remedy.lower() in str(caught.value).lower()
    assert same_bits(trace(model, TOKENS)(TOKENS), model(TOKENS))


def test_an_input_that_only_constants_lean_on_is_refused():
    class Still(keras.Model):
        def __init__(self):
            super().__init__(name="still")
            self.place = layers.Embedding(9, 4, name="place")

        def call(self, ids):
            return self.place(ops.arange(6))

    with pytest.raises(UnsupportedModelError, match="It computes nothing with 'ids'"):
        trace(built(Still(), TOKENS), TOKENS)


def test_a_layer_made_in_call_is_named_within_the_graph():
    class Loose(keras.Model):
        def __init__(self):
            super().__init__(name="loose")
            self.dense = layers.Dense(3, name="dense")

        def call(self, x):
            return layers.Add()([self.dense(x), layers.ReLU()(x)])

    model, x = built(Loose(), floats(2, 3)), floats(2, 3)
    for _ in range(2):
        graph = trace(model, x)
        assert [operation.name for operation in graph.operations] == ["x", "dense", "re_lu", "add"]
        assert same_bits(graph(x), model(x))


# Training


class Deciding(keras.Model):
    def __init__(self):
        super().__init__(name="deciding")
        self.dense = layers.Dense(3, name="dense")

    def call(self, x, training=None):
        x = self.dense(x)
        if training:
            x = x * 0.5
        return x


class Frozen(keras.Model):
    def __init__(self, training=False):
        super().__init__(name="frozen")
        self.norm = layers.BatchNormalization(name="norm")
        self.drop = layers.Dropout(0.5, seed=1, name="drop")
        self.fixed = training

    def call(self, x, training=None):
        return self.drop(self.norm(x, training=False), training=training)


def test_a_call_that_does_something_else_in_training_needs_to_be_told_which():
    model, x = built(Deciding(), floats(2, 4)), floats(2, 4)
    with pytest.raises(UnsupportedModelError) as caught:
        trace(model, x)
    assert at(Deciding.call, "if training:") in str(caught.value)
    assert "computes something different in training than in inference" in str(caught.value)
    assert "`kerassplit.trace(model, inputs, training=False)`" in str(caught.value)
    assert same_bits(trace(model, x, training=False)(x), model(x, training=False))
    assert same_bits(trace(model, x, training=True)(x), model(x, training=True))


def test_a_layer_with_training_fixed_needs_the_graph_of_one_mode():
    model, x = built(Frozen(), floats(2, 4)), floats(2, 4)
    with pytest.raises(UnsupportedModelError) as caught:
        trace(model, x)
    assert "calls 'norm' with training=False whatever the model's own `training` is" in str(caught.value)
    assert at(Frozen.call, "training=False") in str(caught.value)
    graph = trace(model, x, training=True)
    expected = in_training(model, x)
    outcome = in_training(model, x, run=lambda x, training: graph(x))
    assert all(map(same_bits, outcome, expected))


def test_a_model_that_trains_unless_told_otherwise_does_so_as_a_graph():
    class Eager(keras.Model):
        def __init__(self):
            super().__init__(name="eager")
            self.norm = layers.BatchNormalization(name="norm")
            self.block = Residual(name="block")

        def call(self, x, training=True):
            return self.block(self.norm(x, training=training), training=training)

    model, x = built(Eager(), floats(2, 6, 6, 4)), floats(2, 6, 6, 4)
    graph = trace(model, x, open="block")
    for options in {}, {"training": False}, {"training": True}:
        expected = in_training(model, x, run=lambda x, training, o=options: model(x, **o))
        assert all(map(same_bits, in_training(model, x, run=lambda x, training, o=options: graph(x, **o)), expected))


# What cannot be traced


def at(function: Any, text: str) -> str:
    """Returns the place of the function's line with a text, as in an error, and the line."""
    lines, start = inspect.getsourcelines(function)
    number = next(number for number, line in enumerate(lines) if text in line)
    return f"{__file__}, line {start + number}:\n    {lines[number].strip()}\n"


def opaque(call: Callable[..., Any], **more: Any) -> type[layers.Layer]:
    """A composite layer with this `call`; `self.dense` is inside."""

    def build(self, _):
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")
        self.dense = layers.Dense(4, name="dense")
        self.dense.build((None, 4))
        self.drop = layers.Dropout(0.5, seed=1, name="drop")

    return type("Opaque", (layers.Layer,), {"build": build, "call": call, **more})


def native(self, x):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return self.dense(tf.nn.relu(x))  # tensorflow
    if BACKEND == "jax":
        import jax

        return self.dense(jax.nn.relu(x))  # jax
    import torch

    return self.dense(torch.relu(x))  # torch


def numpy_function(self, x):
    return self.dense(np.tanh(x))


def if_on_a_value(self, x):
    y = self.dense(x)
    if ops.sum(y) > 0:
        y = y + 1
    return y


def int_of_a_value(self, x):
    return self.dense(x) * int(ops.sum(x))


def loop_over_a_tensor(self, x):
    return ops.stack([self.dense(row[None]) for row in x])


def method_of_real_tensors(self, x):
    return self.dense(x.mean())


def random_numbers(self, x):
    return self.dense(x) + keras.random.normal((4,))


def random_dropout(self, x):
    return keras.random.dropout(self.dense(x), 0.5)


def variable_in_an_operation(self, x):
    y = self.dense(x)
    return y * self.scale


def variable_before_an_operation(self, x):
    return self.dense(x) * ops.exp(self.scale)


def variable_changed(self, x):
    self.scale.assign(2.0)
    return self.dense(x)


def function_in_an_operation(self, x):
    x = self.dense(x)
    return ops.vectorized_map(lambda one: one * 2, x)


def no_tensor_given_back(self, x):
    y = self.dense(x)
    return y, 3.5


def nothing_given_back(self, x):
    self.dense(x)


def constant_given_back(self, x):
    self.dense(x)
    return ops.ones((2, 4))


def open_side(self, x):
    return self.dense(ops.concatenate([x[:1] for _ in range(x.shape[0])]))


def error_of_its_own(self, x):
    x = self.dense(x)
    raise KeyError("missing piece")


def error_further_in(self, x):
    return helper(self.dense(x))


def helper(x):
    return ops.matmul(x, ops.ones((3, 3)))  # it has 4


def new_layer_each_time(self, x):
    return layers.Dense(3)(self.dense(x))


NUMBERS = "depends on the values of a tensor"
LAYER_OF_ITS_OWN = "move this line into a keras.Layer of its own"
LIBRARY = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "torch"}[BACKEND]
FAULTS = {
    native: (f"# {BACKEND}", f"passes a symbolic tensor to a function of {LIBRARY}", "`keras.ops`"),
    numpy_function: ("np.tanh", "passes a symbolic tensor to a function of NumPy", "`keras.ops`"),
    if_on_a_value: ("if ops.sum", NUMBERS, "`keras.ops.where`"),
    int_of_a_value: ("int(", NUMBERS, LAYER_OF_ITS_OWN),
    loop_over_a_tensor: ("for row in x", "iterates over a symbolic tensor", "`keras.ops.unstack`"),
    method_of_real_tensors: ("x.mean()", "an attribute that symbolic tensors do not have", "`keras.ops`"),
    random_numbers: ("keras.random.normal", "draws random numbers", "`keras.layers.Dropout`"),
    random_dropout: ("keras.random.dropout", "", "keras.Layer of its own"),
    variable_in_an_operation: ("y * self.scale", "a graph has variables only in layers", "that holds the variable"),
    variable_before_an_operation: ("ops.exp(self.scale)", "a graph has variables only in layers", "Move this line"),
    variable_changed: ("assign(2.0)", "changes the variable", "that holds the variable"),
    function_in_an_operation: ("vectorized_map(", "passes a function to `keras.ops.vectorized_map`", "Move this line"),
    no_tensor_given_back: ("return y, 3.5", "returns a float", "return only such tensors"),
    nothing_given_back: ("def ", "returns nothing", "return only such tensors"),
    constant_given_back: ("return ops.ones", "It returns a", "computed from the inputs"),
    open_side: ("range(x.shape[0])", "an unknown dimension of a shape (`None`)", "State that dimension in `inputs`"),
    error_of_its_own: ("raise KeyError", "It raises KeyError: 'missing piece'.", "on data, too"),
    error_further_in: ("# it has 4", "It raises ", "on data, too"),
    new_layer_each_time: ("layers.Dense(3)", "creates a new Dense with variables each time", "in `__init__`"),
}


@pytest.mark.parametrize("call", FAULTS, ids=lambda call: call.__name__)
def test_what_cannot_be_traced_is_refused_with_the_users_line_and_leaves_nothing_behind(call):
    text, why, remedy = FAULTS[call]
    layer = opaque(call)(name="mine")
    layer.build((None, 4))
    before, values = nodes(layer), states(layer)
    with pytest.raises(UnsupportedModelError) as caught:
        trace(layer, (None, 4))
    message = str(caught.value)
    assert message.startswith("Layer 'mine' (Opaque) cannot be traced. ")
    assert at(helper if call is error_further_in else call, text) in message
    assert why in message
    assert remedy in message
    assert nodes(layer) == before
    assert same_bits(states(layer), values)
    assert len(layer.variables) == len(values)


def test_a_closed_layer_may_compute_as_it_likes_and_opened_it_is_refused():
    class Holding(keras.Model):
        def __init__(self):
            super().__init__(name="holding")
            self.before = layers.Dense(4, name="before")
            self.mine = opaque(native)(name="mine")

        def call(self, x):
            return self.mine(self.before(x))

    x = floats(2, 4)
    model = built(Holding(), x)
    graph = trace(model, x)
    assert same_bits(graph(x), model(x))
    with pytest.raises(UnsupportedModelError, match=r"Or leave 'mine' closed: remove it from `open`\.$"):
        trace(model, x, open="mine")


def test_keras_own_layers_that_cannot_be_opened_are_to_stay_closed():
    x = floats(2, 5, 3)
    layer = built(Holder(layers.TimeDistributed(layers.Dense(2), name="each"), name="holder"), x)
    assert same_bits(trace(layer, x)(x), layer(x))
    with pytest.raises(UnsupportedModelError, match=r"can seldom be opened: remove 'each' from `open`\.$"):
        trace(layer, x, open="each")


def test_an_input_that_nothing_is_computed_with_is_refused():
    class Idle(keras.Model):
        def __init__(self):
            super().__init__(name="idle")
            self.dense = layers.Dense(3, name="dense")

        def call(self, data):
            return self.dense(data["used"]), data["idle"]

    x = {"used": floats(2, 3), "idle": floats(2, 3)}
    with pytest.raises(
        UnsupportedModelError, match="computes nothing with 'idle', and a Keras model accepts no unused"
    ):
        trace(built(Idle(), x), x)


def test_two_layers_of_one_name_are_named_both_with_their_attributes():
    class Clash(keras.Model):
        def __init__(self):
            super().__init__(name="clash")
            self.first = layers.Dense(3, name="dense")
            self.others = [layers.Dense(3, name="dense")]

        def call(self, x):
            return self.others[0](self.first(x))

    model, x = built(Clash(), floats(2, 3)), floats(2, 3)
    with pytest.raises(UnsupportedModelError) as caught:
        trace(model, x)
    assert str(caught.value) == (
        "Two different layers of 'clash' are called 'dense' (Dense self.first and Dense self.others), and Keras "
        "accepts a name only once in a model. Give one of them another name: pass `name=...` where it is created."
    )


def test_an_input_named_like_a_layer_is_refused_where_it_is_a_key():
    class Clash(keras.Model):
        def __init__(self):
            super().__init__(name="clash")
            self.dense = layers.Dense(3, name="dense")

        def call(self, data):
            return self.dense(data["dense"])

    x = {"dense": floats(2, 3)}
    model = built(Clash(), x)
    with pytest.raises(UnsupportedModelError, match="an input and a layer, are called 'dense'"):
        trace(model, x)


def test_globs_that_open_nothing_are_answered_with_what_there_is():
    model, x = deep()
    with pytest.raises(UnknownTensorError) as caught:
        trace(model, x, open="late_stag")
    assert str(caught.value) == (
        "'late_stag' in `open` matches no composite layer that 'deep' calls. Did you mean 'late_stage'?"
    )
    assert caught.value.matches == ("late_stage",)
    with pytest.raises(UnknownTensorError, match=r"It calls 'stage', 'stage/one', 'stage/other' and 'late_stage'\."):
        trace(model, x, open="stage/*x*y*z")
    with pytest.raises(UnknownTensorError, match=r"It calls none\."):
        trace(*perceptron(), open="*")
    with pytest.raises(UnsupportedModelError, match=r"'hidden' \(Dense\) in `open` has no layers inside"):
        trace(*perceptron(), open="hidden")


def test_an_opened_layer_called_in_two_ways_is_refused():
    class Ways(keras.Model):
        def __init__(self):
            super().__init__(name="ways")
            self.block = opaque(lambda self, x, times=1: self.dense(x) * times)(name="block")

        def call(self, x):
            return self.block(self.block(x), times=2)

    x = floats(2, 4)
    model = built(Ways(), x)
    assert same_bits(trace(model, x)(x), model(x))
    with pytest.raises(UnsupportedModelError, match="'block' is called 2 times, with different arguments"):
        trace(model, x, open="block")


@pytest.mark.parametrize("inputs", [None, 3, "image", [1, 2], {}, [(None, 4), None], ()])
def test_inputs_that_are_none_are_refused(inputs):
    model, _ = perceptron()
    with pytest.raises(SplitError, match=r"\(None, 224, 224, 3\)"):
        trace(model, inputs)


# What is no model that can be traced, or read


def test_what_is_not_built_is_refused_and_stays_unbuilt():
    for model in (Perceptron(name="new"), Residual(name="new")):
        with pytest.raises(UnsupportedModelError, match=r"'new' \(\w+\) is not built: .* Call it on data once"):
            trace(model, (None, 5))
        assert not model.built
    with pytest.raises(UnsupportedModelError, match=r"Sequential model 'row' is not built.* Give it a `keras.Input`"):
        trace(keras.Sequential([layers.Dense(2)], name="row"), (None, 5))


def test_a_layer_inside_that_is_not_built_is_not_built_by_tracing():
    class Half(keras.Model):
        def __init__(self):
            super().__init__(name="half")
            self.first = layers.Dense(3, name="first")
            self.second = layers.Dense(3, name="second")

        def build(self, shape):
            self.first.build(shape)

        def call(self, x):
            x = self.first(x)
            return self.second(x)

    model = Half()
    model.build((None, 3))
    with pytest.raises(UnsupportedModelError) as caught:
        trace(model, (None, 3))
    assert "Layer 'second' is not built yet, and tracing builds nothing." in str(caught.value)
    assert at(Half.call, "self.second(x)") in str(caught.value)
    assert not model.second.built
    x = floats(2, 3)
    assert same_bits(model(x), trace(model, x)(x))


def foreign(module: str) -> Any:
    """An object of a class from another library."""
    return type("Net", (), {"__module__": module})()


@pytest.mark.parametrize(
    ("thing", "texts"),
    [
        (foreign("tf_keras.src.engine.functional"), ["is a Keras 2 model (`tf_keras`)", "Save it as `m.h5`"]),
        (foreign("tensorflow.python.keras.engine.training"), ["is a Keras 2 model"]),
        (foreign("torch.nn.modules.module"), ["is a PyTorch module", "`keras.layers.TorchModuleWrapper(part)`"]),
        (foreign("flax.linen.module"), ["is a JAX model", "`keras.layers.JaxLayer`"]),
        (foreign("tensorflow.python.trackable"), ["is a TensorFlow object", "`keras.layers.TFSMLayer(path)`"]),
        ("net.keras", ["'net.keras' is a name, not a model", "keras.saving.load_model('net.keras')"]),
        (Perceptron, ["Perceptron is a class", "`Perceptron(...)`"]),
        (helper, ["got the function 'helper'"]),
        (3, ["Expected a keras.Model, got builtins.int."]),
    ],
)
def test_what_is_no_keras_model_is_told_apart_with_its_next_step(thing, texts):
    for call in (lambda: trace(thing, (None, 4)), lambda: ks.split_points(thing)):
        with pytest.raises(UnsupportedModelError) as caught:
            call()
        assert all(text in str(caught.value) for text in texts), str(caught.value)


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch is not everywhere")
def test_a_torch_module_is_told_from_a_keras_layer_which_is_one_too():
    import torch

    assert "torch.nn.modules.linear.Linear is a PyTorch module" in why_no_graph(torch.nn.Linear(2, 2))
    assert "is not built" in why_no_graph(Perceptron())


def test_read_graph_points_to_trace():
    model, _ = perceptron()
    with pytest.raises(UnsupportedModelError, match=r"Turn it into a graph: `kerassplit\.trace\(model, inputs\)`"):
        ks.split_points(model)
    with pytest.raises(UnsupportedModelError, match=r"'block_0' \(Residual\) is a layer, not a model"):
        ks.split_points(resnet_like()[0].blocks[0])
    symbol = keras.Input((3,))
    with pytest.raises(UnsupportedModelError, match=r"keras\.Model\(function\.inputs, function\.outputs\)"):
        ks.split_points(keras.Function(symbol, symbol + 1))


# The original


@ALL
def test_the_original_is_as_it_was_once_the_graph_is_gone(make, opened):
    model, x = make()
    before = nodes(model), states(model), [layer.name for layer in model._flatten_layers()]
    graph = trace(model, x, open=opened)
    del graph
    collect()
    assert nodes(model) == before[0]
    assert same_bits(states(model), before[1])
    assert [layer.name for layer in model._flatten_layers()] == before[2]


def test_two_graphs_of_one_model_do_not_disturb_each_other():
    model, x = resnet_like()
    before = nodes(model)
    one, other = trace(model, x, open="block_*"), trace(model, x)
    del one
    collect()
    assert same_bits(other(x), model(x))
    assert [point.name for point in ks.split_points(other)][:2] == ["stem", "block_0"]
    del other
    collect()
    assert nodes(model) == before
