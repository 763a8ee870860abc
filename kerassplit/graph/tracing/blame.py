"""Finds the line of user code at fault when a `call` cannot be traced, the reason, and what to do."""

import inspect
import linecache
import re
import sys
import traceback
from collections.abc import Iterator

import keras

from kerassplit.errors import without_terminal_codes

_LIBRARIES = frozenset(
    {"keras", "kerassplit", "tensorflow", "tf_keras", "jax", "jaxlib", "flax", "torch", "torchvision", "numpy", "scipy"}
    | {"ml_dtypes", "optree", "tree", "torchtree", "einops", "absl", "h5py"}
)
OWN_LAYER = "or move this line into a keras.Layer of its own, which stays one call and may compute anything."
OPEN_SIDE = "It computes with an unknown dimension of a shape (`None`)."
_NATIVE = (
    "It passes a symbolic tensor to a function of {library}, which needs values, and tracing has none.",
    f"Use its counterpart in `keras.ops`, {OWN_LAYER}",
)
_NATIVE_ERRORS = (
    ("NumPy array", "NumPy"),
    ("TensorFlow function", "TensorFlow"),
    ("__jax_array__|JAX function", "JAX"),
    ("must be Tensor, not KerasTensor", "torch"),
)
_KNOWN = (
    (
        r"cannot be used as a boolean|cannot convert it to an? (int|float)|as a Python `bool`|TracerBoolConversion",
        "It depends on the values of a tensor (`if`, `while`, `int()`, `float()`), and tracing has none.",
        f"Use `keras.ops.where`, {OWN_LAYER}",
    ),
    (
        r"Iterating over a symbolic KerasTensor",
        "It iterates over a symbolic tensor.",
        f"Use `keras.ops.unstack` or slices, {OWN_LAYER}",
    ),
    (
        r"All operation outputs must be tensors",
        "The layer that it calls there returns something that is not a tensor, and a graph has only tensors.",
        "Make that layer return only tensors.",
    ),
    (
        r"Could not automatically infer the output shape",
        "Keras cannot infer the output shape of the layer that it calls there.",
        "Give that layer a `compute_output_shape` (or `compute_output_spec`).",
    ),
    (
        r"'KerasTensor' object has no attribute",
        "It uses an attribute that symbolic tensors do not have.",
        f"Use its counterpart in `keras.ops`, {OWN_LAYER}",
    ),
    (
        r"'NoneType' object cannot be interpreted as an integer|unsupported operand type.*NoneType"
        r"|value \(None\)|of integer type, got \(None|must be tuple of ints, (not tuple|but found element.*None)"
        r"|OpenSide",
        OPEN_SIDE,
        f"State that dimension in `inputs` (the first is the batch), write -1 in a new shape, {OWN_LAYER}",
    ),
)


class Refusal(Exception):  # noqa: N818
    """Raised if a user's `call` does what a graph cannot represent. Has the reason, the remedy, perhaps the place."""

    def __init__(self, reason: str, remedy: str, place: str | None = None):
        super().__init__(reason)
        self.remedy, self.place = remedy, place


def blamed(error: Exception, layer: keras.Layer) -> tuple[str, str, str]:
    """Returns why `layer.call` failed on symbolic tensors, what to do about it, and the place."""
    frames, below = _users_frames(error)
    place = _quoted(*frames[-1]) if frames else where(layer)
    refusal = next((one for one in _chain(error) if isinstance(one, Refusal)), None)
    if refusal is not None:
        return str(refusal), refusal.remedy, place
    text = f"{type(error).__name__}: {error}"
    native = _native_library(text, below)
    if native is not None:
        return _NATIVE[0].format(library=native), _NATIVE[1], place
    for pattern, reason, remedy in _KNOWN:
        if re.search(pattern, text):
            return reason, remedy, place
    return (
        f"It raises {type(error).__name__}: {_gist(error)}",
        f"If it does so on data, too, fix it; otherwise {OWN_LAYER[3:]}",
        place,
    )


def _gist(error: Exception) -> str:
    """Returns the first informative line of an error; Keras prepends one that is not, and terminal colors."""
    lines = without_terminal_codes(str(error)).splitlines()
    said = [line.strip() for line in lines if line.strip() and not line.startswith("Exception encountered when")]
    return f"{said[0].rstrip('.')}." if said else "(no message)."


def where(layer: keras.Layer) -> str:
    """Returns the location of a layer's `call`."""
    return line_with(layer, r"\bdef\b")


def line_with(layer: keras.Layer, pattern: str, last: bool = False) -> str:
    """Returns the location of the first (or last) line of a layer's `call` that matches a pattern, else its start."""
    call = inspect.unwrap(type(layer).call)
    try:
        lines, start = inspect.getsourcelines(call)
        filename = inspect.getsourcefile(call) or "?"
    except (OSError, TypeError):
        return f"(Its `call` has no source: {type(layer).__module__}.{type(layer).__qualname__}.)"
    begin = next((place for place, line in enumerate(lines) if "def " in line), 0)
    body = range(begin + ("def" not in pattern), len(lines))
    found = [place for place in body if re.search(pattern, lines[place].partition("#")[0])]
    place = begin if not found else found[-1 if last else 0]
    return _quoted(filename, start + place)


def _quoted(filename: str, number: int) -> str:
    return f"{filename}, line {number}:\n    {linecache.getline(filename, number).strip()}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _users_frames(error: Exception) -> tuple[list[tuple[str, int]], list[str]]:
    """Returns the frames of user code that lead to an error, and the libraries of the frames below the last of them.

    Keras re-raises some errors from frames that hide the cause, so the innermost cause with user frames counts.
    """
    for one in reversed(list(_chain(error))):
        frames: list[tuple[str, int]] = []
        below: list[str] = []
        for frame, number in traceback.walk_tb(one.__traceback__):
            library = str(frame.f_globals.get("__name__", "")).partition(".")[0]
            if library in _LIBRARIES or library in sys.stdlib_module_names:
                below.append(library)
            else:
                frames.append((frame.f_code.co_filename, number))
                below = []
        if frames:
            return frames, below
    return [], []


def _native_library(text: str, below: list[str]) -> str | None:
    """Returns the name of the library that received a symbolic tensor; `None` if that is not what happened."""
    if not re.search(r"KerasTensor|__jax_array__|NumPy array", text):
        return None
    names = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "torch", "numpy": "NumPy"}
    found = next((names[library] for library in below if library in names), None)
    if found is not None:
        return "Keras itself (such as `keras.random`)" if below[0] == "keras" else found
    return next((name for pattern, name in _NATIVE_ERRORS if re.search(pattern, text)), None)
