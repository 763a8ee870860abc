"""Layers for another number of channels of an image."""

from typing import Any

import keras
import numpy as np

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_PER_CHANNEL = (keras.layers.BatchNormalization, keras.layers.Normalization)


def layer_for_channels(layer: Any, sides: tuple[int, int | None], given: keras.KerasTensor) -> keras.Layer | None:
    """Returns a layer like this one for another number of channels in its input; `None` if it takes any number.

    - A convolution: the kernel is summed over the channels for one channel (so a grey image gives what the image with
      three equal channels gave); for more, it is repeated and scaled by `before / channels`, so that sums stay as
      large. As `adapt_input_conv` in timm (Wightman, PyTorch Image Models).
    - A normalization: the mean over the channels for one channel; for more, it is repeated.

    Args:
        layer: The layer, built for the old number.
        sides: The old and the new number of channels.
        given: What it receives now.
    """
    before, channels = sides
    if channels is None:
        return None
    if type(layer) is keras.layers.Rescaling:
        config = {name: _setting(getattr(layer, name), before, channels) for name in ("scale", "offset")}
        same = all(value is getattr(layer, name) for name, value in config.items())
        return None if same else keras.layers.Rescaling.from_config(layer.get_config() | config)
    convolves = isinstance(layer, _CONVOLUTIONS) and layer.groups == 1 and layer.kernel.shape[-2] == before
    if not (convolves or type(layer) in _PER_CHANNEL):
        return None
    config = layer.get_config()
    config |= {
        name: _setting(config[name], before, channels) for name in ("mean", "variance") if config.get(name) is not None
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


def _setting(value: Any, before: int, channels: int) -> Any:
    """Returns a setting for another number of channels: one number stays, a list is averaged or repeated."""
    array = np.asarray(value)
    return _per_channel(array, before, channels).tolist() if before in array.shape else value
