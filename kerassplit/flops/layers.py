"""Arithmetic of Keras's layers: a table from their classes to the formulas of operations (`operations.py`).

Counts are for inference: dropout and the like, active only in training, cost nothing. Zero-padded positions count like
all others. Masks of recurrent layers save nothing: with a mask, they still compute every step.

Sources, besides those of the operations: group normalization, Wu and He (2018); attention, Luong et al. (2015),
Bahdanau et al. (2015), Ainslie et al., "GQA" (2023); low-rank adapters, Hu et al., "LoRA" (2021); 8-bit integers,
Dettmers et al., "LLM.int8()" (2022); ReLU, Nair and Hinton (2010), leaky ReLU, Maas et al. (2013), PReLU, He et al.,
"Delving deep into rectifiers" (2015), ELU, Clevert et al. (2016). All others (EinsumDense, Rescaling, merging layers,
UnitNormalization) are counted from the definition in Keras's documentation.
"""

import math
from typing import Any

import keras
from keras import layers

from kerassplit.flops.count import NOTHING, Count, UnknownCountError, activation, einsum, size
from kerassplit.flops.operations import (
    Formula,
    attention,
    average_pooling,
    batch_normalization,
    by_moments,
    by_root_mean_square,
    each,
    free,
    max_pooling,
    mean,
    normalized_groups,
    products,
    reduction,
    resized,
    separable,
)
from kerassplit.graph.internals.layers import all_layers
from kerassplit.graph.shapes import ConcreteCall, Shape


def _dense(call: ConcreteCall) -> Count:
    layer, out = call.operation, size(call.made[0])
    inputs = call.given[0][-1] or 0
    product = products(out, inputs) + _quantized(layer, size(call.given[0]), out)
    return product + _low_rank(layer, call, (inputs,), (layer.units,)) + _after(layer, layer.bias is not None, out)


def _einsum_dense(call: ConcreteCall) -> Count:
    layer, out = call.operation, size(call.made[0])
    if layer.lora_enabled or layer.quantization_mode:
        raise UnknownCountError
    product = einsum(layer.equation, [call.given[0], layer.kernel.shape])
    return product + _after(layer, layer.bias is not None, out)


def _quantized(layer: Any, given: int, made: int) -> Count:
    """Counts dynamic quantization to 8-bit integers: inputs are scaled, rounded and clipped, outputs scaled back.

    The matrix product itself counts like a floating-point one: it has the same number of multiply-adds.
    """
    if layer.quantization_mode not in (None, "int8"):
        raise UnknownCountError
    return Count(others=6 * given + 2 * made) if layer.quantization_mode else NOTHING


def _low_rank(layer: Any, call: ConcreteCall, left: Shape, right: Shape) -> Count:
    """Counts a low-rank adapter: Keras multiplies its two factors and adds them to the kernel in every call."""
    if not layer.lora_enabled:
        return NOTHING
    if layer.quantization_mode:  # then the inputs are multiplied by both factors in turn
        rows = size(call.made[0]) // size(right)
        return Count(rows * layer.lora_rank * (size(left) + size(right)), 2 * size(call.made[0]))
    kernel = size(left) * size(right)
    return Count(kernel * layer.lora_rank, 2 * kernel)


def _after(layer: Any, bias: bool, elements: int) -> Count:
    """Counts the bias and the activation of a layer."""
    return Count(others=elements if bias else 0) + activation(layer.activation, elements)


def _channels(layer: Any, shape: Shape) -> int:
    side = shape[-1] if layer.data_format == "channels_last" else shape[1]
    return side or 0


def _convolution(call: ConcreteCall) -> Count:
    layer, out = call.operation, size(call.made[0])
    taps = math.prod(layer.kernel_size) * _channels(layer, call.given[0]) // layer.groups
    adapter = Count(taps * layer.lora_rank * layer.filters, 2 * taps * layer.filters) if layer.lora_enabled else NOTHING
    return products(out, taps) + adapter + _after(layer, layer.use_bias, out)


def _transposed_convolution(call: ConcreteCall) -> Count:
    layer = call.operation
    product = products(size(call.given[0]), *layer.kernel_size, layer.filters)
    return product + _after(layer, layer.use_bias, size(call.made[0]))


