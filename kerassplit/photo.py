"""From a file, a photograph or saved arrays, to what a model takes."""

import importlib.resources
import zipfile
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import IO, Any

import keras
import numpy as np
from PIL import Image

from kerassplit.errors import SplitError
from kerassplit.graph import read_graph
from kerassplit.names import listed
from kerassplit.zoo import architecture_module

_OPEN_SIDE = 224  # stands for an open height or width
IMAGE_SUFFIXES = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"])
"""What files of images are called."""
_COLOURS = {1: "grayscale", 3: "rgb", 4: "rgba"}


def shipped_photo() -> Traversable:
    """The photograph that comes with kerassplit: a cat, 451×300 pixels; see `data/README.md`."""
    return importlib.resources.files("kerassplit") / "data" / "chelsea.jpg"


def load_input(path: str | Path, model: keras.Model, architecture: str | None = None) -> Any:
    """Reads the input of a model from a file.

    Args:
        path: An image (any that Pillow reads), of which the middle is cut out in the proportions of the model's input,
            and resized; a `.npy` file with the array of the one input; or a `.npz` file with an array for each input.
        model: What the input is for.
        architecture: Such as `"ResNet50"`: its own `preprocess_input` is applied to an image. `None`: the pixels stay
            as they are, 0 to 255.

    Returns:
        `float32` images as a batch of one; arrays as they were saved, a missing batch dimension added. In the structure
        of the model's inputs.

    Raises:
        SplitError: The file is missing or cannot be read, or what it holds does not fit the model.

    Example:

    >>> load_input("cat.jpg", resnet, "ResNet50").shape
    (1, 224, 224, 3)
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file():
        raise SplitError(f"There is no file '{path}' to take an input from.")
    if suffix == ".npy":
        arrays = [_read_arrays(path)]
    elif suffix == ".npz":
        arrays = _in_order(_read_arrays(path), path, model)
    else:
        return load_photo(path, model, architecture)
    if len(arrays) != len(model.inputs):
        raise SplitError(
            f"'{path}' holds one array, and '{model.name}' takes {len(model.inputs)}: {listed(_names(model))}. "
            "Save them by name in one .npz file (numpy.savez)."
        )
    inputs = zip(arrays, model.inputs, _names(model), strict=True)
    checked = [_checked(array, symbol, name, path) for array, symbol, name in inputs]
    if len({len(array) for array in checked}) > 1:
        shapes = ", ".join(str(array.shape) for array in checked)
        raise SplitError(f"The arrays in '{path}' have different numbers of samples: {shapes}.")
    return keras.tree.pack_sequence_as(model.input, checked)


def load_photo(path: Path, model: keras.Model, architecture: str | None = None) -> Any:
    """Reads an image as a batch of one; see `load_input`."""
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
        shapes = ", ".join(
            f"'{name}' {tuple(one.shape)}" for name, one in zip(_names(model), model.inputs, strict=True)
        )
        raise SplitError(f"'{model.name}' does not take one image; it takes {shapes}. Give these as .npy or .npz.")
    pixels = read_photo(path, model.inputs[0].shape[1:], architecture, model.name)
    return keras.tree.pack_sequence_as(model.input, [pixels[None]])


def read_photo(path: Path | IO[bytes], shape: Sequence[int | None], architecture: str | None, model: str) -> np.ndarray:
    """Reads one image as a model takes it.

    Args:
        path: The file, or one that is open.
        shape: The model's input without the batch dimension; 224 stands for open sides.
        architecture: See `load_input`.
        model: Its name, for messages.
    """
    height, width, channels = shape
    if keras.config.image_data_format() == "channels_first":
        channels, height, width = height, width, channels
    if channels not in _COLOURS:
        raise SplitError(f"'{model}' takes images with {channels} channels, and a photograph has 1, 3 or 4.")
    try:
        image = keras.utils.load_img(
            path,
            color_mode=_COLOURS[channels],
            target_size=(height or _OPEN_SIDE, width or _OPEN_SIDE),
            interpolation="bicubic",
            keep_aspect_ratio=True,
        )
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # of Pillow, for damaged files
        raise SplitError(f"'{path}' cannot be read as an image, a .npy or a .npz file: {error}.") from error
    pixels = keras.utils.img_to_array(image, dtype="float32")
    return architecture_module(architecture).preprocess_input(pixels[None])[0] if architecture else pixels


def _names(model: keras.Model) -> list[str]:
    graph = read_graph(model)
    return graph.names(graph.flat_inputs())


def _read_arrays(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            return content if isinstance(content, np.ndarray) else dict(content)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SplitError(f"'{path}' cannot be read as NumPy arrays: {error}.") from error


def _in_order(arrays: Any, path: Path, model: keras.Model) -> list[np.ndarray]:
    if not isinstance(arrays, dict):
        return [arrays]
    names = _names(model)
    if len(arrays) == len(names) == 1:
        return list(arrays.values())
    missing = [name for name in names if name not in arrays]
    if missing:
        raise SplitError(
            f"'{path}' has no array {listed(missing)}; it has {listed(arrays) or 'none'}. '{model.name}' takes "
            f"{listed(names)}."
        )
    return [arrays[name] for name in names]


def _checked(array: np.ndarray, symbol: keras.KerasTensor, name: str, path: Path) -> np.ndarray:
    batched = array[None] if array.ndim == len(symbol.shape) - 1 else array
    fits = batched.ndim == len(symbol.shape) and all(
        wanted in (None, side) for wanted, side in zip(symbol.shape, batched.shape, strict=True)
    )
    if not fits or not len(batched):
        raise SplitError(f"'{path}' holds an array of shape {array.shape}; '{name}' takes {tuple(symbol.shape)}.")
    if batched.dtype.kind not in "biuf":
        raise SplitError(f"'{path}' holds values of type {array.dtype}; '{name}' takes {symbol.dtype}.")
    return batched.astype(symbol.dtype)
