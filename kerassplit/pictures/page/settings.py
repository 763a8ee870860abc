"""Settings of layers as short texts, to show when a layer is pointed at."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from kerassplit.text import shortened

_LONGEST = 60
_MOST = 14
_LEFT_OUT = {"name", "trainable", "dtype"}  # the name and dtype are shown anyway


def settings_of(operations: Iterable[keras.Operation]) -> dict[str, Any]:
    """Returns the settings of operations, each different list of them once.

    Returns:
        `lists`: lists of pairs of a setting and its value, as texts. `of`: for each operation, the index of its list.
    """
    places: dict[tuple[tuple[str, str], ...], int] = {}
    by_operation: dict[int, int] = {}
    of = []
    for operation in operations:
        if id(operation) not in by_operation:
            by_operation[id(operation)] = places.setdefault(_settings(operation), len(places))
        of.append(by_operation[id(operation)])
    return {"lists": list(places), "of": of}


def _settings(operation: keras.Operation) -> tuple[tuple[str, str], ...]:
    """Returns the configuration without initializers and what is not set; at most `_MOST` settings."""
    try:
        config = operation.get_config()
    except Exception:  # a layer of the user's without a configuration
        return ()
    found = [
        (shortened(str(key), _LONGEST), shortened(_text(value), _LONGEST))
        for key, value in config.items()
        if value is not None and key not in _LEFT_OUT and not str(key).endswith("_initializer")
    ]
    more = len(found) - _MOST
    return tuple(found if more <= 0 else [*found[:_MOST], ("…", f"{more} more")])


def _text(value: Any) -> str:
    """Formats a value: of objects, the class; of texts, themselves."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        if "class_name" in value:
            return str(value["class_name"])
        return f"{{{', '.join(f'{key}: {_text(one)}' for key, one in list(value.items())[:8])}}}"
    if isinstance(value, (list, tuple)):
        texts = ", ".join(_text(one) for one in value[:8]) + (f", … ({len(value)})" if len(value) > 8 else "")
        return f"({texts})" if isinstance(value, tuple) else f"[{texts}]"
    if isinstance(value, np.ndarray):
        return f"array of shape {value.shape}"
    if value is None or isinstance(value, (bool, int, float, np.number)):
        return repr(value.item() if isinstance(value, np.number) else value)
    return type(value).__name__
