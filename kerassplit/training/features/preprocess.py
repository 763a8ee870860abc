"""Preprocesses raw rows into the inputs of a head."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kerassplit.cutting.arrays import named_tensors
from kerassplit.engines.inputs import as_array, check_shapes
from kerassplit.engines.route import Route
from kerassplit.errors import SplitError
from kerassplit.text import listed, warn
from kerassplit.training.features.rows import Rows
from kerassplit.zoo.models import architecture_module
from kerassplit.zoo.names import find_architecture

Preprocess = str | Callable[[Any], Any] | None


class Preparation:
    """Turns raw rows into the inputs of a head.

    Args:
        route: Describes the inputs of the head.
        preprocess: See `cache_features`.
    """

    def __init__(self, route: Route, preprocess: Preprocess):
        self._route, self._function = route, None
        if preprocess is None and route.warning is not None:
            warn(route.warning)
        self.name = "none"
        if callable(preprocess):
            self._function = preprocess
            named = preprocess if hasattr(preprocess, "__qualname__") else type(preprocess)
            self.name = f"{named.__module__}.{named.__qualname__}"
        elif preprocess is not None and preprocess != "none":
            architecture = find_architecture(preprocess) if isinstance(preprocess, str) else None
            if architecture is None:
                raise SplitError(
                    f"`preprocess` must be a function or an architecture of keras.applications, such as 'ResNet50'; "
                    f"got {preprocess!r}."
                )
            if len(route.takes) != 1:
                raise SplitError(
                    f"'{route.model}' takes {listed(tensor.name for tensor in route.takes)}. Pass a function as "
                    "`preprocess` that handles each of them."
                )
            self._function = architecture_module(architecture).preprocess_input
            self.name = architecture

    def __call__(self, rows: Rows) -> dict[str, np.ndarray | None]:
        """Returns the inputs by tensor name."""
        inputs = rows.inputs
        if self._function is not None:
            # The functions of keras.applications modify float32 arrays in place.
            copied = keras.tree.map_structure(lambda one: one if one is None else np.array(one), inputs)
            inputs = self._function(copied)
        given = named_tensors(inputs, self._route.inputs, self._route.model)
        arrays = {name: as_array(value) for name, value in given.items()}
        check_shapes(arrays, self._route)
        for name, array in arrays.items():
            if array is not None and len(array) != rows.rows:
                raise SplitError(
                    f"`preprocess` returned {len(array)} rows of '{name}' for {rows.rows}. It must keep each row."
                )
        return arrays
