"""Small models of every kind that Keras can express, with random weights and an input for each."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from kerassplit.zoo.random_weights import randomize

TOKENS = np.array([[3, 1, 4, 1, 0, 0], [5, 2, 6, 0, 0, 0]], "int32")  # 0 is padding
MORE_TOKENS = np.array([[2, 7, 0, 0, 0, 0], [1, 8, 2, 8, 1, 0]], "int32")


@dataclass(frozen=True)
class Specimen:
    """A model and an input for it.

    Attributes:
        model: Functional or Sequential.
        x: Arrays for two samples, in the structure of the model's inputs.
        refusal: Pattern of the error that `split` may raise at some frontiers; "" if it must cut at all of them.
    """

    model: keras.Model
    x: Any
    refusal: str = ""


@dataclass(frozen=True)
class Kind:
    """A kind of model, and how to build specimens.

    Attributes:
        name: What is special about the model.
        build: Builds a new specimen.
        backends: Backends on which it works; all if empty.
        safe: True if it loads in Keras's safe mode.
        predicts: True if Keras's own `predict` accepts it.
        reloads: True if Keras itself can load its saved file.
        tolerance: Largest absolute and relative difference between compiled runs.
    """

    name: str
    build: Callable[[], Specimen]
    backends: tuple[str, ...] = ()
    safe: bool = True
    predicts: bool = True
    reloads: bool = True
    tolerance: float = 1e-5


_ALL: dict[str, Kind] = {}


def kind(**options: Any) -> Callable[[Callable[[], Specimen]], Callable[[], Specimen]]:
    """Decorator: registers a builder under the name of its function."""

    def register(build: Callable[[], Specimen]) -> Callable[[], Specimen]:
        _ALL[build.__name__] = Kind(build.__name__, build, **options)
        return build

    return register


def kinds() -> list[Kind]:
    """Returns all kinds that the current backend supports."""
    backend = keras.backend.backend()
    return [one for one in _ALL.values() if not one.backends or backend in one.backends]


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([11, seed]).normal(size=shape).astype("float32")


def specimen(inputs: Any, outputs: Any, x: Any, name: str = "whole", refusal: str = "") -> Specimen:
    """Creates the functional model between these tensors, with random weights."""
    return drawn(keras.Model(inputs, outputs, name=name), x, refusal)


def drawn(model: keras.Model, x: Any, refusal: str = "") -> Specimen:
    randomize(model, seed=5, x=x)
    for layer in model.layers:
        if isinstance(layer, keras.layers.RNN) and layer.stateful:
            layer.reset_state()
    return Specimen(model, x, refusal)


def quantized(made: Specimen) -> Specimen:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Layer \w+ does not have a `quantize` method")
        made.model.quantize("int8")
    return made


# What others are made of


def conv(x: Any, name: str, filters: int = 3, **options: Any) -> Any:
    return layers.Conv2D(filters, 3, padding="same", name=name, **options)(x)


def residual(x: Any, name: str) -> Any:
    y = conv(x, f"{name}_conv", filters=x.shape[-1])
    y = layers.BatchNormalization(name=f"{name}_norm")(y)
    y = layers.Add(name=f"{name}_add")([x, y])
    return layers.ReLU(name=f"{name}_out")(y)


def head(x: Any, units: int = 2) -> Any:
    return layers.Dense(units, name="score")(layers.GlobalAveragePooling2D(name="pool")(x))


def backbone(name: str = "backbone", shape: tuple[int | None, ...] = (8, 8, 3), prefix: str = "") -> keras.Model:
    image = keras.Input(shape, name=f"{name}_image")
    x = residual(conv(image, f"{prefix}stem"), f"{prefix}block")
    return keras.Model(image, x, name=name)


def tower(name: str = "tower", width: int = 4) -> keras.Model:
    x = keras.Input((width,), name=f"{name}_in")
    y = layers.Dense(width, activation="tanh", name=f"{name}_dense")(x)
    return keras.Model(x, layers.Add(name=f"{name}_add")([x, y]), name=name)


def tokens_input(name: str = "tokens") -> Any:
    return keras.Input((6,), dtype="int32", name=name)


# Nested models


@kind()
def nested_functional() -> Specimen:
    image = keras.Input((8, 8, 3), name="image")
    x = backbone()(conv(image, "before"))
    return specimen(image, head(x), floats(2, 8, 8, 3))


@kind()
def nested_sequential() -> Specimen:
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, name="one"), layers.ReLU(name="two"), layers.Dense(4, name="three")],
        name="inner",
    )
    x = keras.Input((4,), name="x")
    y = layers.Add(name="add")([x, inner(layers.Dense(4, name="before")(x))])
    return specimen(x, layers.Dense(2, name="score")(y), floats(2, 4))


@kind()
def sequential_of_models() -> Specimen:
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="one"), layers.ReLU(name="two")], name="inner")
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="first"), inner, tower(), layers.Dense(2, name="score")], name="whole"
    )
    return drawn(model, floats(2, 4))


@kind()
def nested_three_deep() -> Specimen:
    a = keras.Input((4,), name="a")
    core = keras.Model(a, layers.ReLU(name="relu")(layers.Dense(4, name="dense")(a)), name="core")
    b = keras.Input((4,), name="b")
    shell = keras.Model(b, layers.Add(name="add")([b, core(layers.Dense(4, name="shell_dense")(b))]), name="shell")
    c = keras.Input((4,), name="c")
    crust = keras.Model(c, layers.Dense(3, name="crust_dense")(shell(c)), name="crust")
    x = keras.Input((4,), name="x")
    y = crust(layers.Dense(4, name="before")(x))
    return specimen(x, layers.Concatenate(name="both")([x, y]), floats(2, 4))


@kind()
def nested_called_twice() -> Specimen:
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    shared = tower()
    apart = layers.Subtract(name="apart")([shared(left), shared(right)])
    return specimen([left, right], layers.Dense(1, name="score")(apart), [floats(2, 4), floats(2, 4, seed=1)])


@kind()
def nested_called_on_its_own_output() -> Specimen:
    x = keras.Input((4,), name="x")
    shared = tower()
    return specimen(x, layers.Dense(1, name="score")(shared(layers.ReLU(name="relu")(shared(x)))), floats(2, 4))


@kind(reloads=False)
def nested_twice_at_two_depths() -> Specimen:
    inner = tower()
    a = keras.Input((4,), name="a")
    outer = keras.Model(a, layers.Dense(4, name="outer_dense")(inner(a)), name="outer")
    x = keras.Input((4,), name="x")
    y = layers.Add(name="sum")([inner(x), outer(x)])
    return specimen(x, [outer(y), y], floats(2, 4))


@kind()
def nested_with_dicts() -> Specimen:
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    joined = layers.Concatenate(name="joined")([layers.Dense(3, name="dense_a")(a), b])
    inner = keras.Model({"a": a, "b": b}, {"sum": layers.Dense(4, name="sum")(joined), "joined": joined}, name="inner")
    x, y = keras.Input((4,), name="x"), keras.Input((3,), name="y")
    made = inner({"a": layers.ReLU(name="relu")(x), "b": y})
    out = layers.Concatenate(name="out")([made["sum"], made["joined"], x])
    return specimen({"x": x, "y": y}, {"out": out, "sum": made["sum"]}, {"x": floats(2, 4), "y": floats(2, 3)})


@kind()
def nested_with_an_unused_output() -> Specimen:
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    both = layers.Add(name="both")([a, b])
    inner = keras.Model([a, b], (layers.Dense(4, name="used")(both), layers.Dense(3, name="unused")(a)), name="inner")
    x = keras.Input((4,), name="x")
    used, _ = inner([x, layers.Dense(4, name="before")(x)])
    return specimen(x, layers.Dense(2, name="score")(used), floats(2, 4))


@kind()
def nested_given_one_tensor_twice() -> Specimen:
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    inner = keras.Model([a, b], layers.Multiply(name="product")([layers.Dense(4, name="dense")(a), b]), name="inner")
    x = keras.Input((4,), name="x")
    y = layers.ReLU(name="relu")(x)
    return specimen(x, layers.Dense(2, name="score")(inner([y, y])), floats(2, 4))


@kind()
def nested_frozen_backbone() -> Specimen:
    image = keras.Input((8, 8, 3), name="inner_image")
    x = layers.Dropout(0.5, seed=1, name="drop")(residual(conv(image, "stem"), "block"))
    inner = keras.Model(image, x, name="backbone")
    inner.trainable = False
    outer = keras.Input((8, 8, 3), name="image")
    x = inner(layers.Rescaling(0.5, name="rescaled")(outer), training=False)
    x = layers.BatchNormalization(name="norm")(x)
    return specimen(outer, head(layers.Dropout(0.5, seed=2, name="late_drop")(x)), floats(2, 8, 8, 3))


@kind()
def nested_with_open_sides() -> Specimen:
    image = keras.Input((8, 8, 3), name="image")
    inner = backbone(shape=(None, None, 3))
    x = inner(image)
    y = inner(layers.AveragePooling2D(2, name="smaller")(image))
    both = layers.Concatenate(name="both")([x, layers.UpSampling2D(name="larger")(y)])
    return specimen(image, head(both), floats(2, 8, 8, 3))


@kind()
def nested_that_casts() -> Specimen:
    a = keras.Input((4,), name="a")
    plain = keras.Model(a, layers.Dense(4, name="plain_dense")(a), name="plain")
    b = keras.Input((4,), dtype="int32", name="b")
    lookup = keras.Model(b, layers.Embedding(6, 3, name="table")(b), name="lookup")
    c = keras.Input((4,), dtype="float16", name="c")
    half = keras.Model(c, ops.multiply(c, 3), name="half")
    whole = keras.Input((4,), dtype="int32", name="whole")
    x = plain(whole)  # int32 given, float32 wanted
    y = lookup(ops.relu(x) * 1.25)  # float32 given, int32 wanted
    z = half(x)  # float32 given, float16 wanted
    x = layers.Add(name="sum")([layers.Flatten(name="flat")(y), layers.Dense(12, name="wide")(z)])
    return specimen(whole, x, np.array([[0, 1, 2, 3], [3, 2, 1, 0]], "int32"))


@kind()
def nested_of_another_rank() -> Specimen:
    a = keras.Input((4, 1), name="a")
    wider = keras.Model(a, layers.Dense(4, name="wider_dense")(layers.Flatten(name="flat")(a)), name="wider")
    b = keras.Input((4,), name="b")
    thinner = keras.Model(b, layers.Dense(3, name="thinner_dense")(layers.Reshape((2, 2), name="square")(b)))
    x = keras.Input((4,), name="x")
    y = wider(layers.ReLU(name="relu")(x))  # (None, 4) given, (None, 4, 1) wanted
    z = thinner(layers.Reshape((4, 1), name="column")(y))  # the other way round
    return specimen(x, layers.Flatten(name="out")(z), floats(2, 4))


@kind()
def nested_of_equal_inner_names() -> Specimen:
    """Each cut separates the two or opens at most one of them, except cuts through both."""
    x = keras.Input((4,), name="x")

    def branch(name: str) -> keras.Model:
        a = keras.Input((4,), name="inner_in")
        y = layers.ReLU(name="relu")(layers.Dense(4, name="dense")(a))
        return keras.Model(a, layers.Dense(4, name="last")(y), name=name)

    y = branch("second")(layers.Activation("tanh", name="between")(branch("first")(x)))
    return specimen(x, layers.Add(name="add")([x, y]), floats(2, 4))


@kind()
def nested_side_by_side_of_equal_inner_names() -> Specimen:
    """A cut through both branches puts two layers with the same name into one stage."""
    x = keras.Input((4,), name="x")

    def branch(name: str) -> keras.Model:
        a = keras.Input((4,), name="inner_in")
        return keras.Model(a, layers.ReLU(name="relu")(layers.Dense(4, name="dense")(a)), name=name)

    y = layers.Add(name="add")([branch("first")(x), branch("second")(x)])
    refusal = r"called 'dense' \('first/dense' and 'second/dense'\)"
    return specimen(x, layers.Dense(2, name="score")(y), floats(2, 4), refusal=refusal)


@kind()
def nested_that_gives_its_own_input() -> Specimen:
    a = keras.Input((4,), name="a")
    inner = keras.Model(a, [a, layers.Dense(4, name="dense")(a)], name="inner")
    x = keras.Input((4,), name="x")
    same, other = inner(layers.ReLU(name="relu")(x))
    y = layers.Add(name="add")([same, layers.Dense(4, name="late")(other)])
    return specimen(x, [y, same], floats(2, 4))


@kind()
def nested_at_both_ends() -> Specimen:
    """One nested model takes the model's input, another returns the model's output."""
    x = keras.Input((4,), name="x")
    return specimen(x, tower("last")(layers.ReLU(name="relu")(tower("first")(x))), floats(2, 4))


@kind(reloads=False)
def nested_and_its_layer_outside() -> Specimen:
    dense = layers.Dense(4, name="dense")
    a = keras.Input((4,), name="a")
    inner = keras.Model(a, layers.ReLU(name="relu")(dense(a)), name="inner")
    x = keras.Input((4,), name="x")
    return specimen(x, layers.Add(name="add")([dense(inner(x)), x]), floats(2, 4))


@kind()
def nested_with_a_shared_relu_called_twice() -> Specimen:
    relu = layers.ReLU(name="relu")
    a = keras.Input((4,), name="a")
    y = relu(layers.Dense(4, name="one")(a))
    y = relu(layers.Dense(4, name="two")(y) + a)
    inner = keras.Model(a, y, name="inner")
    x = keras.Input((4,), name="x")
    return specimen(x, layers.Dense(2, name="score")(inner(inner(x) * 0.5)), floats(2, 4))


@kind()
def nested_with_an_optional_input() -> Specimen:
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b", optional=True)
    inner = keras.Model([a, b], AddIfGiven(name="added")(layers.Dense(4, name="dense")(a), b), name="inner")
    x = keras.Input((4,), name="x")
    return specimen(x, layers.Dense(2, name="score")(inner([layers.ReLU(name="relu")(x), x])), floats(2, 4))


# Shared layers


@kind()
def siamese_layers() -> Specimen:
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    dense, norm = layers.Dense(4, name="dense"), layers.BatchNormalization(name="norm")
    ends = [norm(dense(side)) for side in (left, right)]
    return specimen(
        [left, right], layers.Dot(1, name="likeness")(ends), [floats(2, 4), floats(2, 4, seed=1)], name="siamese"
    )


@kind()
def one_relu_called_many_times() -> Specimen:
    relu = layers.ReLU(name="relu")
    x = image = keras.Input((8, 8, 3), name="image")
    for number in range(4):
        x = relu(layers.Add(name=f"add{number}")([x, conv(relu(x), f"conv{number}")]))
    return specimen(image, head(x), floats(2, 8, 8, 3))


@kind()
def tied_embeddings() -> Specimen:
    tokens = tokens_input()
    table = layers.ReversibleEmbedding(10, 4, name="table")
    x = table(tokens)
    x = layers.LayerNormalization(name="norm")(layers.Dense(4, activation="gelu", name="dense")(x) + x)
    return specimen(tokens, table(x, reverse=True), TOKENS)


@kind()
def layer_in_two_stages() -> Specimen:
    x = keras.Input((4,), name="x")
    dense = layers.Dense(4, name="dense")
    y = layers.BatchNormalization(name="norm")(dense(x))
    return specimen(x, dense(layers.ReLU(name="relu")(dense(y))), floats(2, 4))


# Inputs and outputs


@kind()
def takes_and_gives_lists() -> Specimen:
    x, y = keras.Input((4,), name="x"), keras.Input((3,), name="y")
    a, b = layers.Dense(3, name="a")(x), layers.Dense(3, name="b")(y)
    return specimen([x, y], [layers.Add(name="add")([a, b]), a], [floats(2, 4), floats(2, 3)])


@kind()
def takes_and_gives_tuples() -> Specimen:
    x, y = keras.Input((4,), name="x"), keras.Input((3,), name="y")
    a, b = layers.Dense(3, name="a")(x), layers.Dense(3, name="b")(y)
    return specimen((x, y), (b, layers.Add(name="add")([a, b]), b), (floats(2, 4), floats(2, 3)))


@kind()
def takes_and_gives_dicts() -> Specimen:
    x, y = keras.Input((4,), name="zebra"), keras.Input((3,), name="ape")
    a, b = layers.Dense(3, name="a")(x), layers.Dense(3, name="b")(y)
    both = layers.Add(name="add")([a, b])
    return specimen({"zebra": x, "ape": y}, {"z": both, "a": a}, {"zebra": floats(2, 4), "ape": floats(2, 3)})


@kind()
def takes_and_gives_nested_structures() -> Specimen:
    x, y, z = (keras.Input((3,), name=name) for name in ("first", "y", "z"))
    a = layers.Dense(3, name="a")(x)
    b = layers.Add(name="b")([a, layers.Dense(3, name="y_dense")(y)])
    c = layers.Multiply(name="c")([b, z])
    arrays = {"first": floats(2, 3), "rest": [floats(2, 3, seed=1), (floats(2, 3, seed=2),)]}
    return specimen({"first": x, "rest": [y, (z,)]}, {"ends": (c, [b]), "early": a}, arrays)


@kind()
def gives_a_list_of_one() -> Specimen:
    x = keras.Input((4,), name="x")
    return specimen([x], [layers.Dense(2, name="score")(layers.ReLU(name="relu")(x))], [floats(2, 4)])


@kind()
def gives_its_own_input_and_one_output_twice() -> Specimen:
    x = keras.Input((4,), name="x")
    y = layers.Dense(4, name="dense")(x)
    z = layers.Dense(2, name="score")(layers.ReLU(name="relu")(y))
    return specimen(x, [x, z, y, z], floats(2, 4))


def _optional() -> tuple[Any, Any]:
    x, extra, more = (keras.Input((4,), name=name, optional=name != "x") for name in ("x", "extra", "more"))
    y = AddIfGiven(name="early")(layers.Dense(4, name="dense")(x), extra)
    y = AddIfGiven(name="late")(layers.Dense(4, name="second")(y), more)
    return [x, extra, more], layers.Dense(2, name="score")(y)


@kind()
def optional_inputs_left_out() -> Specimen:
    return specimen(*_optional(), [floats(2, 4), None, None])


@kind()
def optional_input_given() -> Specimen:
    return specimen(*_optional(), [floats(2, 4), None, floats(2, 4, seed=1)])


@kind()
def optional_inputs_given() -> Specimen:
    return specimen(*_optional(), [floats(2, 4), floats(2, 4, seed=1), floats(2, 4, seed=2)])


@kind()
def input_that_only_the_tail_needs() -> Specimen:
    image, extra = keras.Input((8, 8, 3), name="image"), keras.Input((4,), name="extra")
    x = layers.GlobalAveragePooling2D(name="pool")(residual(image, "block"))
    both = layers.Concatenate(name="both")([x, layers.Dense(2, name="extra_dense")(extra)])
    return specimen([image, extra], layers.Dense(2, name="score")(both), [floats(2, 8, 8, 3), floats(2, 4)])


@kind()
def outputs_that_the_head_makes() -> Specimen:
    x = keras.Input((4,), name="x")
    a = layers.Dense(4, name="a")(x)
    aside = layers.Softmax(name="aside")(layers.Dense(3, name="aside_dense")(a))
    b = layers.ReLU(name="b")(a)
    return specimen(x, {"aside": aside, "b": b, "score": layers.Dense(2, name="score")(b)}, floats(2, 4))


@kind()
def two_towers() -> Specimen:
    user, item = keras.Input((4,), name="user"), keras.Input((6,), dtype="int32", name="item")
    a = layers.Dense(3, name="user_out")(layers.Dense(5, activation="relu", name="user_dense")(user))
    b = layers.Embedding(10, 4, name="item_table")(item)
    b = layers.Dense(3, name="item_out")(layers.Flatten(name="item_flat")(b))
    return specimen([user, item], layers.Dot(1, normalize=True, name="score")([a, b]), [floats(2, 4), TOKENS])


@kind()
def input_used_on_both_sides() -> Specimen:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.UpSampling2D(name="up")(conv(layers.MaxPooling2D(name="down")(image), "conv"))
    x = layers.Concatenate(name="joined")([x, image])
    return specimen(image, layers.Subtract(name="change")([conv(x, "last"), image]), floats(2, 8, 8, 3))


# Skips


@kind()
def unet() -> Specimen:
    x = image = keras.Input((8, 8, 2), name="image")
    skips = []
    for level in range(3):
        x = conv(x, f"down{level}", 2 + level, activation="relu")
        skips.append(x)
        x = layers.MaxPooling2D(name=f"pool{level}")(x)
    x = layers.BatchNormalization(name="norm")(conv(x, "bottom", 4))
    for level in reversed(range(3)):
        x = layers.Conv2DTranspose(2 + level, 2, strides=2, name=f"up{level}")(x)
        x = layers.Concatenate(name=f"skip{level}")([x, skips[level]])
        x = conv(x, f"conv{level}", 2 + level, activation="relu")
    return specimen(image, layers.Conv2D(1, 1, activation="sigmoid", name="picture")(x), floats(2, 8, 8, 2))


@kind()
def feature_pyramid() -> Specimen:
    x = image = keras.Input((8, 8, 3), name="image")
    levels = []
    for level in (1, 2, 3):
        x = conv(x, f"c{level}", strides=2, activation="relu")
        levels.append(x)
    top = None
    found = {}
    for level in (3, 2, 1):
        side = layers.Conv2D(3, 1, name=f"side{level}")(levels[level - 1])
        if top is not None:
            side = layers.Add(name=f"merge{level}")([side, layers.UpSampling2D(name=f"up{level}")(top)])
        top = side
        found[f"p{level}"] = conv(top, f"p{level}", filters=2)
    return specimen(image, found, floats(2, 8, 8, 3))


# Calls as they are


@kind()
def attention_with_a_keyword_mask() -> Specimen:
    query, value = keras.Input((5, 4), name="query"), keras.Input((6, 4), name="value")
    allowed = keras.Input((5, 6), dtype="bool", name="allowed")
    key = layers.Dense(4, name="key_dense")(value)
    x = layers.MultiHeadAttention(2, 3, name="attention")(query, value, key=key, attention_mask=allowed)
    x = layers.LayerNormalization(name="norm")(x + query)
    mask = np.tri(5, 6, 1, dtype="bool")[None].repeat(2, 0)
    arrays = [floats(2, 5, 4), floats(2, 6, 4, seed=1), mask]
    return specimen([query, value, allowed], layers.Dense(2, name="score")(x), arrays)


@kind()
def attention_with_implicit_masks() -> Specimen:
    tokens = tokens_input()
    x = layers.Embedding(10, 4, mask_zero=True, name="table")(tokens)
    y = layers.MultiHeadAttention(2, 3, name="attention")(x, x, use_causal_mask=True)
    x = layers.LayerNormalization(name="norm")(layers.Add(name="add")([x, y]))
    x = layers.MultiHeadAttention(1, 3, name="second")(query=x, value=layers.Dropout(0.3, seed=1, name="drop")(x))
    return specimen(tokens, layers.GlobalAveragePooling1D(name="pool")(x), TOKENS)


@kind()
def attentions_of_all_sorts() -> Specimen:
    x, y = keras.Input((5, 4), name="x"), keras.Input((6, 4), name="y")
    a = layers.Attention(use_scale=True, name="attention")([x, y])
    b, scores = layers.AdditiveAttention(name="additive")([x, y, y], return_attention_scores=True)
    c = layers.GroupQueryAttention(3, 4, 2, name="grouped")(a, b)
    d = layers.EinsumDense("abc,cd->abd", output_shape=(None, 3), bias_axes="d", name="einsum")(c)
    return specimen([x, y], [d, scores], [floats(2, 5, 4), floats(2, 6, 4, seed=1)])


@kind()
def positional_constants() -> Specimen:
    x = keras.Input((4, 3), name="x")
    y = ops.reshape(x * 2, (-1, 12))
    y = ops.transpose(ops.reshape(1 - y, (-1, 3, 4)), (0, 2, 1))
    y = ops.concatenate([y, x], -1)[:, 1:, ::2]
    y = ops.einsum("abc,abd->acd", y, x[:, :-1] + np.array([1.0, 2.0, 3.0], "float32"))
    y = ops.where(y > 0.25, y, ops.expand_dims(ops.max(y, 1), 1))
    return specimen(x, ops.clip(y, -3.0, 3.0), floats(2, 4, 3))


@kind()
def masked_recurrent_layers() -> Specimen:
    tokens = tokens_input()
    x = layers.Embedding(10, 4, mask_zero=True, name="table")(tokens)
    x = layers.LSTM(4, return_sequences=True, name="lstm")(layers.Dropout(0.4, seed=3, name="drop")(x))
    x = layers.GRU(3, recurrent_dropout=0.3, seed=4, name="gru")(x)
    return specimen(tokens, layers.Dense(2, name="score")(x), TOKENS)


@kind()
def masked_pooling() -> Specimen:
    tokens = tokens_input()
    x = layers.Embedding(10, 4, mask_zero=True, name="table")(tokens)
    x = layers.Activation("tanh", name="tanh")(layers.Dense(4, name="dense")(x))
    return specimen(tokens, layers.Dense(2, name="score")(layers.GlobalAveragePooling1D(name="pool")(x)), TOKENS)


@kind()
def masks_joined() -> Specimen:
    one, other = tokens_input("one"), tokens_input("other")
    a = layers.Embedding(10, 4, mask_zero=True, name="table_a")(one)
    b = layers.Embedding(10, 4, mask_zero=True, name="table_b")(other)
    x = layers.LSTM(3, name="lstm")(layers.Concatenate(name="beside")([a, b]))
    return specimen([one, other], layers.Dense(2, name="score")(x), [TOKENS, MORE_TOKENS])


@kind()
def masks_joined_in_time() -> Specimen:
    tokens, plain = tokens_input(), keras.Input((3, 4), name="plain")
    table = layers.Embedding(10, 4, mask_zero=True, name="table")
    x = layers.Concatenate(axis=1, name="behind")([table(tokens), plain])
    x = layers.Add(name="add")([layers.GlobalAveragePooling1D(name="pool")(x), layers.GRU(4, name="gru")(x)])
    return specimen([tokens, plain], x, [TOKENS, floats(2, 3, 4)])


@kind()
def masked_products() -> Specimen:
    """The result of Multiply changes if its inputs have a mask."""
    tokens = tokens_input()
    x = layers.Embedding(10, 4, mask_zero=True, name="table")(tokens)
    y = layers.Multiply(name="gated")([x, layers.Dense(4, activation="sigmoid", name="gate")(x)])
    y = layers.Average(name="average")([y, layers.Maximum(name="maximum")([x, y])])
    return specimen(tokens, layers.Flatten(name="flat")(y), TOKENS)


@kind()
def masking_layer() -> Specimen:
    series = keras.Input((6, 3), name="series")
    x = layers.Masking(-1.0, name="masking")(series)
    x = layers.TimeDistributed(layers.Dense(4, name="dense"), name="each")(x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.Bidirectional(layers.LSTM(3, name="lstm"), name="both_ways")(x)
    values = floats(2, 6, 3)
    values[0, 4:] = values[1, 2:4] = -1.0
    return specimen(series, layers.Dense(2, name="score")(x), values)


@kind()
def mask_made_by_hand() -> Specimen:
    tokens = tokens_input()
    table = layers.Embedding(10, 4, name="table")
    known = ops.not_equal(tokens, 0)
    x = layers.LSTM(4, return_sequences=True, name="lstm")(table(tokens), mask=known)
    x = layers.MultiHeadAttention(1, 4, name="attention")(x, x, attention_mask=ops.expand_dims(known, 1))
    x = layers.Softmax(axis=1, name="softmax")(x, mask=ops.expand_dims(known, -1))
    return specimen(tokens, layers.GlobalAveragePooling1D(name="pool")(x, mask=known), TOKENS)


@kind()
def encoder_decoder() -> Specimen:
    source, target = tokens_input("source"), tokens_input("target")
    table = layers.Embedding(10, 4, mask_zero=True, name="table")
    _, hidden, cell = layers.LSTM(4, return_state=True, name="encoder")(table(source))
    decoder = layers.LSTM(4, return_sequences=True, return_state=True, name="decoder")
    x, _, _ = decoder(table(target), initial_state=[hidden, cell])
    return specimen([source, target], layers.Dense(10, activation="softmax", name="next")(x), [TOKENS, MORE_TOKENS])


@kind()
def both_ways_with_states() -> Specimen:
    tokens = tokens_input()
    x = layers.Embedding(10, 4, mask_zero=True, name="table")(tokens)
    x, *states = layers.Bidirectional(
        layers.GRU(3, return_sequences=True, return_state=True, name="gru"), name="encoder"
    )(x)
    x = layers.Bidirectional(layers.GRU(3, name="second_gru"), merge_mode="sum", name="decoder")(
        x, initial_state=states[::-1]
    )
    return specimen(tokens, [x, states[0]], TOKENS)


@kind()
def layers_with_several_outputs() -> Specimen:
    x = keras.Input((6, 4), name="x")
    a, b, _ = ops.split(layers.Dense(6, name="dense")(x), 3, axis=-1)
    y, hidden, _ = layers.LSTM(3, return_sequences=True, return_state=True, name="lstm")(ops.concatenate([a, b], -1))
    made = Several(name="several")({"one": y, "rest": [hidden, a]}, scale=b)
    mean, variance = ops.moments(made["pair"][0], axes=[1])
    return specimen(x, [layers.Dense(2, name="score")(made["pair"][1] + mean), variance], floats(2, 6, 4))


@kind()
def same_tensor_twice() -> Specimen:
    x = keras.Input((4,), name="x")
    y = layers.Add(name="double")([layers.Dense(4, name="dense")(x)] * 2)
    y = layers.Concatenate(name="again")([y, x, y])
    return specimen(x, layers.Dot(1, name="square")([y, y]) * y, floats(2, 4))


@kind()
def whole_batch_at_once() -> Specimen:
    x = keras.Input((4,), name="x")
    y = layers.Dense(4, name="dense")(x)
    y = y - ops.mean(y, axis=0, keepdims=True)
    return specimen(x, layers.Dense(2, name="score")(y / (ops.std(y) + ops.max(ops.abs(x)))), floats(2, 4))


@kind(safe=False)
def lambdas() -> Specimen:
    x = keras.Input((4,), name="x")
    y = layers.Lambda(lambda t: t * 2 + 1, name="line")(x)
    y = layers.Lambda(lambda pair, by: pair[0] * by - pair[1], arguments={"by": 3.0}, name="pair")([y, x])
    return specimen(x, layers.Dense(2, name="score")(y), floats(2, 4))


@kind()
def training_flags_baked_in() -> Specimen:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.BatchNormalization(name="frozen")(conv(image, "conv"), training=False)
    x = layers.BatchNormalization(name="live")(x)
    x = layers.Dropout(0.5, seed=1, name="always")(x, training=True)
    return specimen(image, head(layers.Dropout(0.5, seed=2, name="never")(x, training=False)), floats(2, 8, 8, 3))


@kind()
def dropouts() -> Specimen:
    image = keras.Input((8, 8, 3), name="image")
    drop = layers.Dropout(0.3, seed=1, name="drop")
    x = layers.SpatialDropout2D(0.3, seed=2, name="spatial")(drop(image))
    x = layers.GaussianNoise(0.2, seed=3, name="noise")(residual(x, "block"))
    x = layers.AlphaDropout(0.2, seed=5, name="alpha")(layers.GaussianDropout(0.2, seed=4, name="gaussian")(x))
    return specimen(image, head(drop(x)), floats(2, 8, 8, 3))


@kind()
def normalizations() -> Specimen:
    image = keras.Input((8, 8, 4), name="image")
    x = layers.SpectralNormalization(layers.Conv2D(4, 3, name="conv"), name="spectral")(image)
    x = layers.GroupNormalization(2, name="group")(x)
    x = layers.UnitNormalization(name="unit")(layers.RMSNormalization(name="rms")(x))
    x = layers.PReLU(name="prelu")(layers.BatchNormalization(momentum=0.5, name="batch")(x))
    return specimen(image, head(x), floats(2, 8, 8, 4))


@kind()
def numbers_preprocessed() -> Specimen:
    x, category = keras.Input((3,), name="x"), keras.Input((2,), dtype="int32", name="category")
    y = layers.Normalization(mean=[0.5, 1.0, -0.5], variance=[1.0, 4.0, 2.0], name="normal")(x)
    adapted = layers.Normalization(name="adapted")
    adapted.adapt(floats(20, 3, seed=7) * 3 + 1)
    buckets = layers.Discretization([-0.5, 0.0, 0.5], name="buckets")(y)
    hot = layers.CategoryEncoding(4, "multi_hot", name="hot")(buckets)
    count = layers.CategoryEncoding(5, "multi_hot", name="count")(category)
    both = layers.Concatenate(name="both")([adapted(x), layers.Rescaling(0.1, 1.0, name="rescaled")(y), hot, count])
    arrays = [floats(2, 3), np.array([[1, 4], [0, 2]], "int32")]
    return specimen([x, category], layers.Dense(2, name="score")(both), arrays)


@kind()
def images_augmented() -> Specimen:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.RandomFlip(seed=1, name="flip")(image)
    x = layers.RandomTranslation(0.2, 0.2, seed=2, name="shift")(layers.RandomContrast(0.3, seed=3, name="contrast")(x))
    x = layers.Resizing(6, 6, name="resized")(layers.CenterCrop(7, 7, name="crop")(x))
    return specimen(image, head(conv(x, "conv")), floats(2, 8, 8, 3))


@kind(backends=("tensorflow",), predicts=False)
def strings_looked_up() -> Specimen:
    word, number = keras.Input((3,), dtype="string", name="word"), keras.Input((3,), dtype="int64", name="number")
    a = layers.StringLookup(vocabulary=["ape", "bear", "cat"], name="words")(word)
    b = layers.IntegerLookup(vocabulary=[3, 5, 7], name="numbers")(number)
    c = layers.Hashing(4, name="hashed")(word)
    tables = [layers.Embedding(5, 2, name=f"table_{name}") for name in "abc"]
    x = layers.Concatenate(name="all")([table(one) for table, one in zip(tables, (a, b, c), strict=True)])
    words = np.array([["ape", "cat", "dog"], ["bear", "", "cat"]], object)
    return specimen(
        [word, number], layers.Dense(2, name="score")(x), [words, np.array([[3, 7, 1], [5, 5, 3]], "int64")]
    )


@kind(backends=("tensorflow",))
def text_vectorized() -> Specimen:
    text = keras.Input((), dtype="string", name="text")
    ids = layers.TextVectorization(vocabulary=["the", "cat", "sat"], output_sequence_length=5, name="ids")(text)
    x = layers.Embedding(6, 3, mask_zero=True, name="table")(ids)
    return specimen(text, layers.LSTM(2, name="lstm")(x), np.array(["The cat sat", "a cat"], object))


@kind()
def layers_around_layers() -> Specimen:
    film = keras.Input((3, 6, 6, 2), name="film")
    x = layers.TimeDistributed(layers.Conv2D(2, 3, padding="same", name="conv"), name="each")(film)
    x = layers.TimeDistributed(layers.BatchNormalization(name="norm"), name="each_norm")(x)
    x = layers.ConvLSTM2D(2, 3, padding="same", name="conv_lstm")(x)
    return specimen(film, head(x), floats(2, 3, 6, 6, 2))


@kind()
def stacked_cells() -> Specimen:
    series = keras.Input((5, 3), name="series")
    cells = [layers.LSTMCell(3, name="cell0"), layers.GRUCell(4, dropout=0.3, seed=1, name="cell1")]
    x, *states = layers.RNN(cells, return_state=True, name="stack")(series)
    y = layers.SimpleRNN(3, go_backwards=True, return_sequences=True, name="backwards")(series)
    x = layers.Concatenate(name="both")([x, layers.Flatten(name="flat")(y), *keras.tree.flatten(states)])
    return specimen(series, layers.Dense(2, name="score")(x), floats(2, 5, 3))


@kind()
def stateful_recurrent_layers() -> Specimen:
    series = keras.Input(batch_shape=(2, 5, 3), name="series")
    x = layers.LSTM(3, stateful=True, return_sequences=True, name="lstm")(series)
    x = layers.GRU(2, stateful=True, name="gru")(layers.Dense(3, name="dense")(x))
    return specimen(series, layers.Dense(2, name="score")(x), floats(2, 5, 3))


def _mixed(policy: str) -> Specimen:
    image, extra = keras.Input((8, 8, 3), name="image"), keras.Input((3,), name="extra")
    x = residual(conv(image, "stem", dtype=policy), "block")
    x = layers.Conv2D(3, 3, dtype=policy, name="mixed")(x)
    x = layers.BatchNormalization(dtype=policy, name="mixed_norm")(x)
    x = layers.Dropout(0.3, seed=1, dtype=policy, name="drop")(layers.GlobalMaxPooling2D(dtype=policy, name="pool")(x))
    both = layers.Concatenate(dtype=policy, name="both")([x, extra * 2])
    score = layers.Dense(2, name="score", dtype="float32")(layers.Dense(4, dtype=policy, name="dense")(both))
    return specimen([image, extra], [score, both], [floats(2, 8, 8, 3), floats(2, 3)])


@kind(tolerance=2e-2)
def mixed_float16() -> Specimen:
    return _mixed("mixed_float16")


@kind(tolerance=1e-1)
def mixed_bfloat16() -> Specimen:
    return _mixed("mixed_bfloat16")


@kind(tolerance=2e-2)
def globally_mixed_float16() -> Specimen:
    """Everything under a global policy, including the model itself, as most people use it."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        tokens = tokens_input()
        x = layers.Embedding(10, 4, mask_zero=True, name="table")(tokens)
        x = layers.LSTM(4, return_sequences=True, name="lstm")(x)
        x = layers.GRU(4, name="gru")(layers.LayerNormalization(name="norm")(x))
        x = tower()(x)
        made = specimen(tokens, layers.Dense(2, dtype="float32", name="score")(x), TOKENS)
    finally:
        keras.config.set_dtype_policy(before)
    return made


