"""Counts of arithmetic, and what elementary functions cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras


@dataclass(frozen=True, slots=True)
class Count:
    """Arithmetic of a call.

    Attributes:
        multiply_adds: Multiply-adds of matrix products and convolutions; each is two FLOPs.
        others: All other FLOPs: one for each elementary operation on one number (`+`, `*`, `/`, `max`, a comparison,
            `exp`, `sqrt`, `tanh`, `sigmoid`, ...), as XLA's cost analysis counts them.
    """

    multiply_adds: int = 0
    others: int = 0

    @property
    def flops(self) -> int:
        """All of it in FLOPs."""
        return 2 * self.multiply_adds + self.others

    def __add__(self, other: "Count") -> "Count":
        return Count(self.multiply_adds + other.multiply_adds, self.others + other.others)

    def times(self, number: int) -> "Count":
        """The same, this many times."""
        return Count(self.multiply_adds * number, self.others * number)


NOTHING = Count()


class UnknownCountError(Exception):
    """No formula knows what this costs."""


def size(shape: Sequence[int | None]) -> int:
    """The number of elements of a tensor."""
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
    """An activation of `keras.activations` on this many elements.

    The costs are those of the functions' definitions; `gelu` after Hendrycks and Gimpel (2016), `selu` after Klambauer
    et al. (2017), `silu` after Elfwing et al. (2018), `mish` after Misra (2019).

    Raises:
        UnknownCountError: It is another function.
    """
    if function is None:
        return NOTHING
    if function not in _ACTIVATIONS:
        raise UnknownCountError
    return Count(others=_ACTIVATIONS[function] * elements)


def einsum(equation: str, shapes: Sequence[Sequence[int | None]]) -> Count:
    """A product of two tensors in Einstein's notation: one multiply-add for each combination of its indices.

    Where it sums over none of them, each combination is one multiplication.

    >>> einsum("abc,cd->abd", [(2, 3, 4), (4, 5)]).multiply_adds
    120
    >>> einsum("ab,ab->ab", [(2, 3), (2, 3)]).flops
    6

    Raises:
        UnknownCountError: More than two tensors (the order of products decides then), or an unknown notation.
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
        middle = [f"...{place}" for place in range(hidden, 0, -1)]  # aligned at their ends, as in broadcasting
        for label, side in zip([*before, *middle, *after], shape, strict=True):
            if side is None:
                raise UnknownCountError
            sides[label] = max(sides.get(label, 1), side)
    labels = terms.replace("...", "").replace(",", "")
    sums = set(labels) - set(right) if arrow else {label for label in labels if labels.count(label) > 1}
    combinations = math.prod(sides.values())
    return Count(multiply_adds=combinations) if sums else Count(others=combinations)
