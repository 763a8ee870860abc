"""Tries a model: random input, the values of any of its tensors, and its state as it was afterwards."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from kerassplit.cutting.submodel import build_part, part
from kerassplit.errors import SplitError
from kerassplit.graph.internals.layers import untrained_variables
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.shapes import OpenSides, fixed_batch, input_shapes

OPEN_SIDE = 32
"""Default size of open dimensions in random input."""
_SAMPLES = 2


def random_input(graph: Graph, seed: int, open_sides: OpenSides = None) -> Any:
    """Draws random samples in the structure of the model's inputs: two, or a full batch if its size is fixed.

    Values are those of `drawn`; open dimensions have size 32 by default.
    """
    try:
        generator = np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise SplitError(f"seed is {seed!r}. Expected a whole number, 0 or greater.") from error
    samples = fixed_batch(symbol.shape for symbol in graph.model.inputs) or _SAMPLES
    shapes = input_shapes(graph, samples, OPEN_SIDE if open_sides is None else open_sides)

    def draw(tensor: int) -> np.ndarray:
        symbol = graph.tensors[tensor].symbol
        if symbol.dtype == "string":
            raise SplitError(f"'{graph.tensors[tensor].name}' takes strings: give an input as `x` to compare on.")
        return drawn(shapes[tensor], symbol.dtype, generator)

    # Not by `map_structure`: on torch, it visits the keys of a dict in another order.
    return keras.tree.pack_sequence_as(graph.inputs, [draw(tensor) for tensor in graph.flat_inputs()])


def random_refused(name: str, error: Exception, open_sides: OpenSides) -> SplitError:
    """Returns the error to raise if a model does not run on random input."""
    return SplitError(
        f"Random input, with {open_sides or OPEN_SIDE} for open dimensions, does not go through '{name}': "
        f"{error}\nSay what stands for them, with open_sides=N (--open-sides N). "
        "Or give an input as `x` to compare on."
    )


def drawn(shape: Any, dtype: str, generator: np.random.Generator) -> np.ndarray:
    """Draws random values: floats (as `float32`) from the normal distribution; integers 0 or 1, for any vocabulary."""
    if "float" in dtype:
        return generator.standard_normal(shape).astype("float32")
    return generator.integers(0, 2, shape).astype(dtype)


@contextlib.contextmanager
def state_kept(models: Iterable[keras.Model]) -> Iterator[None]:
    """Restores the state that running changes even in inference mode: random generators, stateful recurrent layers."""
    states = {id(one): one for model in models for one in untrained_variables(model)}
    before = [(one, keras.ops.copy(one.value)) for one in states.values()]
    try:
        yield
    finally:
        for one, value in before:
            one.assign(value)


def values_of(graph: Graph, tensors: Sequence[int], inputs: Sequence[Any]) -> dict[int, Any]:
    """Computes tensors of a model, also those inside nested models, eagerly and in inference mode.

    Args:
        graph: The model.
        tensors: The tensors; no inputs of the model.
        inputs: The values of the model's inputs, in Keras's order.

    Returns:
        Their values, by tensor.
    """
    calls, taken = part(graph, [], tensors)
    opened, taken, made = build_part(graph, calls, taken, tensors, graph.model.name, only_to_run=True)
    given = dict(zip(graph.flat_inputs(), inputs, strict=True))
    with state_kept([graph.model]):
        outputs = opened(keras.tree.pack_sequence_as(opened.input, [given[one] for one in taken]), training=False)
    return dict(zip(made, keras.tree.flatten(outputs), strict=True))
