"""Compares two arrays of numbers."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kerassplit.errors import SplitError
from kerassplit.text import with_short_repr


@dataclass(frozen=True)
class ComparedTensor:
    """Largest difference between two computations of one tensor."""

    tensor: str
    stage: str
    is_output: bool
    shape: tuple[int, ...]
    dtype: str
    max_difference: float

    @property
    def label(self) -> str:
        """Name of the tensor in a table."""
        return self.tensor + (" (output)" if self.is_output else "")


@with_short_repr
@dataclass(frozen=True)
class TensorComparison(ComparedTensor):
    """Comparison of one tensor as computed by the stages and by the model.

    Attributes:
        tensor: Its name.
        stage: The stage that computes it; `"(input)"` for an input that is also an output of the model.
        is_output: True if it is an output of the model.
        shape: Shape of the computed arrays.
        dtype: Dtype, such as `"float32"`.
        max_difference: Largest absolute difference of two numbers: 0 if all are equal, infinite if a number is NaN on
            one side only.
        identical: True if all bits are equal.
        numbers: Number of numbers compared. Those that are NaN on both sides do not count: they show nothing.
    """

    identical: bool
    numbers: int


def check_tolerance(tolerance: Any) -> None:
    """Checks that a tolerance is a number that differences can be compared with.

    Raises:
        SplitError: It is negative, NaN or no number.
    """
    if not (isinstance(tolerance, (int, float, np.integer, np.floating)) and tolerance >= 0):
        raise SplitError(
            f"tolerance={tolerance!r} (--tolerance {tolerance}) was given. Expected the largest difference to allow: 0 "
            "or a positive number."
        )


def compared(name: str, stage: str, is_output: bool, ours: Any, theirs: Any) -> TensorComparison:
    """Compares two tensors, bit for bit and by their largest difference."""
    one, other = keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs)
    if "O" in (one.dtype.kind, other.dtype.kind):  # texts
        identical = np.array_equal(one, other)
        difference = 0.0 if identical else float("inf")
    else:
        identical = one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()
        difference = 0.0 if identical else largest_difference(one, other)
    return TensorComparison(
        name, stage, is_output, one.shape, str(one.dtype), difference, identical, numbers_in(one, other)
    )


def numbers_in(one: np.ndarray, other: np.ndarray) -> int:
    """Counts the numbers that a comparison of two arrays rests on, without those that are NaN in both."""
    if one.shape != other.shape or "O" in (one.dtype.kind, other.dtype.kind):
        return one.size
    return one.size - int(np.count_nonzero((one != one) & (other != other)))


def largest_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the largest absolute difference; infinite if the shapes differ or a number is NaN in one array only."""
    if one.shape != other.shape:
        return float("inf")
    wide = [array.astype("complex128" if array.dtype.kind == "c" else "float64") for array in (one, other)]
    equal = (wide[0] == wide[1]) | (np.isnan(wide[0]) & np.isnan(wide[1]))
    with np.errstate(invalid="ignore"):
        differences = np.where(equal, 0.0, np.abs(wide[0] - wide[1]))
    return float(np.max(np.where(np.isnan(differences), np.inf, differences), initial=0.0))
