"""Converts input values to the dtype of a tensor: without changing them, or not at all."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import ml_dtypes
import numpy as np

from kerassplit.errors import SplitError

_NUMBERS = "biuf"
_SHOWN = 5  # values in a message


def as_values(array: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """Converts an array to the dtype of a tensor, if that dtype can represent every value.

    Integers are never changed, whatever their dtype. Numbers for a floating-point tensor are rounded to its precision,
    and must be in its range.

    Args:
        array: Numbers, booleans or strings.
        dtype: Dtype of the tensor, such as `"int32"` or `"string"`.
        name: Name of the tensor, for messages.

    Raises:
        SplitError: The values are of another kind, or one does not fit: neither 1.7 nor 2**32 + 1 is an `int32`.

    Example:

    >>> as_values(np.array([1.0, 2.0]), "int32", "ids")
    array([1, 2], dtype=int32)
    """
    strings = dtype == "string"
    if array.dtype.kind not in ("US" if strings else _NUMBERS) and array.dtype.name != dtype:
        raise SplitError(f"'{name}' takes {dtype}, but these values are of type {array.dtype}.")
    if strings or array.dtype == dtype:  # including the byte order
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array.astype(dtype)
    _check(array, converted, dtype, name)
    return converted


def as_count(value: Any, option: str, *, least: int = 1) -> int:
    """Checks that a value is a count, and returns it as an `int`.

    Raises:
        SplitError: It is not an integer, or is too small.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise SplitError(f"`{option}` must be a whole number, at least {least}; got {value!r}.")
    return int(value)


def fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    """Returns True if a shape matches a wanted one, which may have open sides (`None`)."""
    return len(shape) == len(wanted) and all(want in (None, side) for side, want in zip(shape, wanted, strict=True))


def check_range(array: np.ndarray, dtype: str, name: str) -> None:
    """Refuses numbers that are out of the range of an integer dtype, since they would become other numbers.

    Conversions that Keras itself makes are left to it: 1.7 becomes 1.

    Raises:
        SplitError: A number is out of range; for `int32`, 2**32 + 1, infinity and NaN are.
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
    """Marks values out of the range of an integer dtype, including NaN."""
    if array.dtype.kind == "f":  # the minimum is 0 or a power of two, as is the maximum plus 1: both are exact
        wide = array.astype(np.float64)
        return ~((wide >= float(limits.min)) & (wide < float(limits.max + 1)))
    if array.dtype.kind == "b":
        return np.zeros(array.shape, bool)
    own = np.iinfo(array.dtype)
    low = array < limits.min if own.min < limits.min else np.zeros(array.shape, bool)
    return low | (array > limits.max) if own.max > limits.max else low
