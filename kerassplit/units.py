"""Numbers as people read them."""

from collections.abc import Sequence


def format_bytes(count: int | None) -> str:
    """Bytes in binary units; `?` where they are not known.

    >>> format_bytes(1605632)
    '1.5 MiB'
    """
    if count is None:
        return "?"
    if count < 1024:
        return f"{count} B"
    return _scaled(count, 1024, ("KiB", "MiB", "GiB", "TiB"))


def format_count(count: int) -> str:
    """A count with a decimal prefix.

    >>> format_count(5217344)
    '5.2 M'
    """
    if count < 1000:
        return str(count)
    return _scaled(count, 1000, ("k", "M", "G", "T"))


def format_shape(shape: Sequence[int | None]) -> str:
    """The shape of one sample: without the batch dimension, `?` for open ones.

    >>> format_shape((None, 28, 28, 512))
    '28×28×512'
    """
    return "×".join("?" if side is None else str(side) for side in shape[1:]) or "scalar"


def _scaled(count: int, step: int, units: Sequence[str]) -> str:
    """With one decimal, in the first unit in which it stays below a step."""
    power = 1
    while power < len(units) and round(count / step**power, 1) >= step:
        power += 1
    return f"{count / step**power:.1f} {units[power - 1]}"
