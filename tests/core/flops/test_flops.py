"""FLOPs: formulas compared with backends' counts and published figures."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
import pytest
from applications import OLD_KERAS
from backend_flops import count_by_backend
from hypothesis import given, settings, strategies as st
from keras import layers, ops

import kerassplit as ks
from kerassplit.flops.count import Count, UnknownCountError, einsum
from kerassplit.flops.formulas import by_formula
from kerassplit.flops.inside import count_call
from kerassplit.flops.layers import LAYERS
from kerassplit.flops.operations import selection
from kerassplit.graph.reading import read_graph
from kerassplit.graph.shapes import ConcreteCall, concrete_call, concrete_shapes, input_shapes

BACKEND = keras.backend.backend()
BATCH = 3
IMAGE = (12, 10, 6)


def model_of(make: Callable[[Any], Any], *shapes: tuple[int, ...], dtype: str | None = None) -> keras.Model:
    inputs = [keras.Input(shape, dtype=dtype) for shape in shapes]
    return keras.Model(inputs, make(inputs if len(inputs) > 1 else inputs[0]))


def calls_of(model: keras.Model, batch_size: int = BATCH) -> list[ConcreteCall]:
    graph = read_graph(model)
    shapes = concrete_shapes(graph, input_shapes(graph, batch_size, None))
    return [concrete_call(call, shapes) for call in graph.calls if call.inputs]


def flops_of(make: Callable[[Any], Any], *shapes: tuple[int, ...], batch_size: int = BATCH) -> int:
    return sum(by_formula(call).flops for call in calls_of(model_of(make, *shapes), batch_size))


# Published figures


# What backends count


class FeedForward(layers.Layer):
    """A composite layer: its inner calls are not in the graph."""

    def __init__(self, units: int):
        super().__init__()
        self.inner, self.outer = layers.Dense(4 * units, "tanh"), layers.Dense(units)

    def build(self, shape):
        self.inner.build(shape)
        self.outer.build((*shape[:-1], self.inner.units))

    def call(self, x):
        return x + self.outer(self.inner(x))


class Convolutions(layers.Layer):
    """Convolutions inside a layer: from a layer in it, and with its own kernel."""

    def __init__(self):
        super().__init__()
        self.first = layers.Conv2D(8, 3, activation="relu")

    def build(self, shape):
        self.first.build(shape)
        self.kernel = self.add_weight(shape=(3, 3, 8, 4))

    def call(self, x):
        return ops.conv(self.first(x), self.kernel, strides=2)


class OwnWeights(layers.Layer):
    """Computes with its weights outside of any layer, and on one of them alone."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3))
        self.gamma = self.add_weight(shape=(3,))

    def call(self, x):
        return self.gamma * ops.matmul(x, ops.square(self.kernel))


class Looping(layers.Layer):
    """A loop whose number of steps is only known when it runs."""

    def call(self, x):
        return ops.while_loop(lambda y: ops.max(y) < 100, lambda y: (y * 2 + 1,), (x,))[0]


class Renamed(layers.Dense):
    """A subclass that computes the same as its base."""

    def get_config(self):
        return super().get_config()


class Twice(layers.Dense):
    """A subclass that computes something else."""

    def call(self, inputs, training=None):
        return super().call(inputs) + super().call(inputs)


@dataclass(frozen=True)
class Family:
    """A layer or operation, and how far a backend's count may differ from ours.

    Attributes:
        make: Calls it.
        shapes: Shapes of its inputs, without the batch.
        apart: Allowed relative difference by backend: backends count what they run, and some run more than the
            definition requires (XLA splits a sigmoid into four operations).
        uncounted: Backends whose counter does not support it.
    """

    make: Callable[[Any], Any]
    shapes: tuple[tuple[int, ...], ...] = (IMAGE,)
    apart: dict[str, float] = field(default_factory=dict)
    uncounted: tuple[str, ...] = ()


def attention(layer: Any, **options: Any) -> Callable[[Any], Any]:
    return lambda x: layer(x[0], x[1], **options)


ALL = ("tensorflow", "jax", "torch")


def by(**apart: float) -> dict[str, float]:
    return apart


def with_low_rank(layer: Any, shape: tuple[int | None, ...], factor: str = "lora_kernel_b") -> Any:
    layer.build(shape)
    layer.enable_lora(2, lora_alpha=3)  # scaled by 1, a factor would be no product to XLA
    getattr(layer, factor).assign(ops.ones(getattr(layer, factor).shape))
    return layer


