"""Measures what pictures take as image files."""

import io
from collections.abc import Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import numpy as np
from PIL import Image

from kerassplit.errors import SplitError
from kerassplit.files.atomic_file import status_of
from kerassplit.text import listed
from kerassplit.zoo.photos import opened_photo, photos_in
from kerassplit.zoo.pixels import pixels_of

Format = Literal["jpeg", "webp", "png"]
_WITH_ALPHA = ("webp", "png")


def encoded_bytes(
    images: Any,
    format: Format = "jpeg",  # noqa: A002 - Pillow's word
    *,
    quality: int = 90,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Measures how many bytes pictures take as JPEG, WebP or PNG files, as Pillow writes them.

    What a phone sends is usually such a file instead of the pixels: pass the mean as `input_bytes` to `plan`. An alpha
    channel is dropped for JPEG, which has none. Files are rotated as their EXIF data says.

    Args:
        images: A path of an image; of a folder, with the images in its subfolders, sorted by path; a list of paths; or
            pixels from 0 to 255, integers or floats, before any preprocessing: shape (height, width, channels), or
            (n, height, width, channels) for several pictures, with 1, 3 or 4 channels.
        format: `"jpeg"`, `"webp"` or `"png"`.
        quality: Quality of JPEG and WebP, 1 to 100. PNG is lossless.
        size: Height and width that a model takes: pictures are cropped at the center to this aspect ratio and resized
            first. `None`: they keep their size.

    Returns:
        Bytes of each picture, an `int64` array of shape (n,).

    Raises:
        SplitError: The pictures cannot be read, their pixels are not from 0 to 255, or another argument is invalid.

    Example:

    >>> ks.encoded_bytes("photos", size=(224, 224)).mean()  # doctest: +SKIP
    15340.5
    """
    if format not in get_args(Format):
        raise SplitError(f"`format` must be one of {listed(get_args(Format))}; got {format!r}.")
    if not _is_whole(quality) or quality > 100:
        raise SplitError(f"`quality` must be a whole number from 1 to 100; got {quality!r}.")
    if size is not None and not (isinstance(size, (tuple, list)) and len(size) == 2 and all(map(_is_whole, size))):
        raise SplitError(f"`size` must be (height, width) in pixels, such as (224, 224); got {size!r}.")
    to_size = None if size is None else (int(size[1]), int(size[0]))
    return np.array([_bytes(picture, format, int(quality)) for picture in _pictures(images, format, to_size)], np.int64)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0


def _bytes(pixels: np.ndarray, kind: Format, quality: int) -> int:
    file = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    try:
        image.save(file, kind, **({} if kind == "png" else {"quality": quality}))
    except (OSError, ValueError) as error:  # too large for the format
        height, width = pixels.shape[:2]
        raise SplitError(f"A picture of {height}×{width} pixels cannot be saved as {kind}: {error}.") from error
    return file.tell()


def _pictures(images: Any, kind: Format, size: tuple[int, int] | None) -> Iterator[np.ndarray]:
    """Yields the pixels of each picture: uint8, height × width × channels."""
    paths = _paths(images)
    if paths is None:
        for image in map(Image.fromarray, _arrays(images)):
            yield _pixels(image, kind, size)
    for path in paths or ():
        with opened_photo(path) as image:
            pixels = _pixels(image, kind, size)
        yield pixels


def _paths(images: Any) -> list[Path] | None:
    """Returns the files to read; `None` if the pictures are not files."""
    if isinstance(images, (str, Path)):
        path = Path(images)
        if status_of(path) is not None and path.is_dir():
            return photos_in(path)[0]
        paths = [path]
    elif isinstance(images, Sequence) and images and all(isinstance(one, (str, Path)) for one in images):
        paths = list(map(Path, images))
    else:
        return None
    for path in paths:
        if status_of(path) is None:
            raise SplitError(f"There is no file or folder '{path}' to take pictures from.")
    return paths


def _arrays(images: Any) -> Iterator[np.ndarray]:
    """Yields pictures as Pillow takes them: uint8, without the channels if there is one."""
    expected = "Expected paths, or pixels of shape (height, width, channels) or (n, height, width, channels)"
    try:
        array = np.asarray(keras.ops.convert_to_numpy(images) if keras.ops.is_tensor(images) else images)
    except ValueError as error:  # of different shapes
        raise SplitError(f"The pictures have different shapes: pass one after the other. {expected}.") from error
    if array.dtype.kind not in "uif" or array.ndim not in (3, 4) or array.shape[-1] not in (1, 3, 4) or not array.size:
        raise SplitError(
            f"The pictures are values of type {array.dtype} and shape {array.shape}. {expected}, with 1, 3 or 4 "
            "channels."
        )
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 255):
        raise SplitError(f"The pixels go from {low:g} to {high:g}. Expected 0 to 255, before any preprocessing.")
    if array.dtype.kind == "f" and 0 < high <= 1:
        raise SplitError(f"The pixels go from {low:g} to {high:g}. Expected 0 to 255: multiply them by 255.")
    for one in np.rint(array.reshape(-1, *array.shape[-3:])).astype(np.uint8):
        yield one[..., 0] if one.shape[-1] == 1 else one


def _pixels(image: Image.Image, kind: Format, size: tuple[int, int] | None) -> np.ndarray:
    colors = "grayscale" if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16") else "rgb"
    if kind in _WITH_ALPHA and ("A" in image.getbands() or "transparency" in image.info):
        colors = "rgba"
    return np.rint(pixels_of(image, size, colors, exif=True)).astype(np.uint8)
