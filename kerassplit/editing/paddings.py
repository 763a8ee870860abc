"""Paddings that an architecture has chosen for a size of its input."""

import re

import keras

from kerassplit.graph.model_graph import Call, Graph

_CORRECTED = re.compile(r"(stem_conv|dwconv|depthwise|block_\d+|separable_conv_1|reduction)_pad")
_WINDOWS = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)


def padding_for(graph: Graph, call: Call, given: keras.KerasTensor) -> keras.Layer | None:
    """Returns the zero padding for another size, where the model has one that depends on the size; else `None`.

    EfficientNet, MobileNetV2, MobileNetV3 and NASNet pad before a window with strides by half of it, less one pixel at
    the beginning where the size is even (`correct_pad` in `keras.applications.imagenet_utils`). A padding counts as
    such if it has the name that they give it (MobileNet pads by one pixel at the end, whatever the size), and is what
    that rule gives for the old size.
    """
    layer = call.operation
    if type(layer) is not keras.layers.ZeroPadding2D or not _CORRECTED.search(layer.name):
        return None
    sides = slice(2, 4) if layer.data_format == "channels_first" else slice(1, 3)
    before, now = call.arguments.keras_tensors[0].shape[sides], given.shape[sides]
    for user in graph.tensors[call.outputs[0]].users:
        window = _window(graph.calls[user].operation)
        if window and _correct(before, window) == layer.padding != _correct(now, window):
            config = layer.get_config() | {"padding": _correct(now, window)}
            return keras.layers.ZeroPadding2D.from_config(config)
    return None


def _window(operation: keras.Operation) -> tuple[int, int] | None:
    """Returns the size of the window that a layer moves over its input without padding, in strides."""
    if getattr(operation, "padding", None) != "valid" or max(getattr(operation, "strides", (1,))) == 1:
        return None
    window = operation.pool_size if isinstance(operation, _WINDOWS) else getattr(operation, "kernel_size", ())
    return tuple(window) if len(window) == 2 else None


def _correct(size: tuple[int | None, ...], window: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the padding of `correct_pad` for a size; an open side counts as even."""
    (top, bottom), (left, right) = (
        (half - (1 if side is None else 1 - side % 2), half)
        for side, half in zip(size, (one // 2 for one in window), strict=True)
    )
    return (top, bottom), (left, right)