@kind()
def whole_numbers_and_truths() -> Specimen:
    number, truth = keras.Input((4,), dtype="int32", name="number"), keras.Input((4,), dtype="bool", name="truth")
    odd = ops.equal(number % 2, 1)
    kept = ops.logical_and(odd, ops.logical_not(truth))
    x = layers.Embedding(10, 3, name="table")(ops.where(kept, number, 0))
    x = layers.Dense(3, name="dense")(x * ops.expand_dims(ops.cast(kept, "float32"), -1))
    truths = np.array([[True, False, False, True], [False, False, True, True]])
    return specimen([number, truth], [ops.argmax(x, -1), kept, x], [TOKENS[:, :4], truths])


@kind()
def open_sides() -> Specimen:
    image = keras.Input((None, None, 3), name="image")
    x = residual(conv(image, "stem", strides=2), "block")
    up = layers.UpSampling2D(name="up")(x)
    sides = ops.concatenate([image, up], -1)
    x = layers.GlobalMaxPooling2D(name="pool")(conv(sides, "last"))
    return specimen(image, layers.Dense(2, name="score")(x), floats(2, 8, 12, 3))


@kind(tolerance=1e-3)
def int8_layers() -> Specimen:
    tokens = tokens_input()
    x = layers.Embedding(10, 8, name="table")(tokens)
    y = layers.EinsumDense("abc,cd->abd", output_shape=(None, 8), bias_axes="d", name="einsum")(x)
    x = layers.Dense(8, activation="relu", name="dense")(layers.Add(name="add")([x, y]))
    x = layers.Dense(3, name="score")(layers.GlobalAveragePooling1D(name="pool")(x))
    return quantized(specimen(tokens, x, TOKENS))


