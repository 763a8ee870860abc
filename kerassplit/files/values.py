"""Values from outside as the type that a model takes: unchanged, or refused."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import ml_dtypes
import numpy as np

from kerassplit.errors import SplitError

_NUMBERS = "biuf"
_SHOWN = 5  # values in a message


def as_values(array: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """An array in the type of values that a tensor has, if each of its values is one of that type.

    Whole numbers stay exactly what they are, in whatever type they come. Numbers for a floating-point tensor are
    rounded to its precision, and must be in its range.

    Args:
        array: Of numbers, booleans or strings.
        dtype: That of the tensor, such as `"int32"`; `"string"`, too.
        name: Of the tensor, for messages.

    Raises:
        SplitError: The values are of another kind, or one of them does not fit: 1.7 and 2**32 + 1 are no `int32`.

    Example:

    >>> as_values(np.array([1.0, 2.0]), "int32", "ids")
    array([1, 2], dtype=int32)
    """
    strings = dtype == "string"
    if array.dtype.kind not in ("US" if strings else _NUMBERS) and array.dtype.name != dtype:
        raise SplitError(f"'{name}' takes {dtype}, and these values are of type {array.dtype}.")
    if strings or array.dtype == dtype:  # not of another order of bytes
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array.astype(dtype)
    _check(array, converted, dtype, name)
    return converted


def as_count(value: Any, option: str, *, least: int = 1) -> int:
    """A whole number that says how many.

    Raises:
        SplitError: It is none, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise SplitError(f"`{option}` must be a whole number, at least {least}; got {value!r}.")
    return int(value)


def fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    """Whether an array has a shape of which some sides are open (`None`)."""
    return len(shape) == len(wanted) and all(want in (None, side) for side, want in zip(shape, wanted, strict=True))


def check_range(array: np.ndarray, dtype: str, name: str) -> None:
    """Refuses numbers that would become others, as they are out of the range of a type of whole numbers.

    What Keras itself does to numbers on the way into a model is left to it: 1.7 becomes 1.

    Raises:
        SplitError: 2**32 + 1, infinity and NaN are out of the range of `int32`.
    """
    if array.dtype.kind in "iuf" and dtype not in ("bool", "string") and np.dtype(dtype).kind in "iu":
        limits = np.iinfo(dtype)
        whole = np.trunc(array) if array.dtype.kind == "f" else array
        _refuse(array, _outside(whole, limits), dtype, name, f"numbers from {limits.min} to {limits.max} do")


def _check(array: np.ndarray, converted: Any, dtype: str, name: str) -> None:
    if dtype == "bool":
        wrong = (array != 0) & (array != 1)
        fit = "0, 1 and booleans do"
    elif np.dtype(dtype).kind in "iu":
        wrong = _outside(array, np.iinfo(dtype))
        if array.dtype.kind == "f":
            wrong |= array != np.floor(array)
        fit = f"whole numbers from {np.iinfo(dtype).min} to {np.iinfo(dtype).max} do"
    else:
        wrong = np.isfinite(array) & ~np.isfinite(converted)
        fit = f"numbers up to {ml_dtypes.finfo(dtype).max:.4g} do"
    _refuse(array, wrong, dtype, name, fit)


def _refuse(array: np.ndarray, wrong: np.ndarray, dtype: str, name: str, fit: str) -> None:
    if wrong.any():
        shown = ", ".join(map(str, array[wrong].flat[:_SHOWN]))
        more = ", ..." if np.count_nonzero(wrong) > _SHOWN else ""
        raise SplitError(f"'{name}' takes {dtype}, and {shown}{more} does not fit in: {fit}.")


def _outside(array: np.ndarray, limits: np.iinfo) -> np.ndarray:
    """Marks values out of the range of an integer type; NaN is."""
    if array.dtype.kind == "f":  # the smallest is a power of two or 0, and so is the largest and 1: both are exact
        wide = array.astype(np.float64)
        return ~((wide >= float(limits.min)) & (wide < float(limits.max + 1)))
    if array.dtype.kind == "b":
        return np.zeros(array.shape, bool)
    own = np.iinfo(array.dtype)
    low = array < limits.min if own.min < limits.min else np.zeros(array.shape, bool)
    return low | (array > limits.max) if own.max > limits.max else low
