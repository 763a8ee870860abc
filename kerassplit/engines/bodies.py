"""What comes and goes over HTTP: bodies read as tensors and checked, tensors as bodies. Nothing is unpickled."""

import io
import json
import math
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from kerassplit import wire
from kerassplit.engines.array_files import UNREADABLE, read_header, storable
from kerassplit.errors import SplitError
from kerassplit.names import listed
from kerassplit.photo import read_photo
from kerassplit.stages import CrossingTensor

NPY, NPZ, WIRE, JSON = "application/x-npy", "application/x-npz", "application/x-kerassplit", "application/json"
TAKEN = (JSON, NPY, NPZ, WIRE, "image/jpeg", "image/png")
"""What a body can be; other kinds of images, too."""
GIVEN = (JSON, NPY, NPZ, WIRE)
_MOST_PIXELS = 50_000_000  # 150 MB once decoded


class Refused(Exception):  # noqa: N818 (an answer rather than an error)
    """A request that gets no result.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class _Body(io.BytesIO):
    """Bytes that messages about a file call by a name."""

    def __repr__(self) -> str:
        return "the body"


def read(
    kind: str, body: bytes, taken: Sequence[CrossingTensor], most_bytes: int, architecture: str | None
) -> dict[str, Any]:
    """The tensors in a body, checked.

    Args:
        kind: The content type.
        body: The bytes.
        taken: What they should be.
        most_bytes: How much a compressed body may be once it is not.
        architecture: Whose preprocessing an image gets.

    Raises:
        Refused: They are something else; its status says what is wrong.
    """
    kind = kind.partition(";")[0].strip().lower()
    if kind.startswith("image/"):
        given = _image(body, taken, architecture)
    elif kind in (NPY, NPZ, WIRE, JSON):
        try:
            given = {NPY: _npy, NPZ: lambda data: _npz(data, most_bytes), WIRE: wire.unpack, JSON: _json}[kind](body)
        except (*UNREADABLE, RecursionError) as error:  # SplitError is a ValueError
            raise Refused(400, f"The body cannot be read as {kind}: {error}.") from error
    else:
        raise Refused(415, f"The content type is {kind or 'missing'}; expected {listed(TAKEN)} or another image.")
    if not isinstance(given, dict):
        if len(taken) > 1:
            raise Refused(422, f"The body holds one array; expected arrays by name: {_all(taken)}.")
        given = {taken[0].name: given}
    wrong = [name for name in given if name not in {one.name for one in taken}]
    missing = [one for one in taken if one.name not in given]
    if wrong or missing:
        raise Refused(422, f"The body holds {listed(given) or 'nothing'}; expected {_all(taken)}.")
    tensors = {one.name: _checked(given[one.name], one) for one in taken}
    if len({len(tensor) for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"'{name}' {tensor.shape}" for name, tensor in tensors.items())
        raise Refused(422, f"The arrays have different numbers of rows: {shapes}.")
    return tensors


def write(tensors: Mapping[str, np.ndarray], kind: str) -> bytes:
    """Tensors as a body of a kind in `GIVEN`."""
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
    """The kind of body that a client accepts, out of `GIVEN`: the first it names."""
    for one in accept.lower().split(","):
        kind = one.partition(";")[0].strip()
        if kind in GIVEN:
            return kind
        if kind in ("", "*/*", "application/*"):
            return JSON
    raise Refused(406, f"The client accepts {accept}; results can be {listed(GIVEN)}.")


def _all(taken: Sequence[CrossingTensor]) -> str:
    return ", ".join(map(_shown, taken))


def _shown(taken: CrossingTensor) -> str:
    sides = ", ".join("any" if side is None else str(side) for side in taken.shape)
    return f"'{taken.name}' ({sides}) {taken.dtype}"


def _image(body: bytes, taken: Sequence[CrossingTensor], architecture: str | None) -> np.ndarray:
    if len(taken) != 1 or len(taken[0].shape) != 4:
        raise Refused(422, f"The stages do not take one image; expected {_all(taken)}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(_Body(body)) as image:
                if image.width * image.height > _MOST_PIXELS:
                    size = f"{image.width}×{image.height}"
                    raise Refused(413, f"The image has {size} pixels; {_MOST_PIXELS:,} in all can be taken.")
            return read_photo(_Body(body), taken[0].shape[1:], architecture, "the model")[None]
    except Image.DecompressionBombError as error:
        raise Refused(413, f"The image is too large: {error}") from error
    except SplitError as error:
        raise Refused(422 if "images with" in str(error) else 400, str(error)) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise Refused(400, f"The body cannot be read as an image: {error}.") from error


def _npy(data: bytes) -> np.ndarray:
    stream = io.BytesIO(data)
    shape, by_column, dtype = read_header(stream)
    expected, there = math.prod(shape) * dtype.itemsize, len(data) - stream.tell()
    if expected != there:
        raise ValueError(f"an array of shape {shape} takes {expected} bytes, and {there} are there")
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order="F" if by_column else "C")


def _npz(data: bytes, most_bytes: int) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(member.file_size for member in archive.infolist()) > most_bytes:
            raise Refused(413, f"The arrays take more than {most_bytes} bytes.")
        return {member.filename.removesuffix(".npy"): _npy(archive.read(member)) for member in archive.infolist()}


def _json(data: bytes) -> Any:
    content = json.loads(data)
    if isinstance(content, dict):
        content = content["inputs"] if set(content) == {"inputs"} else content
    if isinstance(content, dict):
        return {name: np.asarray(value) for name, value in content.items()}
    return np.asarray(content)


def _checked(array: np.ndarray, taken: CrossingTensor) -> np.ndarray:
    batched = array[None] if array.ndim == len(taken.shape) - 1 else array
    fits = batched.ndim == len(taken.shape) and all(
        side in (None, given) for side, given in zip(taken.shape, batched.shape, strict=True)
    )
    if not fits or not len(batched):
        raise Refused(422, f"'{taken.name}' has the shape {array.shape}; expected {_shown(taken)}.")
    dtype = np.dtype(taken.dtype)
    if array.dtype != dtype and (array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and dtype.kind in "biu")):
        raise Refused(422, f"'{taken.name}' holds values of type {array.dtype}; expected {_shown(taken)}.")
    with np.errstate(over="ignore"):
        return batched.astype(dtype)


def _finite(value: Any) -> Any:
    """JSON has no infinities and no NaN: `null` stands for them."""
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
