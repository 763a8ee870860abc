"""Joining sub-models, stages and layers into one flat model."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kerassplit.adapters import Shape, adapters, fits
from kerassplit.errors import SplitError, UnsupportedModelError
from kerassplit.graph import Graph, maker_of, read_graph
from kerassplit.names import listed, safe_name, unique
from kerassplit.rebuild import graph_of_call, joined
from kerassplit.references import several_of
from kerassplit.stages import Split, Stage

Piece = keras.Model | Stage | keras.Layer


def join(pieces: Iterable[Piece]) -> keras.Model:
    """Joins sub-models, stages and layers, in the order in which they run, into one flat model.

    Each piece takes what the one before it gives: one tensor to one tensor; several by name (of an Input and of the
    tensor that a piece gives), else by position where the counts agree. A layer takes all of it. By name, a piece also
    takes what earlier pieces gave; after a layer between two pieces, what the layer gave in the place of what it took.
    Of a `Stage` the names of its tensors count, always.

    What no piece gives becomes an input of the joined model; what no piece takes, one of its outputs.

    Args:
        pieces: Models, `Stage`s and layers, built or not. The first says what it takes: a model, a `Stage` or a
            `keras.Input`. Models without a graph (subclassed ones) count as layers. A `Split` is joined as a whole.

    Returns:
        A `keras.Model`. It shares the layers and variables of the pieces, which are left alone, but for layers that
        were not built: now they are. Its inputs have the structure of the first piece's, its outputs that of the last
        one's; where others come to them, dicts keyed by tensor names. Nested models inside the pieces stay nested.

    Raises:
        UnsupportedModelError: Two pieces do not fit; the message suggests an adapter that would. Or they hold
            different layers of one name.
        SplitError: There are no pieces, or one is no model, stage or layer, or the names do not say what goes where.

    Example:

    >>> head = ks.build_submodel(resnet, end="conv4_block6_out")
    >>> tail = ks.build_submodel(resnet, start="conv4_block6_out")
    >>> adapted = ks.join([head, keras.layers.Dropout(0.1), tail])
    """
    if isinstance(pieces, Split):
        return pieces.join()
    several = [pieces] if isinstance(pieces, (Stage, keras.Layer, keras.KerasTensor)) else several_of(pieces)
    if not several:
        raise SplitError("There are no pieces to join: give at least one model, Stage or layer.")
    joint = _Joint(several)
    for place, piece in enumerate(several):
        joint.add(place, piece)
    return joint.model()


@dataclass(frozen=True)
class Handed:
    """A tensor between pieces.

    Attributes:
        key: Its name for `joined`: the Input's, or a unique one.
        name: Its name in the piece that gives it.
        giver: That piece, in words.
        shape: Its shape.
        dtype: Its dtype.
    """

    key: str
    name: str
    giver: str
    shape: Shape
    dtype: str

    def __str__(self) -> str:
        named = f"'{self.name}' of " if self.name else ""
        return f"{named}shape {tuple(self.shape)} and dtype {self.dtype}"


class _Joint:
    """The pieces added so far, and what they give."""

    def __init__(self, pieces: Sequence[Any]):
        self.pieces = pieces
        self.graphs = [_graph_of(place, piece) for place, piece in enumerate(pieces)]
        self.taken = {call.operation.name for graph in self.graphs if graph for call in graph.calls if call.inputs}
        self.taken |= {nest.operation.name for graph in self.graphs if graph for nest in graph.nests}
        self.taken |= {piece.name for piece in pieces if isinstance(piece, keras.Layer)}
        self.parts: list[tuple[Graph, list[str], list[str]]] = []
        self.inputs: dict[str, Handed] = {}
        self.outputs: dict[str, Handed] = {}  # what no piece has taken yet, by key
        self.given: dict[str, Handed] = {}  # by name, the newest
        self.aliases: dict[str, Handed] = {}  # what the last piece, which took by position, gave in place of that
        self.last: list[Handed] = []

    def add(self, place: int, piece: Any) -> None:
        """Adds the next piece."""
        graph, label = self.graphs[place], f"'{piece.name}'"
        if isinstance(piece, keras.KerasTensor):
            name = maker_of(piece).operation.name
            self.last = [self._input(Handed("", name, f"`keras.Input` '{name}'", piece.shape, piece.dtype))]
            return
        if graph is None:
            takes, renamed = self.last, True
            graph = self.graphs[place] = _called(piece, takes)
        else:
            names = piece.inputs if isinstance(piece, Stage) else None
            wanted = _described(graph, graph.flat_inputs(), names, "", label)
            matched = self._matched(place, wanted)
            renamed = [tensor.name for tensor in wanted] != [tensor and tensor.name for tensor in matched]
            takes = [self._connected(*pair, graph) for pair in zip(matched, wanted, strict=True)]
        names = piece.outputs if isinstance(piece, Stage) else None
        gives = _described(graph, graph.flat_outputs(), names, f"{place}:", label)
        self.parts.append((graph, [tensor.key for tensor in takes], [tensor.key for tensor in gives]))
        for tensor in takes:
            self.outputs.pop(tensor.key, None)
        replaced = {name for name, tensor in (self.given | self.aliases).items() if [tensor] == takes}
        self.aliases = dict.fromkeys(replaced, gives[0]) if renamed and len(gives) == 1 else {}
        self.given.update({tensor.name: tensor for tensor in gives})
        self.outputs.update({tensor.key: tensor for tensor in gives})
        self.last = gives

    def model(self) -> keras.Model:
        """The joined model."""
        if not self.parts:
            raise SplitError("There is nothing behind the `keras.Input` to join: add a model, a Stage or a layer.")
        (first, takes, _), (last, _, gives) = self.parts[0], self.parts[-1]
        inputs = _in_structure(first.flat_inputs(), takes, first.inputs)
        outputs = _in_structure(last.flat_outputs(), gives, last.outputs)
        if len(self.inputs) > len(set(takes)):
            inputs = {tensor.key: tensor.key for tensor in self.inputs.values()}
        if len(self.outputs) > len(set(gives)):
            taken: set[str] = set()
            outputs = {unique(safe_name(tensor.name), taken): key for key, tensor in self.outputs.items()}
        return joined(self.parts, inputs, outputs, "joined")[0]

    def _matched(self, place: int, wanted: Sequence[Handed]) -> list[Handed | None]:
        """For each tensor that a piece takes the one it gets; `None` for inputs of the joined model."""
        if not place:
            return [None] * len(wanted)
        exact = isinstance(self.pieces[place], Stage)
        if len(wanted) == len(self.last) == 1 and not exact:
            return [*self.last]
        names, ours = [tensor.name for tensor in wanted], {tensor.name for tensor in self.last}
        given = self.given if ours & set(names) else self.given | self.aliases
        found = [given.get(name) for name in names]
        if any(found) or (exact and ours & self._stage_inputs(place + 1)):
            return found
        if len(wanted) == len(self.last):
            return [*self.last]
        raise SplitError(
            f"{wanted[0].giver} takes {_counted(names)}, and {self.last[0].giver} before it gives "
            f"{_counted([tensor.name for tensor in self.last])}: no name is on both sides. Name the Inputs after what "
            "they take, or say it by a `kerassplit.Stage(name, model, inputs, outputs)`."
        )

    def _stage_inputs(self, place: int) -> set[str]:
        """What stages from there on take: a tensor that waits for them is not for a stage of other names."""
        return {name for piece in self.pieces[place:] if isinstance(piece, Stage) for name in piece.inputs}

    def _connected(self, given: Handed | None, wanted: Handed, graph: Graph) -> Handed:
        if given is None:
            return self._input(wanted)
        if not fits(given.shape, wanted.shape) or given.dtype != wanted.dtype:
            raise _misfit(given, wanted, len(self.last) == 1, _data_format(call.operation for call in graph.calls))
        return given

    def _input(self, wanted: Handed) -> Handed:
        """The input of the joined model for a tensor that no piece gives; one of that name is the same."""
        there = self.inputs.get(wanted.name)
        if there is None:
            key = unique(safe_name(wanted.name), self.taken)
            there = self.inputs[wanted.name] = Handed(key, wanted.name, wanted.giver, wanted.shape, wanted.dtype)
        elif tuple(there.shape) != tuple(wanted.shape) or there.dtype != wanted.dtype:
            raise UnsupportedModelError(
                f"{there.giver} takes {there}, and {wanted.giver} takes {wanted}: of one name, they would be one input "
                "of the joined model. Give them different names, or the same shape and dtype."
            )
        return there


def _graph_of(place: int, piece: Any) -> Graph | None:
    """The graph of a model or stage; `None` for a layer and a `keras.Input`."""
    if isinstance(piece, Stage):
        return read_graph(piece.model)
    if _is_input(piece) and not place:
        return None
    if not isinstance(piece, keras.Layer):
        if isinstance(piece, Split):
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
            f"The first piece, layer '{piece.name}', does not say what it takes. Put a `keras.Input(shape)` before it: "
            "`kerassplit.join([keras.Input(shape), layer, ...])`."
        )
    return None


def _in_structure(tensors: Sequence[int], keys: Sequence[str], structure: Any) -> Any:
    return keras.tree.map_structure(dict(zip(tensors, keys, strict=True)).__getitem__, structure)


def _is_input(piece: Any) -> bool:
    return isinstance(piece, keras.KerasTensor) and isinstance(maker_of(piece).operation, keras.layers.InputLayer)


def _described(
    graph: Graph, tensors: Sequence[int], names: Sequence[str] | None, prefix: str, giver: str
) -> list[Handed]:
    symbols = [graph.tensors[tensor].symbol for tensor in tensors]
    return [
        Handed(prefix + name, name, giver, symbol.shape, symbol.dtype)
        for name, symbol in zip(names or graph.names(tensors), symbols, strict=True)
    ]


def _called(layer: keras.Layer, takes: Sequence[Handed]) -> Graph:
    """A graph of one call of a layer, which builds it."""
    inputs = [keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype) for tensor in takes]
    with fitting(layer, takes):
        return graph_of_call(layer, inputs[0] if len(inputs) == 1 else inputs)


@contextlib.contextmanager
def fitting(layer: keras.Layer, takes: Sequence[Handed]) -> Iterator[None]:
    """Around the call of a layer on what it is handed: an error says who gives what, and what would fit.

    Raises:
        UnsupportedModelError: The layer cannot be called on that.
    """
    wanted = _wanted(layer, takes[0]) if len(takes) == 1 else None
    if wanted and not fits(takes[0].shape, wanted.shape):
        raise _misfit(takes[0], wanted, True, _data_format([layer]))
    try:
        yield
    except Exception as error:
        raise UnsupportedModelError(
            f"{takes[0].giver} gives {', '.join(map(str, takes))}, and the layer '{layer.name}' behind it cannot be "
            f"called on that: {error}"
        ) from error


def _wanted(layer: keras.Layer, given: Handed) -> Handed | None:
    """What a layer that is built takes, as far as it says so."""
    spec = layer.input_spec
    rank = len(given.shape)
    if not isinstance(spec, keras.InputSpec) or not layer.built or rank < (spec.min_ndim or 0):
        return None
    shape = list(spec.shape or (given.shape if spec.ndim in (None, rank) else [None] * spec.ndim))
    for axis, side in (spec.axes or {}).items():
        if side is not None and -len(shape) <= axis < len(shape):
            shape[axis] = side
    return Handed("", "", f"the layer '{layer.name}'", shape, given.dtype)


def _misfit(given: Handed, wanted: Handed, alone: bool, data_format: str | None) -> UnsupportedModelError:
    layers = ", ".join(adapters(given.shape, given.dtype, wanted.shape, wanted.dtype, data_format))
    remedy = "No Keras layers are known to make one of the other: bring it there by layers of your own."
    if layers:
        remedy = f"To fit, put between them: `{layers}`."
        if not alone:
            remedy = f"To fit, send '{given.name}' at the end of {given.giver} through: `{layers}`."
    return UnsupportedModelError(f"{given.giver} gives {given}, and {wanted.giver} takes {wanted}.\n{remedy}")


def _data_format(operations: Iterable[Any]) -> str | None:
    """Where the first of these that works on images has its channels."""
    return next((form for one in operations if (form := getattr(one, "data_format", None))), None)


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''} ({listed(names)})"
