"""Arithmetic of Keras's layers, as a table from classes to functions of shapes.

What is counted is inference: what dropout and the like do in training costs nothing here. Positions of zero padding
count like all others. Masks that recurrent layers follow do not: with a mask they compute every step, too.

Sources: convolutions, Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016); separable ones,
Howard et al., "MobileNets" (2017); normalisations by batch, Ioffe and Szegedy (2015), by layer, Ba et al. (2016), by
group, Wu and He (2018), by root mean square, Zhang and Sennrich (2019); attention, Luong et al. (2015), Bahdanau et al.
(2015), Vaswani et al., "Attention is all you need" (2017), Ainslie et al., "GQA" (2023); adapters of low rank, Hu et
al., "LoRA" (2021); integers of 8 bits, Dettmers et al., "LLM.int8()" (2022); rectifiers, Nair and Hinton (2010), leaky
ones, Maas et al. (2013), with learned slopes, He et al., "Delving deep into rectifiers" (2015), exponential ones,
Clevert et al. (2016). What is not among these (pooling, Dot, EinsumDense, Rescaling, Softmax, UpSampling, merging
layers, UnitNormalization) is counted from the definition in Keras's documentation.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from kerassplit.costs.concrete import ConcreteCall, Shape
from kerassplit.costs.count import NOTHING, Count, UnknownCountError, activation, einsum, reduction, size
from kerassplit.graph import all_layers

Formula = Callable[[ConcreteCall], Count]


def _dense(call: ConcreteCall) -> Count:
    layer, out = call.operation, size(call.made[0])
    inputs = call.given[0][-1] or 0
    product = Count(multiply_adds=out * inputs) + _quantized(layer, size(call.given[0]), out)
    return product + _low_rank(layer, call, (inputs,), (layer.units,)) + _after(layer, layer.bias is not None, out)


def _einsum_dense(call: ConcreteCall) -> Count:
    layer, out = call.operation, size(call.made[0])
    if layer.lora_enabled or layer.quantization_mode:
        raise UnknownCountError
    product = einsum(layer.equation, [call.given[0], layer.kernel.shape])
    return product + _after(layer, layer.bias is not None, out)


def _quantized(layer: Any, given: int, made: int) -> Count:
    """Dynamic quantization to integers of 8 bits: the inputs scaled, rounded and clipped, the outputs scaled back.

    The product itself counts as that of floats does: its multiply-adds are as many.
    """
    if layer.quantization_mode not in (None, "int8"):
        raise UnknownCountError
    return Count(others=6 * given + 2 * made) if layer.quantization_mode else NOTHING


def _low_rank(layer: Any, call: ConcreteCall, left: Shape, right: Shape) -> Count:
    """An adapter of low rank: Keras multiplies its two factors and adds them to the kernel in every call."""
    if not layer.lora_enabled:
        return NOTHING
    if layer.quantization_mode:  # then the inputs go through both factors one after the other
        rows = size(call.made[0]) // size(right)
        return Count(rows * layer.lora_rank * (size(left) + size(right)), 2 * size(call.made[0]))
    kernel = size(left) * size(right)
    return Count(kernel * layer.lora_rank, 2 * kernel)


def _after(layer: Any, bias: bool, elements: int) -> Count:
    """The bias and the activation of a layer."""
    return Count(others=elements if bias else 0) + activation(layer.activation, elements)


def _channels(layer: Any, shape: Shape) -> int:
    side = shape[-1] if layer.data_format == "channels_last" else shape[1]
    return side or 0


def _convolution(call: ConcreteCall) -> Count:
    layer, out = call.operation, size(call.made[0])
    taps = math.prod(layer.kernel_size) * _channels(layer, call.given[0]) // layer.groups
    product = Count(multiply_adds=out * taps)
    if layer.lora_enabled:
        product += Count(taps * layer.lora_rank * layer.filters, 2 * taps * layer.filters)
    return product + _after(layer, layer.use_bias, out)


def _transposed_convolution(call: ConcreteCall) -> Count:
    """Every input number goes, through the kernel, into every filter: the backward pass of a convolution."""
    layer = call.operation
    product = Count(multiply_adds=size(call.given[0]) * math.prod(layer.kernel_size) * layer.filters)
    return product + _after(layer, layer.use_bias, size(call.made[0]))


def _depthwise_convolution(call: ConcreteCall) -> Count:
    layer, out = call.operation, size(call.made[0])
    return Count(multiply_adds=out * math.prod(layer.kernel_size)) + _after(layer, layer.use_bias, out)


def _separable_convolution(call: ConcreteCall) -> Count:
    layer, out = call.operation, size(call.made[0])
    middle = out // layer.filters * _channels(layer, call.given[0]) * layer.depth_multiplier
    depthwise = Count(multiply_adds=middle * math.prod(layer.kernel_size))
    return depthwise + Count(multiply_adds=middle * layer.filters) + _after(layer, layer.use_bias, out)


def _average_pooling(call: ConcreteCall) -> Count:
    return Count(others=size(call.made[0]) * _window(call.operation))


def _max_pooling(call: ConcreteCall) -> Count:
    return Count(others=size(call.made[0]) * (_window(call.operation) - 1))


def _window(layer: Any) -> int:
    return layer.pool_size if isinstance(layer.pool_size, int) else math.prod(layer.pool_size)


def _global_average(call: ConcreteCall) -> Count:
    return Count(others=size(call.given[0]))  # the sum, and one division for each mean


def _global_max(call: ConcreteCall) -> Count:
    return reduction(size(call.given[0]), size(call.made[0]))


def _batch_normalization(call: ConcreteCall) -> Count:
    """`x * a + b`, where `a` and `b` come out of statistics and weights of each channel."""
    channels = call.given[0][call.operation.axis] or 0
    return Count(others=2 * size(call.given[0]) + 5 * channels)


def _layer_normalization(call: ConcreteCall) -> Count:
    """Mean, difference, square, mean, product; then `gamma` and `beta`."""
    layer, elements = call.operation, size(call.given[0])
    axes = [layer.axis] if isinstance(layer.axis, int) else layer.axis
    return _moments(layer, elements, elements // size([call.given[0][axis] for axis in axes]))


def _group_normalization(call: ConcreteCall) -> Count:
    groups = (call.given[0][0] or 0) * call.operation.groups
    return _moments(call.operation, size(call.given[0]), groups)


def _moments(layer: Any, elements: int, rows: int) -> Count:
    return Count(others=(5 + bool(layer.scale) + bool(layer.center)) * elements + 4 * rows)


def _rms_normalization(call: ConcreteCall) -> Count:
    """Square, mean, product, `scale`."""
    axis = call.operation.axis
    axes = [axis] if isinstance(axis, int) else axis
    elements = size(call.given[0])
    return Count(others=4 * elements + 3 * (elements // size([call.given[0][axis] for axis in axes])))


def _normalization(call: ConcreteCall) -> Count:
    return Count(others=2 * size(call.given[0]))


def _unit_normalization(call: ConcreteCall) -> Count:
    return Count(others=3 * size(call.given[0]))  # square, sum, product


def _activation(call: ConcreteCall) -> Count:
    return activation(call.operation.activation, size(call.made[0]))


def _relu(call: ConcreteCall) -> Count:
    layer = call.operation
    steps = 1 + bool(layer.negative_slope) + (layer.max_value is not None) + bool(layer.threshold)
    return Count(others=steps * size(call.made[0]))


def _each(flops: int) -> Formula:
    """So many FLOPs for each number made."""
    return lambda call: Count(others=flops * size(call.made[0]))


def _softmax(call: ConcreteCall) -> Count:
    masked = sum(isinstance(value, keras.KerasTensor) for value in (*call.args, *call.kwargs.values())) > 1
    return Count(others=(7 if masked else 5) * size(call.made[0]))  # a mask is scaled and added


def _merge(call: ConcreteCall) -> Count:
    return Count(others=(_operands(call) - 1) * size(call.made[0]))


def _average(call: ConcreteCall) -> Count:
    return Count(others=_operands(call) * size(call.made[0]))


def _operands(call: ConcreteCall) -> int:
    return len(keras.tree.flatten(call.argument("inputs")))


def _dot(call: ConcreteCall) -> Count:
    axes = call.operation.axes
    axis = axes if isinstance(axes, int) else axes[0]
    product = Count(multiply_adds=size(call.made[0]) * (call.given[0][axis] or 0))
    return product + Count(others=3 * sum(map(size, call.given)) if call.operation.normalize else 0)


def _free(_: ConcreteCall) -> Count:
    return NOTHING


def _embedding(call: ConcreteCall) -> Count:
    """Rows of a table; integers are scaled back and adapters multiplied, which the backend may count."""
    if call.operation.quantization_mode or call.operation.lora_enabled:
        raise UnknownCountError
    return NOTHING


def _up_sampling(call: ConcreteCall) -> Count:
    if getattr(call.operation, "interpolation", "nearest") != "nearest":
        raise UnknownCountError
    return NOTHING


def _attention(call: ConcreteCall) -> Count:
    """Scores of all pairs, their softmax, and the values weighted with it."""
    layer = call.operation
    query, value, *key = (symbol.shape for symbol in keras.tree.flatten(call.argument("inputs")))
    width = (key[0] if key else value)[-1]
    scores = size(query[:-1]) * (value[-2] or 0)
    mixing = Count(multiply_adds=scores * (value[-1] or 0))
    masks = len(call.given) > len(key) + 2 or bool(call.argument("use_causal_mask"))
    others = (5 + (2 if masks else 0)) * scores
    if isinstance(layer, layers.AdditiveAttention) or layer.score_mode == "concat":
        scaled = layer.scale is not None or isinstance(layer, layers.AdditiveAttention)
        return mixing + Count(others=others + (3 + bool(scaled)) * scores * width)  # sum, tanh, scale, sum
    return mixing + Count(scores * width, others + (scores if layer.scale is not None else 0))


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
        count += _projection(size(shape), size(shape[:-1]) * units, units, config["use_bias"])
    count += Count(pairs * (width + value_width), (1 + 5) * pairs)  # scores scaled, softmax
    if len(call.given) > len({"query", "value"}) + (call.argument("key") is not None) or call.argument(
        "use_causal_mask"
    ):
        count += Count(others=pairs)  # a choice between the score and minus infinity
    made = size(call.made[0])
    return count + Count(rows * heads * value_width * (made // rows), made if config["use_bias"] else 0)


def _projection(given: int, made: int, units: int, bias: bool) -> Count:
    return Count(given * units, made if bias else 0)


LAYERS: dict[type, Formula] = {
    layers.Dense: _dense,
    layers.EinsumDense: _einsum_dense,
    **dict.fromkeys((layers.Conv1D, layers.Conv2D, layers.Conv3D), _convolution),
    **dict.fromkeys((layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose), _transposed_convolution),
    **dict.fromkeys((layers.DepthwiseConv1D, layers.DepthwiseConv2D), _depthwise_convolution),
    **dict.fromkeys((layers.SeparableConv1D, layers.SeparableConv2D), _separable_convolution),
    **dict.fromkeys((layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D), _average_pooling),
    **dict.fromkeys((layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D), _max_pooling),
    **dict.fromkeys(
        (layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D), _global_average
    ),
    **dict.fromkeys((layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D), _global_max),
    layers.BatchNormalization: _batch_normalization,
    layers.LayerNormalization: _layer_normalization,
    layers.GroupNormalization: _group_normalization,
    layers.RMSNormalization: _rms_normalization,
    layers.UnitNormalization: _unit_normalization,
    layers.Normalization: _normalization,
    layers.Rescaling: _each(2),
    layers.Activation: _activation,
    layers.ReLU: _relu,
    layers.LeakyReLU: _each(2),
    layers.PReLU: _each(5),  # relu(x) - alpha * relu(-x)
    layers.ELU: _each(4),
    layers.Softmax: _softmax,
    **dict.fromkeys((layers.Add, layers.Subtract, layers.Multiply, layers.Maximum, layers.Minimum), _merge),
    layers.Average: _average,
    layers.Dot: _dot,
    layers.Attention: _attention,
    layers.AdditiveAttention: _attention,
    layers.MultiHeadAttention: _multi_head_attention,
    layers.GroupQueryAttention: _multi_head_attention,
    layers.Embedding: _embedding,
    **dict.fromkeys((layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D), _up_sampling),
    **dict.fromkeys((layers.Concatenate, layers.Flatten, layers.Reshape, layers.Permute), _free),
    **dict.fromkeys((layers.RepeatVector, layers.Identity, layers.InputLayer, layers.ActivityRegularization), _free),
    **dict.fromkeys((layers.Cropping1D, layers.Cropping2D, layers.Cropping3D), _free),
    **dict.fromkeys((layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D), _free),
    # These pass their input on unless the model trains.
    **dict.fromkeys((layers.Dropout, layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise), _free),
    **dict.fromkeys((layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D), _free),
    **dict.fromkeys((layers.RandomFlip, layers.RandomRotation, layers.RandomZoom, layers.RandomTranslation), _free),
    **dict.fromkeys((layers.RandomContrast, layers.RandomBrightness), _free),
}
"""From a layer's class to its formula. A formula raises `UnknownCountError` for options that it does not know."""