def quantized(layer: Any, shape: tuple[int | None, ...]) -> Any:
    layer.build(shape)
    layer.quantize("int8")
    return layer


SEQUENCE = ((9, 64),)
STEPS = ((5, 12),)
PAIR = ((6, 16), (7, 16))
IN_XLA = {"jax": 0.06}  # sigmoid and the like, expanded
FAMILIES = {
    "Dense": Family(layers.Dense(7), ((5,),)),
    "Dense on sequences, tanh": Family(layers.Dense(7, activation="tanh"), ((4, 5),)),
    "Dense with LoRA": Family(with_low_rank(layers.Dense(70), (None, 50)), ((50,),), {"jax": 0.01}),
    "Dense of integers": Family(
        quantized(layers.Dense(70), (None, 50)), ((50,),), dict.fromkeys(("tensorflow", "torch", "jax"), 0.02)
    ),
    "EinsumDense": Family(layers.EinsumDense("abc,cde->abde", (None, 4, 5), bias_axes="de"), ((6, 8),)),
    "EinsumDense with dots": Family(layers.EinsumDense("...x,xy->...y", 7), ((6, 8),)),
    "Conv1D": Family(layers.Conv1D(8, 3), ((12, 6),)),
    "Conv2D": Family(layers.Conv2D(8, 3, strides=2, activation="relu")),
    "Conv2D in groups": Family(layers.Conv2D(8, 3, groups=2), uncounted=("tensorflow",)),
    "Conv2D, dilated": Family(layers.Conv2D(8, 3, dilation_rate=2)),
    "Conv2D with LoRA": Family(with_low_rank(layers.Conv2D(7, 3), (None, *IMAGE)), apart={"jax": 0.01}),
    "Conv3D": Family(layers.Conv3D(8, 3), ((6, 7, 8, 3),)),
    "Conv1DTranspose": Family(layers.Conv1DTranspose(8, 3, strides=2), ((12, 6),), {"tensorflow": 0.1}),
    "Conv2DTranspose": Family(layers.Conv2DTranspose(8, 3, strides=2), apart={"tensorflow": 0.1}),
    "Conv3DTranspose": Family(layers.Conv3DTranspose(4, 2), ((4, 5, 6, 3),), uncounted=("tensorflow",)),
    "DepthwiseConv1D": Family(layers.DepthwiseConv1D(3), ((12, 6),)),
    "DepthwiseConv2D": Family(layers.DepthwiseConv2D(3, depth_multiplier=2)),
    "SeparableConv1D": Family(layers.SeparableConv1D(8, 3), ((12, 6),)),
    "SeparableConv2D": Family(layers.SeparableConv2D(8, 3, depth_multiplier=2)),
    "AveragePooling1D": Family(layers.AveragePooling1D(2), ((12, 6),)),
    "AveragePooling2D": Family(layers.AveragePooling2D(2)),
    "MaxPooling2D": Family(layers.MaxPooling2D(3), apart={"tensorflow": 0.12, "torch": 0.12}),
    "GlobalAveragePooling2D": Family(layers.GlobalAveragePooling2D()),
    "GlobalMaxPooling2D": Family(layers.GlobalMaxPooling2D()),
    "BatchNormalization": Family(layers.BatchNormalization(), apart=by(tensorflow=0.01, jax=0.01, torch=0.34)),
    "LayerNormalization": Family(layers.LayerNormalization(), SEQUENCE, by(tensorflow=0.23, jax=0.31, torch=0.01)),
    "GroupNormalization": Family(layers.GroupNormalization(3), apart=by(tensorflow=0.17, jax=0.01, torch=0.4)),
    "RMSNormalization": Family(layers.RMSNormalization(), SEQUENCE, by(jax=0.01, torch=0.01)),
    "UnitNormalization": Family(layers.UnitNormalization(), SEQUENCE, dict.fromkeys(ALL, 0.02)),
    "Rescaling": Family(layers.Rescaling(2.0, 1.0)),
    "ReLU": Family(layers.ReLU()),
    "ReLU up to 6": Family(layers.ReLU(6.0)),
    "PReLU": Family(layers.PReLU(), apart=dict.fromkeys(ALL, 0.07)),
    "Softmax": Family(layers.Softmax(), SEQUENCE, {"jax": 0.01}),
    **{
        name: Family(getattr(layers, name)(), (IMAGE, IMAGE))
        for name in ("Add", "Subtract", "Multiply", "Maximum", "Minimum", "Average", "Concatenate")
    },
    "Dot": Family(layers.Dot(1), ((6, 4), (6, 5))),
    "Attention": Family(layers.Attention(use_scale=True), PAIR, {"jax": 0.01}),
    "Attention, concat": Family(layers.Attention(score_mode="concat"), PAIR, {"jax": 0.01}),
    "AdditiveAttention": Family(layers.AdditiveAttention(), PAIR, dict.fromkeys(ALL, 0.02)),
    "MultiHeadAttention": Family(attention(layers.MultiHeadAttention(4, 8)), PAIR, {"jax": 0.01}),
    "MultiHeadAttention, causal": Family(
        attention(layers.MultiHeadAttention(4, 8), use_causal_mask=True),
        ((7, 16), (7, 16)),
        dict.fromkeys(ALL, 0.01),
    ),
    "MultiHeadAttention on an axis": Family(
        attention(layers.MultiHeadAttention(2, 8, attention_axes=2)),
        ((5, 7, 16), (5, 7, 16)),
        dict.fromkeys(ALL, 0.01),
    ),
    "GroupQueryAttention": Family(attention(layers.GroupQueryAttention(8, 4, 2)), PAIR, by(tensorflow=0.001, jax=0.01)),
    "SimpleRNN": Family(layers.SimpleRNN(8, unroll=True), STEPS, IN_XLA),
    "LSTM": Family(layers.LSTM(8, unroll=True), STEPS, IN_XLA),
    "LSTM, all steps": Family(layers.LSTM(8, unroll=True, return_sequences=True), STEPS, IN_XLA),
    "GRU": Family(layers.GRU(8, unroll=True), STEPS, IN_XLA),
    "GRU, reset before": Family(layers.GRU(8, unroll=True, reset_after=False), STEPS, IN_XLA),
    "Bidirectional": Family(layers.Bidirectional(layers.GRU(8, unroll=True), merge_mode="sum"), STEPS, IN_XLA),
    "TimeDistributed": Family(layers.TimeDistributed(layers.Dense(5)), ((4, 6),)),
    "ConvLSTM1D": Family(layers.ConvLSTM1D(4, 3, unroll=True, return_sequences=True), ((3, 8, 2),), {"jax": 0.15}),
    "ConvLSTM2D": Family(layers.ConvLSTM2D(4, 3, unroll=True), ((3, 8, 8, 2),), {"jax": 0.15}),
    "SpectralNormalization": Family(layers.SpectralNormalization(layers.Dense(4)), ((5,),)),
    "a composite layer": Family(FeedForward(8), ((5, 8),)),
    "convolutions in a composite layer": Family(Convolutions(), apart={"jax": 0.01}),
    "weights outside of layers": Family(OwnWeights(), ((5, 8),)),
    "ops.separable_conv": Family(lambda x: ops.separable_conv(x, ops.ones((3, 3, 6, 2)), ops.ones((1, 1, 12, 4)))),
    "Reshape": Family(layers.Reshape((-1,)), ((5, 3),)),
    "Dropout": Family(layers.Dropout(0.5), ((5, 3),)),
    "ops.matmul": Family(lambda x: ops.matmul(x, ops.ones((5, 9))), ((4, 5),)),
    "ops.tensordot": Family(lambda x: ops.tensordot(x, ops.ones((5, 9)), axes=1), ((4, 5),)),
    "ops.einsum": Family(lambda x: ops.einsum("bij,bkj->bik", x[0], x[1]), ((4, 5), (6, 5))),
    "ops.conv": Family(lambda x: ops.conv(x, ops.ones((3, 3, 6, 4)))),
    "ops.dot_product_attention": Family(
        lambda x: ops.dot_product_attention(x[0], x[1], x[1]), ((5, 2, 8), (6, 2, 8)), by(tensorflow=0.001, jax=0.01)
    ),
    "ops.mean": Family(lambda x: ops.mean(x, axis=-1), ((40, 5),)),
    "ops.sum": Family(lambda x: ops.sum(x, axis=1), ((50,),)),
    "ops.exp": Family(lambda x: ops.exp(x), ((5,),)),
    "x + y": Family(lambda x: x[0] + x[1], ((5,), (5,))),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_backend_counts_what_the_formula_says(name):
    family = FAMILIES[name]
    calls = calls_of(model_of(family.make, *family.shapes))
    counted = [count_by_backend(call) for call in calls]
    if BACKEND in family.uncounted:
        assert None in counted
        return
    assert sum(count_call(call).flops for call in calls) == pytest.approx(
        sum(flops for flops, _ in counted), rel=family.apart.get(BACKEND, 0.0)
    )


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's profiler")
@pytest.mark.parametrize(
    "name",
    [
        *("Dense", "Conv1D", "Conv2D, dilated", "Conv3D", "DepthwiseConv2D", "SeparableConv2D", "AveragePooling2D"),
        *("GlobalAveragePooling2D", "Softmax", "Add", "Average", "Rescaling", "Dot", "ops.matmul"),
    ],
)
def test_tensorflows_profiler_alone_says_the_same(name):
    import tensorflow as tf
    from tensorflow.compat.v1 import profiler

    family = FAMILIES[name]
    model = model_of(family.make, *family.shapes)
    specs = [tf.TensorSpec((BATCH, *shape)) for shape in family.shapes]
    graph = tf.function(lambda *x: model(list(x), training=False)).get_concrete_function(*specs).graph
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation()).with_empty_output()
    counted = profiler.profile(graph, cmd="op", options=options.build()).total_float_ops
    assert sum(by_formula(call).flops for call in calls_of(model)) == counted


