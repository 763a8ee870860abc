"""Reading JSON that anyone may have written: limited in size and depth, without extensions, of stated types."""

import json
import math
import os
import reprlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

from kerassplit.errors import SplitError, StoreError
from kerassplit.files.atomic_file import open_regular
from kerassplit.files.untrusted import opened, shortened

LARGEST = 8 * 1024**2
"""Bytes of a manifest. One of a split takes about 500 a stage and 100 a tensor that crosses: enough for 10,000 stages.
At worst, JSON takes 24 times its size in memory."""
_DEEPEST = 100  # lists and dicts in one another; a manifest needs five, and what nests the model's inputs and outputs
_MOST_DIGITS = 40  # of a whole number: sums and products of such are still floats
_ADDED = ("also", "hints")
"""Fields that records of earlier versions lack."""
_hints = cache(get_type_hints)


def read_json(folder: Path, name: str, version: int, what: str, writer: str, remedy: str) -> dict[str, Any]:
    """Reads a manifest: a JSON file that tells the version of its format.

    Args:
        folder: Where it is.
        name: Its name.
        version: The latest that can be read, from 1 on.
        what: What a folder with such a file holds, as in "split".
        writer: What writes such a folder.
        remedy: A sentence on what to do where it cannot be read.

    Raises:
        StoreError: There is none, it cannot be read, or is of another version.
    """
    path = folder / name
    try:
        with opened(folder, name) as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise StoreError(f"{path} has more than {LARGEST:,} bytes: no manifest is that large. {remedy}", path=path)
        content = parsed(text)
    except FileNotFoundError as error:
        raise StoreError(
            f"'{folder}' holds no {what}: there is no {name} in it. Expected a folder written by {writer}.", path=path
        ) from error
    except StoreError:
        raise
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}. {remedy}", path=path) from error
    if not isinstance(content, dict) or "format_version" not in content:
        raise StoreError(f"{path} is no manifest of {writer}: it has no format_version. {remedy}", path=path)
    found = content["format_version"]
    if type(found) is not int or not 1 <= found <= version:
        raise StoreError(
            f"{path} has format version {shortened(found)}; this kerassplit reads versions up to {version}. Install a "
            f"newer kerassplit, if there is one. {remedy}",
            path=path,
        )
    return content


def read_regular(file: str | os.PathLike[str], largest: int) -> bytes:
    """The content of a file that a user names.

    Raises:
        SplitError: It is no regular file, or no file can be called so.
        OSError: It cannot be read.
        ValueError: It has more bytes than that.
    """
    with open_regular(file) as stream:
        content = stream.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it has more than {largest:,} bytes")
    return content


def parsed(text: bytes | str) -> Any:
    """JSON as plain values.

    Raises:
        ValueError: It is none, has a field twice or a number that is too large, or is nested too deeply.
    """
    try:
        content = loads(text if isinstance(text, str) else text.decode("utf-8"), parse_constant=_no_number)
        for value, depth in walked(content):
            if depth > _DEEPEST:
                raise RecursionError
            if isinstance(value, str):
                value.encode()  # half a pair of surrogates is no text
        return content
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def loads(text: bytes | str, **options: Any) -> Any:
    """Reads JSON as `json.loads` does, but for keys that occur twice and numbers that are too large.

    Raises:
        ValueError: It is no JSON, has a field twice or a number that is too large.
        RecursionError: It is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_without_repeats, parse_float=_finite, parse_int=_whole, **options)


def versioned(text: bytes | str, version: int, what: str) -> dict[str, Any]:
    """JSON of a version.

    Args:
        text: The JSON.
        version: That can be read.
        what: What it is, as in "The profile has format".

    Raises:
        SplitError: It is of another version.
        ValueError: It is no JSON, or says no version.
    """
    content = parsed(text)
    if not isinstance(content, dict) or "format_version" not in content:
        raise ValueError("there is no 'format_version'")
    if content["format_version"] != version:
        found = reprlib.repr(content["format_version"])
        raise SplitError(
            f"{what} {found}, and this kerassplit reads {version}. Make it again with this version, or install the one "
            "that wrote it."
        )
    return content


def read_record(kind: Any, value: Any, place: str = "") -> Any:
    """Plain values as a record (a dataclass, or a dict of stated fields), or whatever else this type says.

    Args:
        kind: The type. Numbers are 0 or above.
        value: The values.
        place: Where they stand, for the message.

    Raises:
        ValueError: They are something else.

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
    if type(None) in of:
        return None if value is None else read_record(of[0], value, place)
    if origin is UnionType:
        return read_record(of[1] if isinstance(value, list) else of[0], value, place)
    is_kind = type(value) is kind or (kind is float and type(value) is int)
    if not is_kind or (isinstance(value, (int, float)) and value < 0):
        raise ValueError(f"{place or 'it'} is {reprlib.repr(value)}")
    return value


def _read_fields(kind: Any, values: dict[str, Any], place: str) -> Any:
    optional = kind.__optional_keys__ if is_typeddict(kind) else _ADDED
    names = _hints(kind) if is_typeddict(kind) else [field.name for field in fields(kind)]
    missing = [name for name in names if name not in values and name not in optional]
    if missing:
        raise ValueError(f"there is no '{missing[0]}'{f' in {place}' if place else ''}")
    inside = f"{place}." if place else ""
    return kind(
        **{name: read_record(_hints(kind)[name], values[name], inside + name) for name in names if name in values}
    )


def walked(value: Any) -> Iterator[tuple[Any, int]]:
    """Walks through nested dicts and lists, keys too, with the depth; containers come before their contents."""
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
        raise ValueError("it has a field twice")
    return fields


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _no_number(text)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON, or too large")
