"""Converts photographs to model input."""

import contextlib
import importlib.resources
import io
from collections.abc import Iterator, Sequence
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

_OPEN_SIDE = 224  # used for an open height or width
IMAGE_SUFFIXES = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"])
"""Suffixes of image files."""
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The only formats Pillow may open, by its names: for some others it starts programs such as Ghostscript."""
_COLORS = {1: "grayscale", 3: "rgb", 4: "rgba"}


def shipped_photo() -> Traversable:
    """Returns the photograph shipped with kerassplit: a cat, 451×300 pixels; see `data/README.md`."""
    return importlib.resources.files("kerassplit.zoo") / "data" / "chelsea.jpg"


def read_photo(
    path: Path | IO[bytes], shape: Sequence[int | None], architecture: str | None, model: str, *, exif: bool = True
) -> np.ndarray:
    """Reads one image as input for a model.

    Args:
        path: A path or an open file.
        shape: Shape of the model's input without the batch dimension; 224 is used for open sides.
        architecture: Name of the architecture whose `preprocess_input` is applied, such as `"ResNet50"`. `None` leaves
            pixels from 0 to 255.
        model: Name of the model, for messages.
        exif: Rotates the image as its EXIF data says. Keras's own loader does not: `False` gives the same numbers.
    """
    height, width, channels = shape
    if keras.config.image_data_format() == "channels_first":
        channels, height, width = height, width, channels
    if channels not in _COLORS:
        raise SplitError(f"'{model}' takes images with {channels} channels; a photograph has 1, 3 or 4.")
    with opened_photo(path, "an image, a .npy or a .npz file") as image:
        pixels = pixels_of(image, (width or _OPEN_SIDE, height or _OPEN_SIDE), _COLORS[channels], exif=exif)
    if keras.config.image_data_format() == "channels_first":
        pixels = pixels.transpose(2, 0, 1)
    return architecture_module(architecture).preprocess_input(pixels[None])[0] if architecture else pixels


@contextlib.contextmanager
def opened_photo(path: Path | IO[bytes], expected: str = "an image") -> Iterator[Image.Image]:
    """Opens an image with Pillow; `expected` is what the file may be, for messages.

    Raises:
        SplitError: The file is not an image, or damaged: also if this only shows in the body of the `with` statement.
    """
    try:
        with _opened(path) as image:
            yield image
    except Image.DecompressionBombError as error:
        raise SplitError(
            f"'{path}' cannot be read as an image: {error} To read larger images, set PIL.Image.MAX_IMAGE_PIXELS."
        ) from error
    except SplitError as error:
        raise SplitError(f"'{path}' cannot be read as an image: {error}") from error
    except Exception as error:  # Pillow raises unrelated errors for damaged files: struct.error, SyntaxError, ...
        why = f"it is none of {', '.join(IMAGE_FORMATS)}" if isinstance(error, UnidentifiedImageError) else error
        raise SplitError(f"'{path}' cannot be read as {expected}: {why}.") from error


def photos_in(folder: Path) -> tuple[list[Path], int]:
    """Returns the image files in a folder and its subfolders, sorted by path, and the number of its other files.

    Raises:
        SplitError: There are no images.
    """
    there = [one for one in folder.rglob("*") if not one.name.startswith(".") and one.is_file()]
    found = sorted(one for one in there if one.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise SplitError(f"There are no images in '{folder}'. Expected files such as .jpg or .png, in subfolders too.")
    return found, len(there) - len(found)


def _opened(path: Path | IO[bytes]) -> Image.Image:
    if not isinstance(path, Path):
        return Image.open(path, formats=IMAGE_FORMATS)
    with open_regular(path) as file:
        return Image.open(io.BytesIO(file.read()), formats=IMAGE_FORMATS)