@pytest.mark.skipif(BACKEND != "jax", reason="XLA's cost analysis")
@pytest.mark.parametrize(
    "name",
    ["Dense", "Conv1D", "Conv2D, dilated", "Conv2DTranspose", "DepthwiseConv2D", "SeparableConv2D", "Add", "Dot"],
)
def test_xlas_cost_analysis_alone_says_the_same(name):
    import jax

    family = FAMILIES[name]
    model = model_of(family.make, *family.shapes)
    specs = [jax.ShapeDtypeStruct((BATCH, *shape), "float32") for shape in family.shapes]
    weights = [
        [variable.value for variable in some] for some in (model.trainable_variables, model.non_trainable_variables)
    ]
    program = jax.jit(lambda weights, *x: model.stateless_call(*weights, list(x), training=False)[0])
    counted = program.lower(weights, *specs).cost_analysis()["flops"]
    assert sum(by_formula(call).flops for call in calls_of(model)) == counted


ACTIVATIONS = (
    *("relu", "tanh", "sigmoid", "softmax", "elu", "softplus", "softsign", "hard_sigmoid", "mish", "relu6", "gelu"),
    *("leaky_relu", "log_softmax", "hard_silu", "hard_tanh", "tanh_shrink", "squareplus", "exponential"),
)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="XLA expands them, torch has one operation for some")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_cost_what_their_definitions_say(name):
    (call,) = calls_of(model_of(layers.Activation(name), (40,)))
    flops, _ = count_by_backend(call)
    assert by_formula(call).flops == flops


