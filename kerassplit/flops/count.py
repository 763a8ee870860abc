"""Counts of arithmetic, and the cost of elementary functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras


@dataclass(frozen=True, slots=True)
class Count:
    """The arithmetic of a call.

    Attributes:
        multiply_adds: Multiply-adds of matrix products and convolutions, two FLOPs each.
        others: All other FLOPs: one per elementary operation on an element (`+`, `*`, `/`, `max`, a comparison, `exp`,
            `sqrt`, `tanh`, `sigmoid`, ...), as in XLA's cost analysis.
    """

    multiply_adds: int = 0
    others: int = 0

    @property
    def flops(self) -> int:
        """Total FLOPs."""
        return 2 * self.multiply_adds + self.others

    def __add__(self, other: "Count") -> "Count":
        return Count(self.multiply_adds + other.multiply_adds, self.others + other.others)

    def times(self, number: int) -> "Count":
        """Returns the count multiplied by `number`."""
        return Count(self.multiply_adds * number, self.others * number)


NOTHING = Count()


class UnknownCountError(Exception):
    """Raised if no formula covers a call."""


def size(shape: Sequence[int | None]) -> int:
    """Returns the number of elements of a tensor; raises `UnknownCountError` if a dimension is unknown."""
    if None in shape:
        raise UnknownCountError
    return math.prod(side for side in shape if side is not None)


FLOPS_OF_ACTIVATION = {
    "linear": 0,
    "relu": 1,  # max(x, 0)
    "relu6": 2,  # min(max(x, 0), 6)
    "leaky_relu": 2,  # max(x, slope * x)
    "sigmoid": 1,
    "tanh": 1,
    "exponential": 1,
    "softmax": 5,  # maximum, subtraction, exp, sum, division
    "log_softmax": 5,  # maximum, subtraction, exp, sum, subtraction of the logarithm
    "elu": 4,  # x > 0 ? x : alpha * (exp(x) - 1)
    "celu": 5,
    "selu": 5,
    "softplus": 3,  # log(1 + exp(x))
    "log_sigmoid": 4,
    "softsign": 3,  # x / (1 + |x|)
    "silu": 2,  # x * sigmoid(x)
    "mish": 5,  # x * tanh(softplus(x))
    "hard_sigmoid": 4,  # relu6(x + 3) / 6
    "hard_silu": 5,
    "hard_tanh": 2,
    "tanh_shrink": 2,  # x - tanh(x)
    "gelu": 5,  # x * (1 + erf(x / sqrt(2))) / 2
    "squareplus": 5,  # (x + sqrt(x * x + b)) / 2
}
"""FLOPs of an activation per element, by its name in `keras.activations`."""
_ACTIVATIONS: dict[Any, int] = {
    getattr(keras.activations, name): flops
    for name, flops in FLOPS_OF_ACTIVATION.items()
    if hasattr(keras.activations, name)
}


def activation(function: Any, elements: int) -> Count:
    """Counts an activation of `keras.activations` on this many elements.

    Costs follow the definitions of the functions; `gelu`: Hendrycks and Gimpel (2016), `selu`: Klambauer et al. (2017),
    `silu`: Elfwing et al. (2018), `mish`: Misra (2019).

    Raises:
        UnknownCountError: It is some other function.
    """
    if function is None:
        return NOTHING
    if function not in _ACTIVATIONS:
        raise UnknownCountError
    return Count(others=_ACTIVATIONS[function] * elements)


def einsum(equation: str, shapes: Sequence[Sequence[int | None]]) -> Count:
    """Counts an einsum of two tensors: one multiply-add per combination of its indices.

    If it sums over none of them, each combination is one multiplication.

    >>> einsum("abc,cd->abd", [(2, 3, 4), (4, 5)]).multiply_adds
    120
    >>> einsum("ab,ab->ab", [(2, 3), (2, 3)]).flops
    6

    Raises:
        UnknownCountError: More than two tensors (the cost then depends on the order of products), or unknown notation.
    """
    terms, arrow, right = equation.replace(" ", "").partition("->")
    left = terms.split(",")
    if len(left) != 2 or len(shapes) != 2:
        raise UnknownCountError
    sides: dict[str, int] = {}
    for labels, shape in zip(left, shapes, strict=True):
        before, dots, after = labels.partition("...")
        hidden = len(shape) - len(before) - len(after)
        if hidden < 0 or (hidden and not dots):
            raise UnknownCountError
        middle = [f"...{place}" for place in range(hidden, 0, -1)]  # aligned at the end, as in broadcasting
        for label, side in zip([*before, *middle, *after], shape, strict=True):
            if side is None:
                raise UnknownCountError
            sides[label] = max(sides.get(label, 1), side)
    labels = terms.replace("...", "").replace(",", "")
    sums = set(labels) - set(right) if arrow else {label for label in labels if labels.count(label) > 1}
    combinations = math.prod(sides.values())
    return Count(multiply_adds=combinations) if sums else Count(others=combinations)