def _depthwise_convolution(call: ConcreteCall) -> Count:
    layer, out = call.operation, size(call.made[0])
    return products(out, *layer.kernel_size) + _after(layer, layer.use_bias, out)


def _separable_convolution(call: ConcreteCall) -> Count:
    layer, out = call.operation, size(call.made[0])
    depthwise = (*layer.kernel_size, _channels(layer, call.given[0]), layer.depth_multiplier)
    return separable(out, depthwise, layer.filters) + _after(layer, layer.use_bias, out)


def _layer_normalization(call: ConcreteCall) -> Count:
    return by_moments(call, normalized_groups(call), _weights(call.operation))


def _group_normalization(call: ConcreteCall) -> Count:
    return by_moments(call, (call.given[0][0] or 0) * call.operation.groups, _weights(call.operation))


def _weights(layer: Any) -> int:
    return bool(layer.scale) + bool(layer.center)


def _activation(call: ConcreteCall) -> Count:
    return activation(call.operation.activation, size(call.made[0]))


def _relu(call: ConcreteCall) -> Count:
    layer = call.operation
    steps = 1 + bool(layer.negative_slope) + (layer.max_value is not None) + bool(layer.threshold)
    return Count(others=steps * size(call.made[0]))


def _softmax(call: ConcreteCall) -> Count:
    masked = sum(isinstance(value, keras.KerasTensor) for value in (*call.args, *call.kwargs.values())) > 1
    return each(7 if masked else 5)(call)  # a mask is scaled and added


def _merge(call: ConcreteCall) -> Count:
    return Count(others=(_operands(call) - 1) * size(call.made[0]))


def _average(call: ConcreteCall) -> Count:
    return Count(others=_operands(call) * size(call.made[0]))


def _operands(call: ConcreteCall) -> int:
    return len(keras.tree.flatten(call.args or call.kwargs))


def _dot(call: ConcreteCall) -> Count:
    axes = call.operation.axes
    axis = axes if isinstance(axes, int) else axes[0]
    norms = Count(others=3 * sum(map(size, call.given)) if call.operation.normalize else 0)
    return products(size(call.made[0]), call.given[0][axis]) + norms


def _embedding(call: ConcreteCall) -> Count:
    """Counts an embedding, which only copies rows; quantized ones and ones with adapters compute, and are traced."""
    if call.operation.quantization_mode or call.operation.lora_enabled:
        raise UnknownCountError
    return NOTHING


def _lookup(call: ConcreteCall) -> Count:
    """Counts a lookup: words or numbers become indices by comparing and hashing, without arithmetic."""
    if getattr(call.operation, "output_mode", "int") != "int":
        raise UnknownCountError
    return NOTHING


def _attention(call: ConcreteCall) -> Count:
    """Counts the scores of all pairs, their softmax, and the weighted sum of the values."""
    layer = call.operation
    query, value, *key = (symbol.shape for symbol in keras.tree.flatten(call.argument("inputs")))
    width = (key[0] if key else value)[-1]
    scores = size(query[:-1]) * (value[-2] or 0)
    masked = 2 * (len(call.given) > len(key) + 2 or bool(call.argument("use_causal_mask")))
    if isinstance(layer, layers.AdditiveAttention) or layer.score_mode == "concat":
        scaled = layer.scale is not None or isinstance(layer, layers.AdditiveAttention)
        sums = Count(others=(5 + masked + (3 + scaled) * width) * scores)  # sum, tanh, scale, sum
        return products(scores, value[-1]) + sums
    return attention(scores, width, value[-1], masked + (layer.scale is not None))


