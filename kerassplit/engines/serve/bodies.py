"""Reads and checks tensors from HTTP bodies, and writes tensors as bodies. Nothing is unpickled."""

import io
import json
import math
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from kerassplit import wire
from kerassplit.cutting.crossing import CrossingTensor
from kerassplit.engines.serve.json_arrays import as_array, parse
from kerassplit.engines.serve.limits import Limits, Refused, shown
from kerassplit.errors import SplitError
from kerassplit.files.arrays import storable
from kerassplit.files.npy import read_array
from kerassplit.files.values import as_values, fits
from kerassplit.text import listed
from kerassplit.zoo.photos import IMAGE_FORMATS, read_photo

NPY, NPZ, WIRE, JSON = "application/x-npy", "application/x-npz", "application/x-kerassplit", "application/json"
TAKEN = (JSON, NPY, NPZ, WIRE, "image/jpeg", "image/png")
"""Content types of request bodies; other image types are accepted, too."""
GIVEN = (JSON, NPY, NPZ, WIRE)
_MOST_PIXELS = 50_000_000  # 150 MB once decoded
_MOST_MEMBERS = 1000  # per zip file: opening it takes about a kilobyte of memory for each
_MEMBER = b"PK\x01\x02"  # starts each entry of a zip file's directory


class _Body(io.BytesIO):
    """Bytes that messages about a file call "the body"."""

    def __repr__(self) -> str:
        return "the body"


