"""Bytes of tensors."""

import math
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

Shape = tuple[int | None, ...]


def tensor_bytes(shape: Shape, dtype: str) -> int | None:
    """Returns the bytes of a tensor; `None` if a dimension is unknown or the dtype has no size (strings).

    >>> tensor_bytes((8, 28, 28, 512), "float32")
    12845056
    """
    bits = _bits(dtype)
    return None if bits is None or None in shape else math.ceil(math.prod(shape) * bits / 8)  # pyright: ignore


@cache
def _bits(dtype: str) -> int | None:
    """Returns the bits per element; `None` for strings."""
    return 8 if dtype == "bool" else next(iter(map(int, re.findall(r"\d+", dtype))), None)


def bytes_per_sample(shape: Shape, dtype: str) -> int | None:
    """Returns the bytes of one sample of a tensor (without its batch dimension); `None` if a dimension is unknown.

    >>> bytes_per_sample((None, 28, 28, 512), "float32")
    1605632
    """
    return tensor_bytes(shape[1:], dtype)


def bytes_in(variables: Iterable[Any]) -> int:
    """Returns the bytes of variables or of symbolic tensors without unknown dimensions; strings count as zero."""
    return sum(tensor_bytes(tuple(one.shape), one.dtype) or 0 for one in variables)


def total(values: Iterable[Any]) -> Any:
    """Returns the sum; `None` if one of the values is `None`."""
    values = list(values)
    return None if None in values else sum(values)