def _multi_head_attention(call: ConcreteCall) -> Count:
    layer, config = call.operation, call.operation.get_config()
    grouped = isinstance(layer, layers.GroupQueryAttention)
    heads = config["num_query_heads"] if grouped else config["num_heads"]
    key_heads = config["num_key_value_heads"] if grouped else heads
    width = config["head_dim"] if grouped else config["key_dim"]
    value_width = width if grouped else config["value_dim"] or width
    if any(getattr(one, "lora_enabled", False) or one.quantization_mode for one in all_layers(layer)):
        raise UnknownCountError
    query, value = (call.argument(name).shape for name in ("query", "value"))
    key = getattr(call.argument("key"), "shape", value)
    axes = config.get("attention_axes") or range(1, len(query) - 1)
    axes = [axes] if isinstance(axes, int) else axes
    rows, columns = size(query[:-1]), size([value[axis] for axis in axes])
    pairs = heads * rows * columns
    count = NOTHING
    projections = [(query, heads * width), (key, key_heads * width), (value, key_heads * value_width)]
    if config.get("use_gate"):
        projections.append((query, heads * value_width))
        count += Count(others=rows * heads * value_width)
    for shape, units in projections:
        count += Count(size(shape) * units, size(shape[:-1]) * units if config["use_bias"] else 0)
    masks = len(call.given) - len({"query", "value"}) - (call.argument("key") is not None)
    masked = masks > 0 or bool(call.argument("use_causal_mask"))
    count += attention(pairs, width, value_width, 1 + masked)  # scaling; selecting the score or minus infinity
    made = size(call.made[0])
    return count + Count(rows * heads * value_width * (made // rows), made if config["use_bias"] else 0)


LAYERS: dict[type, Formula] = {
    layers.Dense: _dense,
    layers.EinsumDense: _einsum_dense,
    **dict.fromkeys((layers.Conv1D, layers.Conv2D, layers.Conv3D), _convolution),
    **dict.fromkeys((layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose), _transposed_convolution),
    **dict.fromkeys((layers.DepthwiseConv1D, layers.DepthwiseConv2D), _depthwise_convolution),
    **dict.fromkeys((layers.SeparableConv1D, layers.SeparableConv2D), _separable_convolution),
    **dict.fromkeys((layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D), average_pooling),
    **dict.fromkeys((layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D), max_pooling),
    **dict.fromkeys(
        (layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D), mean
    ),
    **dict.fromkeys((layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D), reduction),
    layers.BatchNormalization: batch_normalization,
    layers.LayerNormalization: _layer_normalization,
    layers.GroupNormalization: _group_normalization,
    layers.RMSNormalization: lambda call: by_root_mean_square(call, 1),
    layers.UnitNormalization: each(3),  # square, sum, product
    layers.Normalization: each(2),
    layers.Rescaling: each(2),
    layers.Activation: _activation,
    layers.ReLU: _relu,
    layers.LeakyReLU: each(2),
    layers.PReLU: each(5),  # relu(x) - alpha * relu(-x)
    layers.ELU: each(4),
    layers.Softmax: _softmax,
    **dict.fromkeys((layers.Add, layers.Subtract, layers.Multiply, layers.Maximum, layers.Minimum), _merge),
    layers.Average: _average,
    layers.Dot: _dot,
    layers.Attention: _attention,
    layers.AdditiveAttention: _attention,
    layers.MultiHeadAttention: _multi_head_attention,
    layers.GroupQueryAttention: _multi_head_attention,
    layers.Embedding: _embedding,
    **dict.fromkeys((layers.TextVectorization, layers.StringLookup, layers.IntegerLookup, layers.Hashing), _lookup),
    **dict.fromkeys((layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D), resized),
    layers.Resizing: resized,
    **dict.fromkeys((layers.Concatenate, layers.Flatten, layers.Reshape, layers.Permute), free),
    **dict.fromkeys((layers.RepeatVector, layers.Identity, layers.InputLayer, layers.ActivityRegularization), free),
    **dict.fromkeys((layers.Cropping1D, layers.Cropping2D, layers.Cropping3D), free),
    **dict.fromkeys((layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D), free),
    # These pass their input on unless the model trains.
    **dict.fromkeys((layers.Dropout, layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise), free),
    **dict.fromkeys((layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D), free),
    **dict.fromkeys((layers.RandomFlip, layers.RandomRotation, layers.RandomZoom, layers.RandomTranslation), free),
    **dict.fromkeys((layers.RandomContrast, layers.RandomBrightness), free),
}
"""From a layer's class to its formula. A formula raises `UnknownCountError` for options that it does not cover."""
