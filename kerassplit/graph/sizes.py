"""Bytes of tensors."""

import math
import re


def bytes_per_sample(shape: tuple[int | None, ...], dtype: str) -> int | None:
    """Bytes of one sample of a tensor (the first dimension is the batch); `None` where another dimension is open.

    >>> bytes_per_sample((None, 28, 28, 512), "float32")
    1605632
    """
    bits = 8 if dtype == "bool" else next(iter(map(int, re.findall(r"\d+", dtype))), None)
    sides = [side for side in shape[1:] if side is not None]
    if bits is None or len(sides) < len(shape) - 1:
        return None
    return math.ceil(math.prod(sides) * bits / 8)
