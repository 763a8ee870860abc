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
    value, unit = float(count), ""
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1023.95:
            break
    return f"{value:.1f} {unit}"


def format_count(count: int) -> str:
    """A count with a decimal prefix.

    >>> format_count(5217344)
    '5.2 M'
    """
    if count < 1000:
        return str(count)
    value, prefix = float(count), ""
    for prefix in ("k", "M", "G", "T"):
        value /= 1000
        if value < 999.95:
            break
    return f"{value:.1f} {prefix}"


def format_shape(shape: Sequence[int | None]) -> str:
    """The shape of one sample: without the batch dimension, `?` for open ones.

    >>> format_shape((None, 28, 28, 512))
    '28×28×512'
    """
    return "×".join("?" if side is None else str(side) for side in shape[1:]) or "scalar"
