"""Reads untrusted JSON: limited in size and depth, without extensions, with checked types."""

import json
import math
import os
import reprlib
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from kerassplit.errors import SplitError, StoreError
from kerassplit.files.atomic_file import open_regular
from kerassplit.files.untrusted import opened, shortened

LARGEST = 8 * 1024**2
"""Limit for a manifest in bytes. A split needs about 500 per stage and 100 per crossing tensor, so 10,000 stages fit.
At worst, parsed JSON takes 24 times its size in memory."""
_DEEPEST = 100  # nested lists and dicts; a manifest needs five, plus the nesting of the model's inputs and outputs
_MOST_DIGITS = 40  # of an integer: sums and products of such numbers still fit into floats
_hints = cache(get_type_hints)


def read_json(folder: Path, name: str, version: int, what: str, writer: str, remedy: str) -> dict[str, Any]:
    """Reads a manifest: a JSON file with a format version.

    Args:
        folder: Folder of the manifest.
        name: Name of its file.
        version: Latest version that can be read, from 1 on.
        what: Noun for the contents of such a folder, such as "split".
        writer: The function, and perhaps the command, that writes such a folder.
        remedy: A sentence on what to do if it cannot be read.

    Raises:
        StoreError: It is missing, unreadable, or of another version.
    """
    path = folder / name
    try:
        with opened(folder, name) as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise StoreError(f"{path} has more than {LARGEST:,} bytes, the limit for a manifest. {remedy}", path=path)
        content = parsed(text)
    except (FileNotFoundError, NotADirectoryError) as error:
        found = "is a file" if folder.is_file() else f"holds no {what}: there is no {name} in it"
        raise StoreError(f"'{folder}' {found}; expected a folder that {writer} wrote.", path=path) from error
    except StoreError:
        raise
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}. {remedy}", path=path) from error
    if not isinstance(content, dict) or "format_version" not in content:
        raise StoreError(f"{path} is not a manifest: it has no format_version. {remedy}", path=path)
    found = content["format_version"]
    if type(found) is not int or not 1 <= found <= version:
        raise StoreError(
            f"{path} has format version {shortened(found)}; this kerassplit reads versions up to {version}. Install a "
            f"newer kerassplit, if available. {remedy}",
            path=path,
        )
    return content


def read_regular(file: str | os.PathLike[str], largest: int) -> bytes:
    """Reads the content of a file named by a user.

    Raises:
        SplitError: It is not a regular file, or the name is invalid.
        OSError: It cannot be read.
        ValueError: It has more than `largest` bytes.
    """
    with open_regular(file) as stream:
        content = stream.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it has more than {largest:,} bytes")
    return content


def parsed(text: bytes | str) -> Any:
    """Parses JSON into plain values.

    Raises:
        ValueError: It is not JSON, repeats a field, has too large a number, or is nested too deeply.
    """
    try:
        content = loads(text if isinstance(text, str) else text.decode("utf-8"), parse_constant=_no_number)
        for value, depth in walked(content):
            if depth > _DEEPEST:
                raise RecursionError
            if isinstance(value, str):
                value.encode()  # a lone surrogate is not valid text
        return content
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def loads(text: bytes | str, **options: Any) -> Any:
    """Parses JSON like `json.loads`, but refuses repeated keys and numbers that are too large.

    Raises:
        ValueError: It is not JSON, repeats a field, or has too large a number.
        RecursionError: It is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_without_repeats, parse_float=_finite, parse_int=_whole, **options)


def versioned(text: bytes | str, version: int, what: str) -> dict[str, Any]:
    """Parses JSON with a format version.

    Args:
        text: The JSON.
        version: The version that can be read.
        what: Start of the error message, such as "The profile has format".

    Raises:
        SplitError: It is of another version.
        ValueError: It is not JSON, or has no version.
    """
    content = parsed(text)
    if not isinstance(content, dict) or "format_version" not in content:
        raise ValueError("there is no 'format_version'")
    if content["format_version"] != version:
        found = reprlib.repr(content["format_version"])
        raise SplitError(
            f"{what} {found}, but this kerassplit reads {version}. Create it again with this version, or install the "
            "version that wrote it."
        )
    return content


def read_record(kind: Any, value: Any, place: str = "") -> Any:
    """Converts plain values to a record (a dataclass or `TypedDict`), or to another annotated type.

    Args:
        kind: The type. Numbers must be 0 or greater.
        value: The plain values.
        place: Their location, for messages.

    Raises:
        ValueError: They do not match the type.

    >>> read_record(tuple[int, ...], [1, 2])
    (1, 2)
    """
    if kind is Any:
        return value
    if is_typeddict(kind) or (isinstance(kind, type) and is_dataclass(kind)):
        return _read_fields(kind, read_record(dict, value, place), place)
    origin, of = get_origin(kind), get_args(kind)
    if origin is tuple:
        every = enumerate(read_record(list, value, place))
        return tuple(read_record(of[0], one, f"{place}[{number}]") for number, one in every)
    if origin is dict:
        return {
            key: read_record(of[1], one, f"{place}[{key!r}]") for key, one in read_record(dict, value, place).items()
        }
    if origin is Literal and isinstance(value, str) and value in of:
        return value
    if origin in (Union, UnionType):
        if value is None and NoneType in of:
            return None
        as_python = tuple if isinstance(value, list) else type(value)
        return read_record(next((one for one in of if (get_origin(one) or one) is as_python), of[0]), value, place)
    is_kind = type(value) is kind or (kind is float and type(value) is int)
    if not is_kind or (isinstance(value, (int, float)) and value < 0):
        raise ValueError(f"{place or 'it'} is {reprlib.repr(value)}")
    return value


def _read_fields(kind: Any, values: dict[str, Any], place: str) -> Any:
    if is_typeddict(kind):
        names, optional = list(_hints(kind)), kind.__optional_keys__
    else:  # records of earlier versions lack fields that were added, which have defaults
        names = [field.name for field in fields(kind)]
        optional = [field.name for field in fields(kind) if field.default is not MISSING]
    missing = [name for name in names if name not in values and name not in optional]
    if missing:
        raise ValueError(f"there is no '{missing[0]}'{f' in {place}' if place else ''}")
    inside = f"{place}." if place else ""
    return kind(
        **{name: read_record(_hints(kind)[name], values[name], inside + name) for name in names if name in values}
    )


def walked(value: Any) -> Iterator[tuple[Any, int]]:
    """Yields all values in nested dicts and lists, and keys, with their depth; containers precede their contents."""
    waiting = [(value, 0)]
    while waiting:
        value, depth = waiting.pop()
        yield value, depth
        if isinstance(value, dict):
            waiting += [(inner, depth + 1) for pair in value.items() for inner in pair]
        elif isinstance(value, list):
            waiting += [(inner, depth + 1) for inner in value]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("it repeats a field")
    return fields


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _no_number(text)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number, or is too large")
