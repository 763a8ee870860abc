"""Random weights that reveal mistakes.

A freshly initialized model has zero biases, batch-norm statistics of zero and one, and signals that vanish or explode
within 150 layers: swapped or missing weights would then have no visible effect. Here every weight is drawn at random,
and every layer scaled so that its outputs have a magnitude near one.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

_LINEAR = tuple(
    getattr(keras.layers, name)
    for name in (
        *("Dense", "Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D"),
        *("SeparableConv1D", "SeparableConv2D", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
    )
)


def randomize(model: keras.Model, seed: int = 0, x: Any = None) -> None:
    """Sets every weight of a model to a seeded random value, including batch-norm statistics.

    NumPy draws the values. A forward pass on a sample then scales each convolution, dense layer and batch normalization
    by a power of two, which is robust to small rounding differences: the same seed gives the same weights, bit for bit.
    No global random generator is used.

    Args:
        model: Model whose weights are overwritten, except the statistics of `Normalization` layers.
        seed: Any non-negative integer.
        x: Sample batch for the pass; drawn at random by default.

    Example:

    >>> randomize(model, seed=1)
    """
    kept = {
        id(one) for layer in _layers(model) if isinstance(layer, keras.layers.Normalization) for one in layer.weights
    }
    for index, variable in enumerate(model.weights):
        if id(variable) not in kept and "float" in str(variable.dtype):
            variable.assign(_draw(variable.name, tuple(variable.shape), np.random.default_rng([seed, index])))
    scaled = [layer for layer in _layers(model) if isinstance(layer, (*_LINEAR, keras.layers.BatchNormalization))]
    try:
        for layer in scaled:
            layer.call = _scaling_call(layer)
        model(_sample(model, seed) if x is None else x, training=False)
    finally:
        for layer in scaled:
            layer.__dict__.pop("call", None)


def smooth_noise(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Returns `float32` noise from 0 to 255 of a shape that, like an image, varies little between adjacent pixels."""
    fine = np.random.default_rng([seed, 1]).uniform(0, 32, shape)
    coarse = np.random.default_rng([seed, 2]).uniform(
        0, 223, [math.ceil(side / 16) for side in shape[:-1]] + [*shape[-1:]]
    )
    for axis, side in enumerate(shape[:-1]):
        coarse = np.repeat(coarse, 16, axis).take(range(side), axis)
    return (fine + coarse).astype("float32")


def _layers(model: keras.Model) -> Iterator[keras.Layer]:
    """Yields all layers once each, including those of nested models."""
    seen: set[int] = set()
    waiting = list(reversed(model.layers))
    while waiting:
        layer = waiting.pop()
        if id(layer) not in seen:
            seen.add(id(layer))
            yield layer
            if isinstance(layer, keras.Model):
                waiting.extend(reversed(layer.layers))


def _draw(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    if name in ("moving_variance", "gamma", "scale"):
        return generator.uniform(0.5, 1.5, shape).astype("float32")
    if len(shape) < 2:
        return generator.uniform(-0.2, 0.2, shape).astype("float32")
    values = generator.standard_normal(shape, dtype="float32")
    values /= np.float32(math.sqrt(math.prod(shape[:-1])))
    return values


def _sample(model: keras.Model, seed: int) -> Any:
    """Draws one sample for the model's inputs; open dimensions become 64."""

    def draw(symbol: keras.KerasTensor) -> np.ndarray:
        shape = [64 if side is None else side for side in symbol.shape[1:]]
        if "float" not in symbol.dtype:
            return np.random.default_rng([seed, 3]).integers(0, 2, (1, *shape)).astype(symbol.dtype)
        return ((smooth_noise(shape, seed) - 128) / 64).astype(symbol.dtype)[None]

    return keras.tree.map_structure(draw, model.input)


def _scaling_call(layer: Any) -> Any:
    """Returns a `call` for the layer that, on its first use, scales the layer's weights based on its input."""
    call = layer.call
    done = False

    def scaling_call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal done
        if not done:
            done = True
            if isinstance(layer, keras.layers.BatchNormalization):
                power = _power(inputs)
                layer.moving_mean.assign(layer.moving_mean * power)
                layer.moving_variance.assign(layer.moving_variance * power**2)
            else:
                _scale_outputs(layer, call, inputs)
        return call(inputs, *args, **kwargs)

    return scaling_call


def _scale_outputs(layer: Any, call: Any, inputs: Any) -> None:
    activation = layer.activation
    layer.activation = keras.activations.linear
    try:
        power = _power(call(inputs))
    finally:
        layer.activation = activation
    for variable in layer.weights:
        if variable.name != "depthwise_kernel":  # in a separable convolution, only the second kernel is scaled
            variable.assign(variable / power)


def _power(values: Any) -> float:
    """Returns the power of two nearest to the root mean square."""
    square = np.mean(np.square(keras.ops.convert_to_numpy(values).astype("float32")), dtype="float64")
    return 2.0 ** round(math.log2(square) / 2) if square > 0 and math.isfinite(square) else 1.0