@kind()
def lora_layers() -> Specimen:
    tokens = tokens_input()
    table, dense = layers.Embedding(10, 4, name="table"), layers.Dense(4, name="dense")
    einsum = layers.EinsumDense("abc,cd->abd", output_shape=(None, 4), name="einsum")
    x = layers.Add(name="add")([dense(table(tokens)), einsum(table(tokens))])
    model = keras.Model(tokens, layers.LSTM(3, name="lstm")(dense(x)), name="whole")
    for layer in (table, dense, einsum):
        layer.enable_lora(2)
    return drawn(model, TOKENS)


@kind(backends=("tensorflow", "jax"))
def sparse_inputs() -> Specimen:
    x, y = keras.Input((4,), sparse=True, name="x"), keras.Input((4,), name="y")
    a = layers.Dense(4, name="dense")(x)
    b = layers.Add(name="add")([a, layers.Dense(4, name="y_dense")(y)])
    model = keras.Model([x, y], [layers.Dense(2, name="score")(b), ops.multiply(b, 2)], name="whole")
    return drawn(model, [sparse(np.maximum(floats(2, 4), 0)), ops.convert_to_tensor(floats(2, 4))])


@kind()
def same_op_names_as_layers() -> Specimen:
    """Layers whose names look like those that kerassplit generates."""
    x = keras.Input((4,), name="x")
    relu = layers.ReLU(name="block")
    y = relu(layers.Dense(4, name="block_1")(relu(layers.Dense(4, name="block_2")(x))))
    y = layers.Add(name="block_0")([layers.Softmax(name="block.one")(y), x])
    return specimen(x, layers.Dense(2, name="x_1")(y), floats(2, 4))


