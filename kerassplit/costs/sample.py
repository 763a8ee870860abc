"""The sample that tensors are packed of: values of the model's inputs."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kerassplit.costs.profile import Profile
from kerassplit.cutting.arrays import named_tensors
from kerassplit.errors import SplitError
from kerassplit.files.values import as_values, fits
from kerassplit.graph.model_graph import Graph
from kerassplit.text import enumerated
from kerassplit.wire.forms import check_form


def read_sample(graph: Graph, sample: Any, wire: str | None) -> dict[int, np.ndarray]:
    """Returns the values of the model's inputs, by tensor; none without a sample.

    Args:
        graph: The model.
        sample: Arrays in the structure of the model's inputs, or `None`.
        wire: The form to pack in, or `None`.

    Raises:
        SplitError: One of both is missing, the form is unknown, or the sample does not fit the model.
    """
    if sample is None and wire is None:
        return {}
    if wire is None:
        raise SplitError("`sample` is given, but no form to pack its tensors in: pass `wire` too, such as 'int8+zlib'.")
    check_form(wire)
    if sample is None:
        raise SplitError(
            f"`wire` ({wire!r}) packs the tensors of a sample: pass `sample` too, arrays as the model takes them."
        )
    names = [tensor.name for tensor in graph.tensors]
    given = named_tensors(sample, keras.tree.map_structure(names.__getitem__, graph.inputs), graph.model.name)
    values = {tensor: _value(graph, tensor, given[names[tensor]]) for tensor in dict.fromkeys(graph.flat_inputs())}
    rows = {len(value) for value in values.values() if value.ndim}
    if len(rows) > 1 or 0 in rows:
        raise SplitError(
            f"The inputs in `sample` have {enumerated(list(map(str, sorted(rows))))} rows. Expected the same number in "
            "all of them, at least 1."
        )
    return values


def rows_of(sample: Mapping[int, np.ndarray]) -> int:
    """Returns the number of rows of a sample."""
    return next((len(value) for value in sample.values() if value.ndim), 1)


def check_shapes(profile: Profile, sample: Mapping[int, np.ndarray]) -> None:
    """Checks that a sample has the shapes that the model is profiled for.

    Raises:
        SplitError: It has others.
    """
    for tensor, value in sample.items():
        name, shape = profile.tensors[tensor].name, profile.tensors[tensor].shape
        if not fits(value.shape, shape):
            raise SplitError(
                f"`sample` has shape {value.shape} for '{name}', but the model is profiled for {shape}. "
                "Leave out `batch_size` and `open_sides`: they are those of the sample."
            )


def _value(graph: Graph, tensor: int, value: Any) -> np.ndarray:
    name, symbol = graph.tensors[tensor].name, graph.tensors[tensor].symbol
    if symbol.dtype == "string":
        raise SplitError(f"'{name}' takes strings, which cannot be packed. Build the part after it, and profile that.")
    if value is None:
        raise SplitError(f"'{name}' is left out of `sample`: give a value for every input, also for optional ones.")
    array = np.asarray(keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else value)
    if array.dtype.kind in "US":
        raise SplitError(f"'{name}' takes {symbol.dtype}, but `sample` has strings for it.")
    more = len(symbol.shape) - array.ndim
    if more == 1 and symbol.shape[-1] == 1:  # as Keras does
        array = array[..., None]
    if not fits(array.shape, symbol.shape):
        raise SplitError(f"`sample` has shape {array.shape} for '{name}'; expected {tuple(symbol.shape)}.")
    return as_values(array, symbol.dtype, name)