@pytest.mark.parametrize(
    "layer",
    [
        *(layers.Embedding(10, 4), layers.Flatten(), layers.Permute((1,)), layers.Identity(), layers.Dropout(0.3)),
        *(layers.RepeatVector(3), layers.GaussianNoise(0.2), layers.ActivityRegularization(0.1)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_only_moves_numbers_costs_nothing(layer):
    integers = isinstance(layer, layers.Embedding)
    profile = ks.profile(model_of(layer, (5,), dtype="int32" if integers else None))
    assert profile.flops == 0
    assert profile.calls[0].counted_by == "formula"


# Properties

SIDES = st.integers(1, 9)


@given(SIDES, SIDES, SIDES, SIDES)
@settings(max_examples=25, deadline=None)
def test_a_convolution_over_one_position_is_a_dense_layer(channels, filters, side, batch_size):
    conv = layers.Conv2D(filters, side, activation="relu")
    dense = keras.Sequential([keras.Input((side, side, channels)), layers.Flatten(), layers.Dense(filters, "relu")])
    assert flops_of(conv, (side, side, channels), batch_size=batch_size) == ks.profile(dense, batch_size).flops


@given(SIDES, st.integers(1, 4), st.integers(2, 4))
@settings(max_examples=25, deadline=None)
def test_groups_divide_the_products_of_a_convolution(side, multiple, groups):
    shape = (side + 2, side + 2, multiple * groups)
    whole = flops_of(layers.Conv2D(6 * groups, 3, use_bias=False), shape)
    assert flops_of(layers.Conv2D(6 * groups, 3, use_bias=False, groups=groups), shape) * groups == whole


@given(SIDES, SIDES, SIDES)
@settings(max_examples=25, deadline=None)
def test_a_separable_convolution_is_a_depthwise_and_a_pointwise_one(channels, filters, side):
    shape = (side + 2, side + 2, channels)
    apart = keras.Sequential(
        [keras.Input(shape), layers.DepthwiseConv2D(3, use_bias=False), layers.Conv2D(filters, 1, activation="tanh")]
    )
    assert flops_of(layers.SeparableConv2D(filters, 3, activation="tanh"), shape) == ks.profile(apart, BATCH).flops


@given(st.lists(SIDES, min_size=4, max_size=4))
@settings(max_examples=25, deadline=None)
def test_einsum_and_matmul_count_alike(sides):
    batch, rows, inner, columns = sides
    product = einsum("...ij,...jk->...ik", [(batch, rows, inner), (batch, inner, columns)])
    assert product.multiply_adds == math.prod(sides)
    assert product.flops == flops_of(ops_matmul, (rows, inner), (inner, columns), batch_size=batch)


def ops_matmul(x: Any) -> Any:
    return ops.matmul(x[0], x[1])


@given(st.sampled_from(["SimpleRNN", "LSTM", "GRU"]), SIDES, SIDES, SIDES, SIDES)
@settings(max_examples=25, deadline=None)
def test_a_recurrent_layer_costs_its_step_as_often_as_there_are_steps(kind, units, width, steps, batch_size):
    make = getattr(layers, kind)
    one = flops_of(make(units), (1, width), batch_size=1)
    assert flops_of(make(units), (steps, width), batch_size=batch_size) == one * steps * batch_size
    assert flops_of(layers.Bidirectional(make(units)), (steps, width), batch_size=1) == 2 * one * steps


def test_stacked_cells_cost_what_the_layers_cost_one_after_another():
    stacked = flops_of(layers.RNN([layers.LSTMCell(8), layers.GRUCell(6)]), (5, 12))
    apart = keras.Sequential([keras.Input((5, 12)), layers.LSTM(8, return_sequences=True), layers.GRU(6)])
    assert stacked == ks.profile(apart, BATCH).flops


@given(st.integers(1, 6))
@settings(max_examples=6, deadline=None)
def test_flops_grow_with_the_batch(batch_size):
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.ReLU(), layers.Flatten(), layers.Dense(2)]
    )
    assert ks.profile(model, batch_size).flops == batch_size * ks.profile(model).flops


# Composite and unknown layers


def test_a_composite_layer_counts_as_the_calls_inside_it():
    model = model_of(FeedForward(8), (5, 8))
    (call,) = ks.profile(model, BATCH).calls
    flat = keras.Sequential([keras.Input((5, 8)), layers.Dense(32, "tanh"), layers.Dense(8)])
    assert call.counted_by == "formula"
    assert call.flops == ks.profile(flat, BATCH).flops + BATCH * 5 * 8
    assert call.multiply_adds == BATCH * 5 * 8 * 32 * 2


def test_composite_layers_inside_of_each_other_and_models_inside_count_as_if_flat():
    nested = keras.Sequential([keras.Input((5, 8)), FeedForward(8), layers.LayerNormalization()])

    class Outer(layers.Layer):
        def build(self, shape):
            self.inner = nested

        def call(self, x):
            return x + self.inner(x) * self.inner(x)

    (call,) = ks.profile(model_of(Outer(), (5, 8)), BATCH).calls
    assert call.flops == 2 * ks.profile(nested, BATCH).flops + 2 * BATCH * 5 * 8


class AttentionWithCache(layers.MultiHeadAttention):
    """Like KerasHub's: its `call` has an argument missing from the inherited `compute_output_spec`."""

    def call(self, query, value, key=None, cache=None):
        return layers.MultiHeadAttention.call(self, query, value, key)


class Decoder(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.attention = AttentionWithCache(2, 4)

    def call(self, x):
        return self.attention(x, x, cache=None)


def test_attention_with_an_argument_of_its_own_inside_a_layer_costs_what_attention_does():
    x, decoder = keras.Input((6, 8), name="x"), Decoder()
    decoder(np.zeros((1, 6, 8), "float32"))
    plain = ks.profile(keras.Model(x, layers.MultiHeadAttention(2, 4)(x, x)))
    model = keras.Model(x, decoder(x))
    assert ks.profile(model).flops == plain.flops
    assert "compute_output_spec" not in vars(decoder.attention)


def test_arithmetic_on_weights_alone_counts_once():
    (call,) = ks.profile(model_of(OwnWeights(), (5, 8)), BATCH).calls
    assert call.multiply_adds == BATCH * 5 * 8 * 3
    assert call.flops == 2 * call.multiply_adds + 8 * 3 + BATCH * 5 * 3


def test_a_cell_of_ones_own_counts_once_for_each_step():
    class Cell(layers.Layer):
        state_size = output_size = 4

        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 4))
            self.recurrent = self.add_weight(shape=(4, 4))

        def call(self, x, states):
            state = ops.tanh(ops.matmul(x, self.kernel) + ops.matmul(states[0], self.recurrent))
            return state, [state]

    (call,) = ks.profile(model_of(layers.RNN(Cell()), (5, 12)), BATCH).calls
    assert call.flops == flops_of(layers.SimpleRNN(4, use_bias=False), (5, 12))


