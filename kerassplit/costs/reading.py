"""Profiles out of plain values, such as JSON gives: what does not fit is refused here, once."""

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from kerassplit.costs.profiles import Profile

_hints = cache(get_type_hints)


def read_record(kind: Any, value: Any) -> Any:
    """Plain values as a record, or whatever else this type says.

    Raises:
        KeyError, TypeError, ValueError: They are something else.
    """
    if isinstance(kind, type) and is_dataclass(kind):
        return kind(**{field.name: read_record(_hints(kind)[field.name], value[field.name]) for field in fields(kind)})
    of = get_args(kind)
    if get_origin(kind) is tuple:
        return tuple(read_record(of[0], one) for one in read_record(list, value))
    if get_origin(kind) is Literal and value in of:
        return value
    if type(None) in of:
        return None if value is None else read_record(of[0], value)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise TypeError(f"{value!r} is no {kind}")
    return value


def check_indices(profile: "Profile") -> None:
    """Refuses a profile that speaks of what it does not have.

    Raises:
        ValueError: It does.
    """

    def check(indices: Iterable[int], things: tuple[Any, ...]) -> None:
        if not all(0 <= index < len(things) for index in indices):
            raise ValueError("an index is out of range")

    check((*profile.inputs, *profile.outputs), profile.tensors)
    for call in profile.calls:
        check((*call.inputs, *call.outputs), profile.tensors)
        check(call.variables, profile.variables)
        check((call.block,), profile.blocks)
    for block in profile.blocks:
        check(block.calls, profile.calls)
        check(block.variables, profile.variables)
        check(block.crossing, profile.tensors)
