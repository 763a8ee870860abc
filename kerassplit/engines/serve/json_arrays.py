"""Arrays from JSON. Each number keeps its exact value in the tensor's dtype, or the request is refused."""

import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from kerassplit.cutting.crossing import CrossingTensor
from kerassplit.engines.serve.limits import Refused, shown
from kerassplit.text import listed

_MOST_DIMENSIONS = 32  # of NumPy 1; NumPy 2 takes 64
_SHOWN = 5  # values in a message
_KINDS = {bool: "booleans", int: "numbers", float: "numbers", str: "strings", type(None): "null", dict: "objects"}


def parse(data: bytes) -> Any:
    """Parses a JSON body: nested lists for one array, or a dict of them by name.

    Raises:
        Refused: Invalid JSON, a duplicate key, or a number that no dtype can hold.
    """
    try:
        content = json.loads(data, object_pairs_hook=_once, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise Refused(400, f"The body cannot be read as application/json: {error}.") from error
    except UnicodeDecodeError as error:
        raise Refused(400, "The body cannot be read as application/json: it is not UTF-8.") from error
    except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        what = "it is nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
        raise Refused(400, f"The body cannot be read as application/json: {what}.") from error
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
    values, shape = _flat(content, taken.name)
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
    try:
        return np.array(values, np.float64).reshape(shape)
    except OverflowError as error:
        raise Refused(422, f"'{taken.name}' takes {taken.dtype}, and a number is out of its range.") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Refused(400, "The body cannot be read as application/json: duplicate key.")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise Refused(422, f"{text[:30]} is out of range for every dtype.")
    return value


def _flat(content: Any, name: str) -> tuple[list[Any], tuple[int, ...]]:
    """Flattens nested lists; returns the values and their shape."""
    level, shape = [content], []
    while level and type(level[0]) is list:
        lengths = {len(one) if type(one) is list else -1 for one in level}
        if len(lengths) > 1:
            raise Refused(400, f"The lists of '{name}' are ragged: siblings must have the same length.")
        shape.append(lengths.pop())
        if len(shape) > _MOST_DIMENSIONS:
            raise Refused(400, f"The lists of '{name}' are nested too deeply.")
        level = list(itertools.chain.from_iterable(level))
    if list in set(map(type, level)):
        raise Refused(400, f"The lists of '{name}' are ragged: values and lists are mixed.")
    return level, tuple(shape)


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
        some = ", ".join(_short(one) for one in wrong[:_SHOWN]) + (", ..." if len(wrong) > _SHOWN else "")
        fit = f"whole numbers from {least} to {most} do"
        raise Refused(422, f"'{taken.name}' takes {taken.dtype}, and {some} does not fit in: {fit}.")
    return np.array([int(one) for one in values], taken.dtype)


def _short(number: float) -> str:
    if isinstance(number, int) and abs(number) >= 10**30:  # Python refuses to print thousands of digits
        return f"a number of {int(math.log10(abs(number))) + 1} digits"
    return str(number)