def test_counting_leaves_the_layers_and_the_names_of_later_ones_alone():
    layer = Convolutions()
    model = model_of(layer, IMAGE)
    kernel, nodes = layer.kernel, [len(one._inbound_nodes) for one in (layer, layer.first)]
    keras.utils.clear_session()
    before = [layers.Dense(2).name, layers.Add().name, keras.Input((2,)).name]
    keras.utils.clear_session()
    assert ks.profile(model).flops
    assert [layers.Dense(2).name, layers.Add().name, keras.Input((2,)).name] == before
    assert layer.kernel is kernel
    assert [len(one._inbound_nodes) for one in (layer, layer.first)] == nodes


def test_a_subclass_has_the_formula_of_its_base_only_if_it_computes_the_same():
    plain, same, other = (ks.profile(model_of(kind(4), (5,))).calls[0] for kind in (layers.Dense, Renamed, Twice))
    assert (same.flops, same.counted_by) == (plain.flops, "formula")
    assert (other.flops, other.counted_by) == (2 * plain.flops + 4, "formula")


def test_what_nobody_can_count_is_unknown_and_never_nothing():
    model = model_of(lambda x: layers.Dense(4)(ops.linalg.svd(layers.Dense(9)(x))[1]), (6, 9))
    profile = ks.profile(model)
    (name,) = profile.unknown
    (call,) = [call for call in profile.calls if call.name == name]
    assert (call.kind, call.flops, call.multiply_adds, call.counted_by) == ("SVD", None, None, "unknown")
    assert profile.flops is None
    assert profile.multiply_adds is None
    assert profile.known_flops == sum(call.flops for call in profile.calls if call.name != name) > 0
    assert f"FLOPs of 1 call are unknown, so the totals are too ('>' tells those that are known): '{name}'." in str(
        profile
    )
    assert "unknown" in str(profile)


