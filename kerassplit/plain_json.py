"""Reading JSON files that anyone may have written: of limited size and depth, and JSON without extensions."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kerassplit.errors import StoreError
from kerassplit.folder import opened

_DEEPEST = 100  # lists and dicts in one another; a manifest needs five, and what nests the model's inputs and outputs


def read_json(folder: Path, name: str, largest: int, what: str, writer: str, remedy: str) -> Any:
    """The content of a JSON file.

    Args:
        folder: Where it is.
        name: What it is called.
        largest: So many bytes it may have; at worst, JSON takes 24 times its size in memory.
        what: What a folder holds that has such a file, as in "split".
        writer: What writes such a folder.
        remedy: What helps where it cannot be read.

    Raises:
        StoreError: There is none, or it cannot be read.
    """
    path = folder / name
    try:
        with opened(folder, name) as file:
            text = file.read(largest + 1)
            if len(text) > largest:
                raise StoreError(
                    f"{path} has more than {largest:,} bytes: no manifest is that large. {remedy}", path=path
                )
        return _parsed(text)
    except FileNotFoundError as error:
        raise StoreError(
            f"'{folder}' holds no {what}: there is no {name} in it. Expected a folder written by {writer}.", path=path
        ) from error
    except StoreError:
        raise
    except RecursionError as error:
        raise StoreError(f"{path} cannot be read: it is nested too deeply. {remedy}", path=path) from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}. {remedy}", path=path) from error


def _parsed(text: bytes) -> Any:
    content = json.loads(
        text.decode("utf-8"), object_pairs_hook=_without_repeats, parse_constant=_no_number, parse_float=_finite
    )
    for value, depth in _walked(content):
        if depth > _DEEPEST:
            raise RecursionError
        if isinstance(value, str):
            value.encode()  # half a pair of surrogates is no text
    return content


def _walked(value: Any) -> Iterator[tuple[Any, int]]:
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


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _no_number(text)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")