# Crosses


@kind()
def nested_that_makes_a_mask() -> Specimen:
    a = tokens_input("a")
    x = layers.Embedding(10, 4, mask_zero=True, name="table")(a)
    inner = keras.Model(a, layers.Activation("tanh", name="tanh")(x), name="embedder")
    tokens = tokens_input()
    x = layers.LSTM(3, return_sequences=True, name="lstm")(inner(tokens))
    return specimen(tokens, layers.GlobalAveragePooling1D(name="pool")(x), TOKENS)


@kind()
def nested_that_is_given_a_mask() -> Specimen:
    a = keras.Input((6, 4), name="a")
    x = layers.LSTM(3, return_sequences=True, name="lstm")(layers.Dropout(0.3, seed=1, name="drop")(a))
    inner = keras.Model(a, layers.GRU(3, name="gru")(x), name="reader")
    tokens = tokens_input()
    x = layers.Embedding(10, 4, mask_zero=True, name="table")(tokens)
    return specimen(tokens, layers.Dense(2, name="score")(inner(layers.Dense(4, name="dense")(x))), TOKENS)


@kind()
def nested_sequentials_hand_on_a_mask() -> Specimen:
    embedder = keras.Sequential(
        [keras.Input((6,), dtype="int32"), layers.Embedding(10, 4, mask_zero=True, name="table")], name="embedder"
    )
    reader = keras.Sequential(
        [keras.Input((6, 4)), layers.LayerNormalization(name="norm"), layers.LSTM(3, name="lstm")], name="reader"
    )
    one, other = tokens_input("one"), tokens_input("other")
    apart = layers.Subtract(name="apart")([reader(embedder(one)), reader(embedder(other))])
    return specimen([one, other], layers.Dense(1, name="score")(apart), [TOKENS, MORE_TOKENS])


