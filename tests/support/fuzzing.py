"""Corrupt inputs: valid bytes and plain structures, damaged at random or on purpose.

`pytest --hypothesis-profile=long` tries 10,000 of them on each reader; the default is 50.
"""

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, settings, strategies as st

_LONG = settings.get_current_profile_name() == "long"

fuzzed = settings(
    max_examples=10_000 if _LONG else settings.default.max_examples,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=not _LONG,
)
"""Settings for a test that a reader survives all input: it gives a value or raises the one error that it promises."""

_NUMBERS = (0, -1, 1, 2**31, 2**32 + 1, 2**63 - 1, 2**63, 10**400, -0.0, 1.7, 1e308, float("inf"), float("nan"))
_TEXTS = (
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/",
    "a\0b",
    "a\nb",
    "\x1b[31mred\x1b]0;title\x07",
    "\udc80",
    "x" * 5000,
    "float33",
    "é" * 200,
)
_DEEP: Any = []
for _ in range(600):
    _DEEP = [_DEEP]

leaves = st.one_of(
    st.sampled_from([*_NUMBERS, *_TEXTS, None, True, False, [], {}, [[]], {"": {}}, _DEEP]),
    st.text(max_size=20),
    st.integers(),
)
"""What stands where something else should."""

_CHUNKS = st.sampled_from([b"\0" * 64, b"\xff" * 8, b"\n", b"{", b"[" * 2000, b"9" * 400, b"\x93NUMPY", b"PK\x03\x04"])


@st.composite
def damaged(draw: st.DrawFn, *whole: bytes) -> bytes:
    """One of these, with a few bytes changed, removed, duplicated or inserted, truncated, or unchanged."""
    content = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        end = min(len(content), place + draw(st.integers(1, 40)))
        kind = draw(st.sampled_from(("bits", "other", "out", "twice", "in", "cut", "splice")))
        if kind == "bits" and place < len(content):
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "other":
            content[place:end] = draw(st.binary(min_size=end - place, max_size=end - place))
        elif kind == "out":
            del content[place:end]
        elif kind == "twice":
            content[place:place] = content[place:end]
        elif kind == "in":
            content[place:place] = draw(_CHUNKS)
        elif kind == "cut":
            del content[place:]
        elif kind == "splice":
            content[place:] = draw(st.sampled_from(whole))[place:]
    return bytes(content)


@st.composite
def altered(draw: st.DrawFn, *whole: Any) -> Any:
    """One of these plain structures, with a few of its parts replaced, removed or moved."""
    content = json.loads(json.dumps(draw(st.sampled_from(whole))))
    for _ in range(draw(st.integers(1, 3))):
        holders = _holders(content)
        if not holders:
            return content
        holder = draw(st.sampled_from(holders))
        key = draw(st.sampled_from(sorted(holder, key=repr) if isinstance(holder, dict) else range(len(holder))))
        kind = draw(st.sampled_from(("leaf", "leaf", "leaf", "out", "other")))
        if kind == "out":
            del holder[key]
        elif kind == "leaf":
            holder[key] = json.loads(json.dumps(draw(leaves)))  # not the one that the next example gets, too
        else:
            other = draw(st.sampled_from(holders))
            with contextlib.suppress(RecursionError):
                holder[key] = json.loads(json.dumps(other))
    return content


def _holders(content: Any, depth: int = 0) -> list[Any]:
    """Non-empty dicts and lists in a structure, except very deep ones."""
    inner: Sequence[Any] = ()
    if isinstance(content, dict):
        inner = list(content.values())
    elif isinstance(content, list):
        inner = content
    found = [content] if inner else []
    return found + [one for part in inner if depth < 20 for one in _holders(part, depth + 1)]