def read(
    kind: str, body: bytes, taken: Sequence[CrossingTensor], limits: Limits, architecture: str | None
) -> dict[str, Any]:
    """Reads the tensors in a body, and checks them.

    Args:
        kind: The content type.
        body: The bytes.
        taken: Descriptions of the expected tensors.
        limits: Size limits.
        architecture: Architecture whose preprocessing is applied to an image.

    Raises:
        Refused: The body holds something else; the status says what is wrong.
    """
    kind = kind.partition(";")[0].strip().lower()
    if kind.startswith("image/"):
        given: Mapping[str, Any] = {taken[0].name: _image(body, taken, architecture)}
    elif kind == JSON:
        given = _json(body, taken, limits)
    elif kind == NPY:
        given = _alone(_npy(body, kind), taken)
    elif kind == NPZ:
        given = _npz(body, taken, limits.body)
    elif kind == WIRE:
        try:
            if wire.unpacked_bytes(body) > limits.body:
                raise Refused(413, f"The arrays take more than {limits.body} bytes once unpacked.")
            given = wire.unpack(body)
        except SplitError as error:
            raise Refused(400, f"The body cannot be read as {kind}: {error}") from error
        _check_names(given, taken)
    else:
        raise Refused(415, f"The content type is {kind[:50] or 'missing'}; expected {listed(TAKEN)} or another image.")
    tensors = {one.name: _checked(given[one.name], one, limits.rows) for one in taken}
    if len({len(tensor) for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"'{name}' {tensor.shape}" for name, tensor in tensors.items())
        raise Refused(422, f"The arrays have different numbers of rows: {shapes}.")
    return tensors


def write(tensors: Mapping[str, np.ndarray], kind: str) -> bytes:
    """Encodes tensors as a body; `kind` is one of `GIVEN`."""
    if kind == WIRE:
        return wire.pack(tensors)
    if kind == JSON:
        lists = {name: _finite(tensor.tolist()) for name, tensor in tensors.items()}
        return json.dumps({"outputs": lists}, allow_nan=False).encode()
    buffer = io.BytesIO()
    if kind == NPZ:
        np.savez(buffer, allow_pickle=False, **{name: storable(tensor) for name, tensor in tensors.items()})
    elif len(tensors) > 1:
        raise Refused(406, f"There are several results, {listed(tensors)}; {NPY} holds one array. Accept {NPZ}.")
    else:
        np.save(buffer, storable(*tensors.values()), allow_pickle=False)
    return buffer.getvalue()


def wanted(accept: str) -> str:
    """Returns the first content type that a client accepts out of `GIVEN`."""
    for one in accept.lower().split(","):
        kind = one.partition(";")[0].strip()
        if kind in GIVEN:
            return kind
        if kind in ("", "*/*", "application/*"):
            return JSON
    raise Refused(406, f"The client accepts {accept[:100]}; results can be {listed(GIVEN)}.")


def _all(taken: Sequence[CrossingTensor]) -> str:
    return ", ".join(map(shown, taken))


def _image(body: bytes, taken: Sequence[CrossingTensor], architecture: str | None) -> np.ndarray:
    if len(taken) != 1 or len(taken[0].shape) != 4:
        raise Refused(422, f"The stages do not take a single image; expected {_all(taken)}.")
    unread = "The body cannot be read as an image"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about damaged files
            with Image.open(_Body(body), formats=IMAGE_FORMATS) as image:
                if image.width * image.height > _MOST_PIXELS:
                    size = f"{image.width}×{image.height}"
                    raise Refused(413, f"The image has {size} pixels; up to {_MOST_PIXELS:,} in total are accepted.")
            return read_photo(_Body(body), taken[0].shape[1:], architecture, "the model")[None]
    except Image.DecompressionBombError as error:
        raise Refused(413, f"The image has too many pixels; up to {_MOST_PIXELS:,} are accepted.") from error
    except Image.UnidentifiedImageError as error:
        raise Refused(400, f"{unread}: its format is not one of {listed(IMAGE_FORMATS)}.") from error
    except Refused:
        raise
    except Exception as error:  # Pillow's decoders raise TypeErrors and others for damaged files
        if isinstance(error, SplitError) and isinstance(error.__cause__, SplitError | None):  # not Pillow's text
            raise Refused(422, str(error)) from error
        raise Refused(400, f"{unread}: it is damaged or truncated.") from error


def _npy(data: bytes, kind: str) -> np.ndarray:
    try:
        return read_array(data)
    except ValueError as error:
        raise Refused(400, f"The body cannot be read as {kind}: {error}.") from error


def _npz(data: bytes, taken: Sequence[CrossingTensor], most_bytes: int) -> dict[str, np.ndarray]:
    unread = f"The body cannot be read as {NPZ}"
    if data.count(_MEMBER) > _MOST_MEMBERS:
        raise Refused(413, f"The body holds more than {_MOST_MEMBERS} arrays.")
    arrays, left = {}, most_bytes
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [member.filename.removesuffix(".npy") for member in archive.infolist()]
            if len(set(names)) < len(names):
                raise Refused(400, f"{unread}: two arrays have the same name.")
            _check_names(names, taken)
            for name, member in zip(names, archive.infolist(), strict=True):
                if member.flag_bits & 1:
                    raise Refused(400, f"{unread}: '{name}' is encrypted.")
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise Refused(400, f"{unread}: '{name}' uses a compression that NumPy does not write.")
                with archive.open(member) as stream:  # reads no more than asked for, whatever size its entry claims
                    content = stream.read(left + 1)
                left -= len(content)
                if left < 0:
                    raise Refused(413, f"The arrays take more than {most_bytes} bytes.")
                arrays[name] = _npy(content, NPZ)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise Refused(400, f"{unread}: it is not a zip file, or is damaged.") from error
    return arrays


def _json(data: bytes, taken: Sequence[CrossingTensor], limits: Limits) -> dict[str, np.ndarray]:
    if len(data) > limits.json:
        sizes = f"{len(data)} bytes; up to {limits.json} are accepted"
        raise Refused(413, f"The body has {sizes} as {JSON}. Send larger arrays as {NPY} or {NPZ}.")
    content = parse(data)
    if isinstance(content, dict):
        _check_names(content, taken)
    else:
        content = _alone(content, taken)
    return {one.name: as_array(content[one.name], one, limits.body) for one in taken}


def _alone(array: Any, taken: Sequence[CrossingTensor]) -> dict[str, Any]:
    if len(taken) > 1:
        raise Refused(422, f"The body holds one array; expected arrays by name: {_all(taken)}.")
    return {taken[0].name: array}


def _check_names(given: Iterable[str], taken: Sequence[CrossingTensor]) -> None:
    names = list(given)
    if set(names) != {one.name for one in taken}:
        some = listed(name[:50] for name in names[:10]) or "nothing"
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        raise Refused(422, f"The body holds {some}{more}; expected {_all(taken)}.")


def _checked(array: np.ndarray, taken: CrossingTensor, most_rows: int | None) -> np.ndarray:
    batched = array[None] if array.ndim == len(taken.shape) - 1 else array
    if not fits(batched.shape, taken.shape) or not len(batched):
        raise Refused(422, f"'{taken.name}' has shape {array.shape}; expected {shown(taken)}.")
    if most_rows is not None and len(batched) > most_rows:
        raise Refused(422, f"The body holds {len(batched)} rows; up to {most_rows} can be sent at a time.")
    try:
        return as_values(batched, taken.dtype, taken.name)
    except SplitError as error:
        raise Refused(422, str(error)) from error


def _finite(value: Any) -> Any:
    """Replaces values that JSON lacks: infinities and NaN by `null`, bytes by text decoded as UTF-8."""
    if isinstance(value, list):
        return [_finite(one) for one in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if isinstance(value, float) and not math.isfinite(value) else value