@kind()
def nested_masked_encoder_decoder() -> Specimen:
    a = keras.Input((6, 4), name="a")
    x, *states = layers.LSTM(4, return_sequences=True, return_state=True, name="lstm")(a)
    encoder = keras.Model(a, {"sequence": x, "states": states}, name="encoder")
    b, hidden, cell = keras.Input((6, 4), name="b"), keras.Input((4,), name="hidden"), keras.Input((4,), name="cell")
    y = layers.LSTM(4, return_sequences=True, name="decoder_lstm")(b, initial_state=[hidden, cell])
    decoder = keras.Model([b, [hidden, cell]], y, name="decoder")
    table = layers.Embedding(10, 4, mask_zero=True, name="table")
    source, target = tokens_input("source"), tokens_input("target")
    made = encoder(table(source))
    x = decoder([table(target), made["states"]])
    x = layers.MultiHeadAttention(1, 4, name="attention")(x, made["sequence"])
    return specimen([source, target], layers.Dense(10, name="next")(x), [TOKENS, MORE_TOKENS])


@kind()
def nested_attention_block_called_twice() -> Specimen:
    a = keras.Input((6, 4), name="a")
    y = layers.MultiHeadAttention(2, 2, dropout=0.2, seed=1, name="attention")(a, a, use_causal_mask=True)
    y = layers.LayerNormalization(name="norm")(layers.Add(name="add")([a, y]))
    block = keras.Model(a, y, name="block")
    tokens = tokens_input()
    x = layers.Embedding(10, 4, mask_zero=True, name="table")(tokens)
    return specimen(tokens, layers.GlobalAveragePooling1D(name="pool")(block(block(x))), TOKENS)


