"""Converts opened images of any kind to pixels from 0 to 255, with a given size and color mode."""

import contextlib
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from kerassplit.errors import SplitError

_MODES = {"grayscale": "L", "rgb": "RGB", "rgba": "RGBA"}
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF


def pixels_of(image: Image.Image, size: tuple[int, int] | None, colors: str, *, exif: bool) -> np.ndarray:
    """Returns the pixels of an image as float32: height × width × channels, from 0 to 255.

    The image is center-cropped to the aspect ratio of `size`. With 8 bits per channel, the numbers are those of
    `keras.utils.load_img` with `keep_aspect_ratio=True` and bicubic resampling, except for the rotation.

    Args:
        image: Image opened by Pillow.
        size: Width and height; `None` for those of the image.
        colors: `"grayscale"`, `"rgb"` or `"rgba"`.
        exif: Rotates the image as its EXIF data says.

    Raises:
        SplitError: The range of its values is unknown.
    """
    image.load()
    if exif:
        with contextlib.suppress(Exception):  # unreadable EXIF data: viewers show such an image unrotated
            ImageOps.exif_transpose(image, in_place=True)
    deep = _deep(image)
    if deep is None and colors != "rgba":
        image.info.pop("transparency", None)  # dropped, as Keras does; Pillow would warn
    plain = image.convert(_MODES[colors]) if deep is None else deep
    pixels = np.asarray(_resized(plain, size or plain.size), np.float32)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if deep is None:
        return pixels
    grays = np.repeat(np.clip(pixels, 0, 255), 1 if colors == "grayscale" else 3, axis=-1)
    return np.concatenate([grays, np.full_like(pixels, 255)], axis=-1) if colors == "rgba" else grays


def _deep(image: Image.Image) -> Image.Image | None:
    """Converts an image with 16 bits per pixel to floats from 0 to 255; `None` if it has at most 8 bits per channel."""
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    elif image.mode == "I" and image.format in ("PNG", "PPM"):  # 16 bits at most, whatever the mode
        bits = 16
    elif image.mode in ("I", "F"):
        kind = "floats" if image.mode == "F" else "32-bit or signed integers"
        raise SplitError(
            f"its pixels are {kind}, so it is unknown which values are black and white. Scale them to the range that "
            "the model expects, and save them as .npy."
        )
    else:
        return None
    most = 2**bits - 1
    values = np.asarray(image).astype(np.float32)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = most - values
    return Image.fromarray(values * np.float32(255 / most))


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resizes an image as Keras does with `keep_aspect_ratio=True`."""
    if image.size == size:
        return image
    (width, height), (to_width, to_height) = image.size, size
    crop_width = min(width, height * to_width // to_height)
    crop_height = min(height, width * to_height // to_width)
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    box = (left, top, left + crop_width, top + crop_height)
    return image.resize(size, Image.Resampling.BICUBIC, box=box)