class Either(layers.Layer):
    """Runs one of two branches, depending on the values."""

    def call(self, x):
        return ops.cond(ops.sum(x) > 0, lambda: x * 2, lambda: x + x * x)


class Native(layers.Layer):
    """Computes with NumPy, which cannot be traced."""

    def call(self, x):
        return ops.convert_to_tensor(np.square(x))

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


class Chosen(layers.Layer):
    """A product whose shape depends on the values."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(8)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return x + ops.sum(self.dense(ops.take(x, ops.nonzero(x[:, 0])[0], axis=0)))

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


@pytest.mark.parametrize("kind", [Looping, Either, Native, Chosen])
def test_what_the_numbers_decide_or_no_trace_can_follow_is_unknown(kind):
    (call,) = ks.profile(model_of(kind(), (5,)), BATCH).calls
    assert (call.flops, call.multiply_adds, call.counted_by) == (None, None, "unknown")


@dataclass
class Scaled:
    """A custom activation without a hash."""

    factor: float

    def __call__(self, x):
        return x * self.factor


def test_an_activation_of_a_user_is_traced():
    (call,) = ks.profile(model_of(layers.Dense(2, activation=Scaled(2.0)), (5,)), BATCH).calls
    assert call.counted_by == "formula"
    assert call.flops == BATCH * (2 * 5 * 2 + 2 + 2)


def test_a_layer_whose_formula_fails_is_traced(monkeypatch):
    def broken(call):
        raise AttributeError("an option of a later Keras")

    (call,) = calls_of(model_of(layers.Dense(3), (4,)))
    monkeypatch.setitem(LAYERS, layers.Dense, broken)
    with pytest.raises(UnknownCountError):
        by_formula(call)
    assert ks.profile(model_of(layers.Dense(3), (4,))).flops == 2 * 4 * 3 + 3


def test_an_embedding_with_an_adapter_is_no_table_alone():
    embedding = with_low_rank(layers.Embedding(10, 4), (None,), "lora_embeddings_b")
    (call,) = ks.profile(model_of(embedding, (5,), dtype="int32")).calls
    assert (call.multiply_adds, call.flops) == (
        10 * 4 * 2,
        2 * 10 * 4 * 2 + 2 * 10 * 4,
    )  # the factors, scaled and added


# Operations without an oracle: counted by hand


def count_of(make: Callable[[Any], Any], *shapes: tuple[int, ...], dtype: str | None = None) -> int | None:
    return ks.profile(model_of(make, *shapes, dtype=dtype)).flops


class Number:
    """A number that counts the operations on it."""

    done = 0

    def __init__(self, value: float):
        self.value = value

    def _result(self, value: float) -> "Number":
        Number.done += 1
        return Number(value)

    def __add__(self, other: "Number") -> "Number":
        return self._result(self.value + other.value)

    def __sub__(self, other: "Number") -> "Number":
        return self._result(self.value - other.value)

    def __mul__(self, weight: float) -> "Number":
        return self._result(self.value * weight)


def between(one: Number, other: Number, weight: float) -> Number:
    return one + (other - one) * weight


def test_bilinear_resizing_is_three_interpolations_for_each_number():
    image = np.random.default_rng(0).standard_normal((4, 5)).astype("float32")
    numbers = [[Number(float(value)) for value in row] for row in image]
    made = np.zeros((8, 10), "float32")
    Number.done = 0
    for y, x in np.ndindex(made.shape):
        (row, down), (column, right) = (divmod(max((place + 0.5) / 2 - 0.5, 0), 1) for place in (y, x))
        rows = [min(int(row) + step, 3) for step in (0, 1)]
        columns = [min(int(column) + step, 4) for step in (0, 1)]
        upper, lower = (between(numbers[one][columns[0]], numbers[one][columns[1]], right) for one in rows)
        made[y, x] = between(upper, lower, down).value
    resized = ops.image.resize(image[None, :, :, None], (8, 10), interpolation="bilinear")
    assert np.allclose(made, ops.convert_to_numpy(resized)[0, :, :, 0], atol=1e-5)
    assert count_of(lambda x: ops.image.resize(x, (8, 10)), (4, 5, 1)) == Number.done


@pytest.mark.parametrize(("method", "taps"), [("bicubic", 4), ("lanczos3", 6)])
def test_resizing_with_more_taps_is_a_sum_over_each_row_of_taps_and_over_these(method, taps):
    sums = (taps + 1) * (taps + taps - 1)
    assert count_of(lambda x: ops.image.resize(x, (6, 6), method), (4, 4, 3)) == 6 * 6 * 3 * sums


def test_resizing_layers_cost_what_the_operation_does():
    resized = count_of(lambda x: ops.image.resize(x, (8, 12)), (4, 6, 3))
    assert count_of(layers.Resizing(8, 12), (4, 6, 3)) == resized == 9 * 8 * 12 * 3
    assert count_of(layers.UpSampling2D(2, interpolation="bilinear"), (4, 6, 3)) == resized
    assert count_of(layers.Resizing(8, 12, interpolation="nearest"), (4, 6, 3)) == 0
    assert count_of(lambda x: ops.image.resize(x, (2, 2), antialias=True), (4, 6, 3)) is None


@given(st.integers(1, 200), st.data())
def test_selecting_costs_a_maximum_at_least_and_sorting_at_most(count, data):
    largest = data.draw(st.integers(1, count))
    assert selection(count, 1) == count - 1
    assert selection(count, count) == sum(math.ceil(math.log2(number)) for number in range(1, count + 1))
    assert count - 1 <= selection(count, largest) <= min(selection(count, count), largest * (count - 1))


def test_a_mixture_of_experts_is_known():
    class Mixture(layers.Layer):
        def build(self, shape):
            self.router = self.add_weight(shape=(8, 6))
            self.experts = self.add_weight(shape=(6, 8, 8))

        def call(self, x):
            weights, chosen = ops.top_k(ops.softmax(ops.matmul(x, self.router)), 2)
            gates = ops.sum(ops.one_hot(chosen, 6) * weights[..., None], axis=-2)
            made = ops.einsum("btd,edf->btef", x, self.experts)
            return ops.einsum("btef,bte->btf", made, gates)

    (call,) = ks.profile(model_of(Mixture(), (5, 8)), BATCH).calls
    rows = BATCH * 5
    products = 8 * 6 + 6 * 8 * 8 + 6 * 8
    others = 5 * 6 + selection(6, 2) + 2 * 6 + 6  # softmax, selection, gates and their sum
    assert (call.multiply_adds, call.flops) == (rows * products, rows * (2 * products + others))


def test_sorting_is_known():
    assert count_of(ops.sort, (3, 8)) == 3 * (1 + 2 + 2 + 4 * 3)
    assert count_of(ops.argsort, (3, 8)) == count_of(ops.sort, (3, 8))


def test_a_cache_is_written_for_nothing():
    class Cached(layers.Layer):
        def build(self, *_):
            self.dense = layers.Dense(4)
            self.dense.build((None, 1, 4))

        def call(self, cache, x):
            return ops.slice_update(cache, (0, 3, 0), self.dense(x))

    assert count_of(lambda x: Cached()(x[0], x[1]), (6, 4), (1, 4)) == 2 * 4 * 4 + 4


@pytest.mark.skipif(OLD_KERAS, reason="it only replaces numbers there")
def test_scattering_costs_one_addition_for_each_number_only_where_it_adds():
    indices = np.zeros((3, 1), "int32")

    def scattered(reduction: str | None) -> int | None:
        return count_of(lambda x: ops.scatter_update(x[0], indices, x[1][0], reduction=reduction), (4,), (3, 4))

    assert (scattered(None), scattered("add")) == (0, 3 * 4)


def test_fourier_transforms_cost_the_customary_five_n_log_n():
    assert count_of(lambda x: ops.fft((x[0], x[1]))[0], (3, 8), (3, 8)) == 3 * 5 * 8 * 3
    assert count_of(lambda x: ops.fft2((x[0], x[1]))[0], (4, 8), (4, 8)) == 5 * 32 * 5
    assert count_of(lambda x: ops.rfft(x)[0], (3, 8)) == 3 * 5 * 8 * 3 / 2
    assert count_of(lambda x: ops.irfft((x[0], x[1])), (3, 5), (3, 5)) == 3 * 5 * 8 * 3 / 2
    frames = 1 + 32 // 4
    assert count_of(lambda x: ops.stft(x, 8, 4, 8)[0], (32,)) == frames * (8 + 5 * 8 * 3 / 2)


@pytest.mark.skipif(BACKEND != "jax", reason="XLA's cost analysis")
def test_xla_takes_eight_n_log_n():
    (call,) = calls_of(model_of(lambda x: ops.fft((x[0], x[1]))[0], (3, 8), (3, 8)))
    parts = 3 * BATCH * 3 * 8  # made complex, and taken apart again
    assert count_by_backend(call)[0] == by_formula(call).flops * 8 / 5 + parts


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (lambda x: ops.einsum("bi,bi->bi", x[0], x[1]), ((4,), (4,))),
        (lambda x: ops.outer(x, ops.ones((2,))), ((2,),)),
        (lambda x: ops.tensordot(x, ops.ones((2,)), axes=0), ((2,),)),
    ],
    ids=["einsum", "outer", "tensordot"],
)
def test_products_that_sum_over_nothing_are_one_flop_each(make, shapes):
    (call,) = calls_of(model_of(make, *shapes))
    assert by_formula(call) == Count(others=BATCH * 4)


@given(SIDES, SIDES, SIDES)
@settings(max_examples=25, deadline=None)
def test_einsum_adds_where_an_index_is_lost(rows, inner, columns):
    shapes = [(rows, inner), (inner, columns)]
    combinations = rows * inner * columns
    assert einsum("ij,jk->ik", shapes) == einsum("ij,jk", shapes) == Count(multiply_adds=combinations)
    assert einsum("ij,jk->ijk", shapes) == Count(others=combinations)


def test_a_formula_without_known_sides_refuses():
    (call,) = calls_of(model_of(layers.Dense(3), (4,)))
    open_call = replace(call, given=((None, 4),), made=((None, 3),))
    with pytest.raises(UnknownCountError):
        by_formula(open_call)
    assert count_by_backend(open_call) is None


def test_a_batch_that_an_operation_changes_goes_on_through_layers():
    (_, relu) = calls_of(model_of(lambda x: layers.ReLU()(ops.reshape(x, (-1, 4))), (6, 4)))
    assert relu.made == ((BATCH * 6, 4),)