@kind(tolerance=2e-2)
def nested_mixed_precision() -> Specimen:
    image = keras.Input((8, 8, 3), name="inner_image")
    x = layers.Conv2D(3, 3, padding="same", dtype="mixed_float16", name="stem")(image)
    x = layers.BatchNormalization(dtype="mixed_float16", name="norm")(x)
    inner = keras.Model(image, layers.Add(dtype="mixed_float16", name="add")([x, image]), name="backbone")
    outer = keras.Input((8, 8, 3), name="image")
    x = inner(inner(conv(outer, "before")))
    return specimen(outer, layers.Dense(2, name="score")(layers.Flatten(name="flat")(x)), floats(2, 8, 8, 3))


@kind(tolerance=1e-3)
def nested_int8() -> Specimen:
    x = keras.Input((4,), name="x")
    inner = tower()
    y = layers.Dense(4, name="score")(inner(layers.Dense(4, name="before")(inner(x))))
    return quantized(specimen(x, y, floats(2, 4)))


@kind()
def nested_lora() -> Specimen:
    x = keras.Input((4,), name="x")
    inner = tower()
    model = keras.Model(x, layers.Dense(2, name="score")(inner(inner(x))), name="whole")
    inner.get_layer("tower_dense").enable_lora(2)
    return drawn(model, floats(2, 4))


