"""Layers for another number of channels of an image."""

from typing import Any

import keras
import numpy as np

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_PER_CHANNEL = (keras.layers.BatchNormalization, keras.layers.Normalization)


def layer_for_channels(layer: Any, before: int, given: keras.KerasTensor) -> keras.Layer | None:
    """Returns a layer like this one for another number of channels in its input; `None` if it takes any number.

    - A convolution: the kernel is summed over the channels for one channel (so a grey image gives what the image with
      three equal channels gave); for more, it is repeated and scaled by `before / channels`, so that sums stay as
      large. As `adapt_input_conv` in timm (Wightman, PyTorch Image Models).
    - A normalization: the mean over the channels for one channel; for more, it is repeated.

    Args:
        layer: The layer, built for `before` channels.
        before: The old number of channels.
        given: What it receives now.
    """
    if type(layer) is keras.layers.Rescaling:
        config = layer.get_config()
        config |= {name: _for_channels(config[name], given.shape[-1]) for name in ("scale", "offset")}
        return None if config == layer.get_config() else keras.layers.Rescaling.from_config(config)
    axis = -1 if getattr(layer, "data_format", "channels_last") == "channels_last" else 1
    channels = given.shape[axis]
    convolves = isinstance(layer, _CONVOLUTIONS) and layer.groups == 1 and layer.kernel.shape[-2] == before
    if channels is None or not (convolves or type(layer) in _PER_CHANNEL):
        return None
    config = layer.get_config()
    config |= {
        name: _for_channels(config[name], channels) for name in ("mean", "variance") if config.get(name) is not None
    }
    new = type(layer).from_config(config)
    new.build(given.shape)
    for ours, theirs in zip(new.variables, layer.variables, strict=True):
        value = keras.ops.convert_to_numpy(theirs.value)
        if tuple(ours.shape) != value.shape:
            value = _kernel(value, channels) if convolves else _per_channel(value, before, channels)
        ours.assign(value.reshape(ours.shape))
    if isinstance(new, keras.layers.Normalization):
        new.finalize_state()
    return new


def _kernel(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Returns a kernel (..., channels, filters) for another number of channels."""
    before = kernel.shape[-2]
    if channels == 1:
        return kernel.sum(axis=-2, keepdims=True)
    places = np.arange(channels) % before
    return (kernel[..., places, :] * (before / channels)).astype(kernel.dtype)


def _per_channel(value: np.ndarray, before: int, channels: int) -> np.ndarray:
    """Returns numbers, one for each channel, for another number of channels."""
    (axis,) = [axis for axis, side in enumerate(value.shape) if side == before][-1:]
    if channels == 1:
        return value.mean(axis=axis, keepdims=True).astype(value.dtype)
    return np.take(value, np.arange(channels) % before, axis=axis)


def _for_channels(value: Any, channels: int | None) -> Any:
    """Returns a setting for another number of channels: one number stays, a list is averaged or repeated."""
    array = np.asarray(value)
    if channels is None or not array.ndim or array.shape[-1] in (1, channels):
        return value
    return _per_channel(array, array.shape[-1], channels).tolist()
