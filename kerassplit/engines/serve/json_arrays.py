"""Reads arrays from JSON. Each number keeps its exact value in the tensor's dtype, or the request is refused."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kerassplit.cutting.crossing import CrossingTensor
from kerassplit.engines.serve.limits import Refused, shown
from kerassplit.files.untrusted_json import loads
from kerassplit.text import listed

_SHOWN = 5  # values in a message
_KINDS = {bool: "booleans", int: "numbers", float: "numbers", str: "strings", type(None): "null", dict: "objects"}
_UNREADABLE = {RecursionError: "it is nested too deeply", UnicodeDecodeError: "it is not UTF-8"}


def parse(data: bytes) -> Any:
    """Parses a JSON body: nested lists for one array, or a dict of them by name.

    Raises:
        Refused: Invalid JSON, a duplicate key, or a number that no dtype can hold.
    """
    try:
        content = loads(data)
    except (ValueError, RecursionError) as error:
        why = _UNREADABLE.get(type(error), error)
        raise Refused(400, f"The body cannot be read as application/json: {why}.") from error
    return content["inputs"] if isinstance(content, dict) and set(content) == {"inputs"} else content


def as_array(content: Any, taken: CrossingTensor, most_bytes: int) -> np.ndarray:
    """Converts nested lists into an array.

    Args:
        content: Parsed JSON.
        taken: The tensor it is for.
        most_bytes: Size limit of the array.

    Raises:
        Refused: The lists are ragged or too deep, or the values have mixed or wrong types.
    """
    array = np.array(content, object)  # NumPy leaves ragged lists in it as lists
    values, shape = array.ravel().tolist(), array.shape
    if list in map(type, values):
        raise Refused(400, f"The lists of '{taken.name}' are ragged or nested too deeply: no array has that shape.")
    kinds = {_KINDS.get(kind, kind.__name__) for kind in set(map(type, values))}
    expected = {"string": {"strings"}, "bool": {"booleans", "numbers"}}.get(taken.dtype, {"booleans", "numbers"})
    if len(kinds) > 1 or kinds - expected:
        raise Refused(422, f"'{taken.name}' holds {listed(sorted(kinds))}; expected {shown(taken)}.")
    if taken.dtype == "string":
        return _texts(values, taken.name, most_bytes).reshape(shape)
    if kinds == {"booleans"}:
        return np.array(values, bool).reshape(shape)
    if taken.dtype == "bool" or np.dtype(taken.dtype).kind in "iu":
        return _whole(values, taken).reshape(shape)
    return np.array(values, np.float64).reshape(shape)


def _texts(values: Sequence[str], name: str, most_bytes: int) -> np.ndarray:
    longest = max(map(len, values), default=0)
    if 4 * longest * len(values) > most_bytes:  # NumPy pads each string to the longest
        raise Refused(
            413, f"The strings of '{name}' take more than {most_bytes} bytes, padded to {longest} characters each."
        )
    if any(one.endswith("\0") for one in values):
        raise Refused(422, f"A string of '{name}' ends with a NUL character, which arrays cannot hold.")
    try:
        "".join(values).encode()
    except UnicodeEncodeError as error:
        raise Refused(422, f"A string of '{name}' contains an unpaired surrogate.") from error
    return np.array(values, str)


def _whole(values: Sequence[float], taken: CrossingTensor) -> np.ndarray:
    least, most = (0, 1) if taken.dtype == "bool" else (np.iinfo(taken.dtype).min, np.iinfo(taken.dtype).max)
    wrong = [one for one in values if not least <= one <= most or one != int(one)]
    if wrong:
        some = ", ".join(map(str, wrong[:_SHOWN])) + (", ..." if len(wrong) > _SHOWN else "")
        fit = f"whole numbers from {least} to {most} do"
        raise Refused(422, f"'{taken.name}' takes {taken.dtype}, and {some} does not fit in: {fit}.")
    return np.array([int(one) for one in values], taken.dtype)