@kind()
def nested_unet_with_open_sides() -> Specimen:
    picture = keras.Input((None, None, 2), name="picture")
    a = conv(picture, "down", 2, activation="relu")
    b = layers.BatchNormalization(name="norm")(conv(layers.MaxPooling2D(name="halved")(a), "bottom", 2))
    c = layers.Concatenate(name="skip")([layers.UpSampling2D(name="up")(b), a])
    inner = keras.Model(picture, {"mask": conv(c, "mask", 2), "code": b}, name="unet")
    image = keras.Input((8, 8, 2), name="image")
    first = inner(image)
    second = inner(layers.Add(name="add")([image, first["mask"]]))
    both = layers.Concatenate(name="codes")([first["code"], second["code"]])
    return specimen(image, {"mask": second["mask"], "score": head(both)}, floats(2, 8, 8, 2))


@kind()
def nested_structures_optional_and_shared() -> Specimen:
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b", optional=True)
    dense = layers.Dense(4, name="dense")
    y = AddIfGiven(name="added")(dense(a), b)
    inner = keras.Model({"a": a, "b": b}, {"pair": (y, dense(y)), "a": a}, name="inner")
    x, extra = keras.Input((4,), name="x"), keras.Input((4,), name="extra")
    made = inner({"a": x, "b": extra})
    again = inner({"a": made["pair"][1], "b": made["a"]})
    out = {"out": [layers.Add(name="add")([again["pair"][0], made["a"]])], "aside": again["a"]}
    return specimen({"x": x, "extra": extra}, out, {"x": floats(2, 4), "extra": floats(2, 4, seed=1)})


