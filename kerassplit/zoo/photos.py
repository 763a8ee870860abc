"""Turns photographs into the input of a model."""

import importlib.resources
import io
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import IO

import keras
import numpy as np
from PIL import Image, UnidentifiedImageError

from kerassplit.errors import SplitError
from kerassplit.files.atomic_file import open_regular
from kerassplit.zoo.models import architecture_module
from kerassplit.zoo.pixels import pixels_of

_OPEN_SIDE = 224  # stands for an open height or width
IMAGE_SUFFIXES = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"])
"""Suffixes of image files."""
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The only formats that Pillow may open, as it calls them: for some others it starts programs, such as Ghostscript."""
_COLOURS = {1: "grayscale", 3: "rgb", 4: "rgba"}


def shipped_photo() -> Traversable:
    """The photograph that comes with kerassplit: a cat, 451×300 pixels; see `data/README.md`."""
    return importlib.resources.files("kerassplit.zoo") / "data" / "chelsea.jpg"


def read_photo(
    path: Path | IO[bytes], shape: Sequence[int | None], architecture: str | None, model: str, *, exif: bool = True
) -> np.ndarray:
    """Reads one image as a model takes it.

    Args:
        path: The file, or one that is open.
        shape: The model's input without the batch dimension; 224 stands for open sides.
        architecture: Such as `"ResNet50"`: its own `preprocess_input` is applied. `None`: the pixels stay as they are,
            0 to 255.
        model: Its name, for messages.
        exif: Whether the image is turned as its camera says. Keras's own loader does not: `False` gives its numbers.
    """
    height, width, channels = shape
    if keras.config.image_data_format() == "channels_first":
        channels, height, width = height, width, channels
    if channels not in _COLOURS:
        raise SplitError(f"'{model}' takes images with {channels} channels, and a photograph has 1, 3 or 4.")
    try:
        with _opened(path) as image:
            pixels = pixels_of(image, (width or _OPEN_SIDE, height or _OPEN_SIDE), _COLOURS[channels], exif=exif)
    except Image.DecompressionBombError as error:
        raise SplitError(
            f"'{path}' cannot be read as an image: {error} To read larger ones, set PIL.Image.MAX_IMAGE_PIXELS."
        ) from error
    except SplitError as error:
        raise SplitError(f"'{path}' cannot be read as an image: {error}") from error
    except Exception as error:  # Pillow raises what it likes for damaged files: struct.error, SyntaxError, ...
        why = f"it is none of {', '.join(IMAGE_FORMATS)}" if isinstance(error, UnidentifiedImageError) else error
        raise SplitError(f"'{path}' cannot be read as an image, a .npy or a .npz file: {why}.") from error
    if keras.config.image_data_format() == "channels_first":
        pixels = pixels.transpose(2, 0, 1)
    return architecture_module(architecture).preprocess_input(pixels[None])[0] if architecture else pixels


def _opened(path: Path | IO[bytes]) -> Image.Image:
    if not isinstance(path, Path):
        return Image.open(path, formats=IMAGE_FORMATS)
    with open_regular(path) as file:
        return Image.open(io.BytesIO(file.read()), formats=IMAGE_FORMATS)
