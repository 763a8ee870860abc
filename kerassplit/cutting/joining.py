"""Joins sub-models, stages and layers into one flat model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import keras

from kerassplit.cutting.adapters import data_format_of, fits, fitting, misfit
from kerassplit.cutting.piece_tensors import SAY_IT, Given, PieceTensor, values_of
from kerassplit.cutting.stages import Stage, Stages
from kerassplit.errors import SplitError, UnsupportedModelError
from kerassplit.graph.assembling import graph_of_call, joined
from kerassplit.graph.internals.symbols import maker_of
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.reading import read_graph
from kerassplit.graph.references import several_of
from kerassplit.graph.sides import read_sides
from kerassplit.text import listed, safe_name, unique, warn

Piece = keras.Model | Stage | keras.Layer


def join(pieces: Iterable[Piece]) -> keras.Model:
    """Joins sub-models, stages and layers, in execution order, into one flat model.

    The inputs of each piece are connected by name: the names of its Inputs are matched with the names of the tensors
    that earlier pieces output, or with their keys in a dict. If no name matches, they are connected by position to the
    outputs of the piece before it, if the counts agree. A layer receives all outputs of the piece before it. The names
    of a `Stage` are its `inputs` and `outputs`, and always take precedence.

    Masks (boolean tensors), and tensors from which a later piece computes only masks, pass by: layers do not receive
    them, nor do models whose number of inputs, by position, matches without them. To pass a mask to a layer as an
    input, wrap the layer in a model whose Inputs have the names.

    If a layer or model has one input and one output (masks and inputs of the joined model do not count), its output
    replaces its input: later pieces get the output by the input's name, unless they ask for it by its own name. An
    output with the same name as an input of its piece replaces that input, too, as does each output of a layer that
    returns a list as long as its inputs.

    Tensors that no piece outputs become inputs of the joined model; tensors that no piece uses become outputs. If no
    output of a model or layer is used, a warning says so, since it may have been meant for a later piece.

    Args:
        pieces: Models, `Stage`s and layers, built or not. The first must define its inputs: a model, a `Stage` or a
            `keras.Input`. Models without a graph (subclassed ones) count as layers. A `Split` is joined as a whole.

    Returns:
        A `keras.Model`. It shares the layers and variables of the pieces. The pieces are not changed, except that
        unbuilt layers are built. Its inputs have the structure of the first piece's inputs, its outputs that of the
        last piece's outputs; if there are others, dicts keyed by tensor names. Nested models inside the pieces stay
        nested.

    Raises:
        UnsupportedModelError: Two pieces do not fit (the message suggests an adapter), or they contain different layers
            of the same name.
        SplitError: There are no pieces; or one is not a model, stage or layer; or the names do not determine the
            connections.

    Example:

    >>> head = ks.build_submodel(resnet, end="conv4_block6_out")
    >>> tail = ks.build_submodel(resnet, start="conv4_block6_out")
    >>> adapted = ks.join([head, keras.layers.Dropout(0.1), tail])
    """
    if isinstance(pieces, Stages):
        return pieces.join()
    several = [pieces] if isinstance(pieces, (Stage, keras.Layer, keras.KerasTensor)) else several_of(pieces)
    if not several:
        raise SplitError("There are no pieces to join: give at least one model, Stage or layer.")
    joint = _Joint(several)
    for place, piece in enumerate(several):
        joint.add(place, piece)
    return joint.model()


class _Joint:
    """The pieces added so far, and their outputs.

    Attributes:
        last: Outputs of the last piece.
        around: The same with the masks that passed it by, in order.
    """

    def __init__(self, pieces: Sequence[Any]):
        self.pieces = pieces
        self.graphs = [_graph_of(place, piece) for place, piece in enumerate(pieces)]
        self.for_masks = set().union(*map(_for_masks, pieces, self.graphs))
        self.taken = {call.operation.name for graph in self.graphs if graph for call in graph.calls if call.inputs}
        self.taken |= {nest.operation.name for graph in self.graphs if graph for nest in graph.nests}
        self.taken |= {piece.name for piece in pieces if isinstance(piece, keras.Layer)}
        self.parts: list[tuple[Graph, list[str], list[str]]] = []
        self.inputs: dict[str, PieceTensor] = {}
        self.given = Given()
        self.last: list[PieceTensor] = []
        self.around: list[PieceTensor] = []

    def add(self, place: int, piece: Any) -> None:
        """Adds the next piece and connects its inputs."""
        graph, label = self.graphs[place], f"'{piece.name}'"
        if isinstance(piece, keras.KerasTensor):
            name = maker_of(piece).operation.name
            self.last = [self._input(PieceTensor("", name, f"`keras.Input` '{name}'", piece.shape, piece.dtype))]
            self.around = self.last
            return
        by_name = False
        if graph is None:
            takes = wanted = matched = values_of(self.last)
            masks = [tensor for tensor in self.last if tensor not in takes]
            graph = self.graphs[place] = _called(piece, takes, masks)
        else:
            names = piece.inputs if isinstance(piece, Stage) else None
            wanted = _described(graph, graph.flat_inputs(), graph.inputs, names, "", label)
            matched, by_name = self._matched(place, wanted)
            takes = [self._connected(*pair, graph) for pair in zip(matched, wanted, strict=True)]
        names = piece.outputs if isinstance(piece, Stage) else None
        gives = _described(graph, graph.flat_outputs(), graph.outputs, names, f"{place}:", label)
        gives = [replace(one, for_masks=bool(one.names & self.for_masks)) for one in gives]
        self.parts.append((graph, [tensor.key for tensor in takes], [tensor.key for tensor in gives]))
        old = [replace(one, names=one.names | own.names) for one, own in zip(matched, wanted, strict=True) if one]
        in_order = wanted is takes and not isinstance(graph.outputs, dict)
        self.given.replace(old, gives, in_order, only_names=by_name and isinstance(piece, Stage))
        self.given.add(takes, gives)
        self.around = _in_place(self.around, takes, gives)
        self.last = gives

    def model(self) -> keras.Model:
        """Builds the joined model."""
        if not self.parts:
            raise SplitError("There is nothing to join after the `keras.Input`: add a model, a Stage or a layer.")
        self._warn_of_idle_pieces()
        (first, takes, _), (last, _, gives) = self.parts[0], self.parts[-1]
        inputs = _in_structure(first.flat_inputs(), takes, first.inputs)
        outputs = _in_structure(last.flat_outputs(), gives, last.outputs)
        if len(self.inputs) > len(set(takes)):
            inputs = {tensor.key: tensor.key for tensor in self.inputs.values()}
        if len(self.given.waiting) > len(set(gives)):
            taken: set[str] = set()
            outputs = {unique(safe_name(tensor.name), taken): key for key, tensor in self.given.waiting.items()}
        return joined(self.parts, inputs, outputs, "joined")[0]

    def _warn_of_idle_pieces(self) -> None:
        """Warns of models and layers before the last whose outputs no later piece uses."""
        pieces = self.pieces[len(self.pieces) - len(self.parts) :]
        for piece, (_, _, gives) in list(zip(pieces, self.parts, strict=True))[:-1]:
            idle = [self.given.waiting[key] for key in gives if key in self.given.waiting]
            if len(idle) == len(gives) and not isinstance(piece, Stage):
                names = [tensor.name for tensor in idle]
                warn(
                    f"No piece after {idle[0].giver} uses what it gives ({listed(names)}), so it becomes an output of "
                    "the joined model. If a later piece should use it, name an Input there after it; if it should be "
                    "an output, pass a `kerassplit.Stage(name, model, inputs, outputs)` in its place."
                )

    def _matched(self, place: int, wanted: Sequence[PieceTensor]) -> tuple[list[PieceTensor | None], bool]:
        """Returns the tensor for each input of a piece (`None`: an input of the joined model), and if names decided."""
        if not place:
            return [None] * len(wanted), False
        exact = isinstance(self.pieces[place], Stage)
        ways = [way for way in (self.last, values_of(self.last), self.around) if len(way) == len(wanted)]
        found = self.given.named(wanted)
        names, last = [tensor.name for tensor in wanted], {tensor.key for way in ways[:1] for tensor in way}
        keys = {tensor.key for tensor in found if tensor}
        if ways and not exact and keys and not keys & last and not keys <= self.given.waiting.keys():
            raise SplitError(
                f"{wanted[0].giver} takes {_counted(names)}: by name, tensors that an earlier piece has already used; "
                f"by position, those that {self.last[0].giver} before it gives "
                f"({listed(one.name for one in ways[0])}). {SAY_IT}"
            )
        if keys or (exact and any(tensor.name in self._stage_inputs(place + 1) for tensor in self.last)):
            return found, True
        if ways:
            return [*ways[0]], False
        raise SplitError(
            f"{wanted[0].giver} takes {_counted(names)}, but {self.last[0].giver} before it gives "
            f"{_counted([tensor.name for tensor in self.last])}: no names match. {SAY_IT}"
        )

    def _stage_inputs(self, place: int) -> set[str]:
        """Returns the inputs of the stages from `place` on: tensors of these names are meant for them."""
        return {name for piece in self.pieces[place:] if isinstance(piece, Stage) for name in piece.inputs}

    def _connected(self, given: PieceTensor | None, wanted: PieceTensor, graph: Graph) -> PieceTensor:
        if given is None:
            return self._input(wanted)
        if not fits(given.shape, wanted.shape) or given.dtype != wanted.dtype:
            raise misfit(given, wanted, self.last == [given], data_format_of(call.operation for call in graph.calls))
        return given

    def _input(self, wanted: PieceTensor) -> PieceTensor:
        """Returns the input of the joined model for a tensor that no piece outputs; equal names share one input."""
        there = self.inputs.get(wanted.name)
        if there is None:
            key = unique(safe_name(wanted.name), self.taken)
            there = self.inputs[wanted.name] = PieceTensor(key, wanted.name, wanted.giver, wanted.shape, wanted.dtype)
        elif tuple(there.shape) != tuple(wanted.shape) or there.dtype != wanted.dtype:
            raise UnsupportedModelError(
                f"{there.giver} takes {there}, and {wanted.giver} takes {wanted}: with the same name, they would be "
                "one input of the joined model. Give them different names, or the same shape and dtype."
            )
        return there


def _graph_of(place: int, piece: Any) -> Graph | None:
    """Returns the graph of a model or stage; `None` for a layer or a `keras.Input`."""
    if isinstance(piece, Stage):
        return read_graph(piece.model)
    is_symbol = isinstance(piece, keras.KerasTensor)
    if not place and is_symbol and isinstance(maker_of(piece).operation, keras.layers.InputLayer):
        return None
    if not isinstance(piece, keras.Layer):
        if isinstance(piece, Stages):
            raise SplitError(f"Piece {place} is a Split. Put its stages there: `kerassplit.join([..., *split, ...])`.")
        kind = f"class {piece.__name__}" if isinstance(piece, type) else f"{type(piece).__name__} {piece!r:.80}"
        raise SplitError(f"Piece {place} is the {kind}; expected a keras.Model, a kerassplit.Stage or a keras layer.")
    if isinstance(piece, keras.Model):
        try:
            return read_graph(piece)
        except UnsupportedModelError:
            if not place:
                raise
    if not place:
        raise SplitError(
            f"The first piece, layer '{piece.name}', does not define its input. Put a `keras.Input(shape)` before it: "
            "`kerassplit.join([keras.Input(shape), layer, ...])`."
        )
    return None


def _in_structure(tensors: Sequence[int], keys: Sequence[str], structure: Any) -> Any:
    return keras.tree.map_structure(dict(zip(tensors, keys, strict=True)).__getitem__, structure)


def _in_place(
    around: Sequence[PieceTensor], takes: Sequence[PieceTensor], gives: Sequence[PieceTensor]
) -> list[PieceTensor]:
    """Returns the outputs of a piece and the masks that passed it by, in their old places if the counts match."""
    stay = [one for one in around if one.passes_by and one not in takes]
    if len(gives) != len(around) - len(stay):
        return [*gives, *stay]
    new = iter(gives)
    return [one if one in stay else next(new) for one in around]


def _described(
    graph: Graph, tensors: Sequence[int], structure: Any, names: Sequence[str] | None, prefix: str, giver: str
) -> list[PieceTensor]:
    """Describes inputs or outputs of a piece, with the names that a Stage gives them or else their names and keys."""
    keys: dict[int, set[str]] = {}
    if names is None and isinstance(structure, dict):
        for key, tensor in structure.items():
            if isinstance(tensor, int):
                keys.setdefault(tensor, set()).add(str(key))
    every_key = set().union(*keys.values())
    described = []
    for tensor, name in zip(tensors, names or graph.names(tensors), strict=True):
        symbol, own = graph.tensors[tensor].symbol, keys.get(tensor, set())
        called = own | ({name} - every_key)
        described.append(PieceTensor(prefix + name, name, giver, symbol.shape, symbol.dtype, frozenset(called)))
    return described


def _for_masks(piece: Any, graph: Graph | None) -> set[str]:
    """Returns the names of the inputs from which a piece computes only masks: a cut sends these if they are smaller."""
    tensors = graph.flat_inputs() if graph else []
    if graph is None or len(tensors) < 2:
        return set()
    names = piece.inputs if isinstance(piece, Stage) else graph.names(tensors)
    users = [set(graph.tensors[tensor].users) for tensor in tensors]
    sides = read_sides(graph).calls
    return {name for name, calls in zip(names, users, strict=True) if calls and calls <= sides}


def _called(layer: keras.Layer, takes: Sequence[PieceTensor], masks: Sequence[PieceTensor]) -> Graph:
    """Calls a layer, which builds it, and returns the graph of that call."""
    inputs = [keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype) for tensor in takes]
    with fitting(layer, takes, masks):
        graph = graph_of_call(layer, inputs[0] if len(inputs) == 1 else inputs)
        declared = len(graph.flat_outputs())
        if declared > 1 and len(takes) > 1 and (made := _made(layer, takes, declared)) != declared:
            raise ValueError(f"it declares {declared} tensors but returns {made}.")
    return graph


def _made(layer: keras.Layer, takes: Sequence[PieceTensor], declared: int) -> int:
    """Counts the tensors that a layer really returns: `Rescaling` declares as many as it gets, but stacks them."""
    try:
        zeros = [keras.ops.zeros([side or 1 for side in tensor.shape], tensor.dtype) for tensor in takes]
        return len(keras.tree.flatten(layer(zeros)))
    except Exception:  # strings, or an open dimension for which 1 is too small
        return declared


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''} ({listed(names)})"