@kind()
def nested_frozen_beside_live() -> Specimen:
    """One nested model, called normally and with training=False; it has dropout and statistics."""
    a = keras.Input((4,), name="a")
    y = layers.Dropout(0.5, seed=1, name="drop")(layers.BatchNormalization(name="norm")(a))
    inner = keras.Model(a, layers.Dense(4, name="dense")(y), name="inner")
    x = keras.Input((4,), name="x")
    both = layers.Subtract(name="both")([inner(x, training=False), inner(layers.ReLU(name="relu")(x))])
    return specimen(x, inner(both, training=True), floats(2, 4))


# Layers that only a menagerie has


@keras.saving.register_keras_serializable("menagerie")
class AddIfGiven(keras.Layer):
    """Adds its second argument if there is one."""

    def call(self, x: Any, extra: Any = None) -> Any:
        return x * 2 if extra is None else x + extra

    def compute_output_shape(self, x_shape: Any, extra_shape: Any = None) -> Any:
        return x_shape


@keras.saving.register_keras_serializable("menagerie")
class Several(keras.Layer):
    """Takes nested structures and a keyword tensor, and returns a nested structure, parts of which may stay unused."""

    def call(self, tensors: Any, scale: Any = None) -> Any:
        one, (two, three) = tensors["one"], tensors["rest"]
        return {"pair": (one * ops.expand_dims(two, 1), two), "unused": three * scale}


def sparse(array: np.ndarray) -> Any:
    """Converts to the backend's sparse tensor."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.sparse.from_dense(array)
    from jax.experimental.sparse import BCOO

    return BCOO.fromdense(array)
