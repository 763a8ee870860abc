"""Marks on the layers and operations that an edit has added, so that pictures can show them."""

import weakref
from collections.abc import Iterable
from typing import Literal

import keras

Mark = Literal["inserted", "replaced"]

_marks: weakref.WeakKeyDictionary[keras.Operation, Mark] = weakref.WeakKeyDictionary()


def mark(operations: Iterable[keras.Operation], how: Mark) -> None:
    """Marks layers or operations."""
    _marks.update(dict.fromkeys(operations, how))


def mark_of(operation: keras.Operation) -> Mark | None:
    """Returns how an edit has added a layer or operation; `None` if no edit did."""
    return _marks.get(operation)
