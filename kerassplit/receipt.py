"""Proof that a split computes what the model computes: `verify`, `Receipt`."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from kerassplit.errors import SplitError, VerificationError
from kerassplit.graph import Graph, read_graph
from kerassplit.names import listed
from kerassplit.rebuild import MASKED, whole_model
from kerassplit.shown import Shown
from kerassplit.stages import Split
from kerassplit.submodel import build_part, part
from kerassplit.units import format_samples

_OPEN_SIDE = 32  # stands for an open dimension of random input
_SAMPLES = 2
_TOLD_PROBLEMS = 5  # in a sentence; all are in `Receipt.problems`


@dataclass(frozen=True)
class Comparison:
    """One tensor, as the stages and as the model compute it.

    Attributes:
        tensor: Its name.
        stage: The stage that makes it.
        is_output: Whether it is an output of the model.
        shape: The shape of the computed arrays.
        dtype: Such as `"float32"`.
        max_difference: The largest absolute difference of two numbers; 0 when all are equal, infinite when one is not
            a number and the other is.
        identical: Whether all bits are equal.
    """

    tensor: str
    stage: str
    is_output: bool
    shape: tuple[int, ...]
    dtype: str
    max_difference: float
    identical: bool


@dataclass(frozen=True)
class Receipt(Shown):
    """The result of verifying a split against a model.

    Attributes:
        model: The model's name.
        comparisons: Every tensor that a stage gives out, in the order in which they are made.
        num_calls: Calls of the model's graph, its inputs not counted.
        weights_shared: Variables that stages and model have in common (the same objects).
        weights_equal: Variables that a stage has of its own, with the model's values.
        shared_variables: Variables that several stages use, by path, with the names of these stages.
        problems: What is wrong with the structure: calls that are missing or in two stages, weights that differ.
        tolerance: The largest difference that was allowed.
    """

    model: str
    comparisons: tuple[Comparison, ...]
    num_calls: int
    weights_shared: int
    weights_equal: int
    shared_variables: dict[str, tuple[str, ...]]
    problems: tuple[str, ...]
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the structure is right and no difference is larger than the tolerance."""
        return not self.problems and self.first_difference is None

    @property
    def identical(self) -> bool:
        """Whether all numbers that were compared are equal bit for bit."""
        return all(comparison.identical for comparison in self.comparisons)

    @property
    def max_difference(self) -> float:
        """The largest difference of all."""
        return max((comparison.max_difference for comparison in self.comparisons), default=0.0)

    @property
    def first_difference(self) -> str | None:
        """The first stage whose numbers differ by more than the tolerance."""
        return next((one.stage for one in self.comparisons if not one.max_difference <= self.tolerance), None)

    def check(self) -> "Receipt":
        """Returns the receipt itself, or raises `VerificationError` where it is not ok."""
        if not self.ok:
            raise VerificationError(self.verdict(), receipt=self)
        return self

    def verdict(self) -> str:
        """What the receipt says, in a sentence or two."""
        if self.first_difference is not None:
            numbers = (
                f"The stages do not compute what '{self.model}' computes: '{self.first_difference}' is the first stage "
                f"that differs, and the largest difference is {self.max_difference:.3g} ({self.tolerance:g} allowed)."
            )
        elif self.identical:
            numbers = f"The stages compute what '{self.model}' computes, bit for bit."
        else:
            numbers = (
                f"The stages compute what '{self.model}' computes; the largest difference is {self.max_difference:.3g} "
                f"({self.tolerance:g} allowed)."
            )
        further = len(self.problems) - _TOLD_PROBLEMS
        more = [f"(And {further} more problems.)"] if further > 0 else []
        return " ".join([numbers, *self.problems[:_TOLD_PROBLEMS], *more])

    def to_dict(self) -> dict[str, Any]:
        """The receipt as plain values, for JSON."""
        return {
            **asdict(self),
            "ok": self.ok,
            "identical": self.identical,
            "max_difference": self.max_difference,
            "first_difference": self.first_difference,
        }

    def __rich__(self) -> Group:
        table = Table(title=f"Receipt for {self.model}")
        for heading in ("stage", "tensor", "shape", "largest difference"):
            table.add_column(heading, justify="right" if heading == "largest difference" else "left")
        for one in self.comparisons:
            same = "0 (identical)" if one.identical else f"{one.max_difference:.3g}"
            table.add_row(
                one.stage, one.tensor + (" (output)" if one.is_output else ""), format_samples(one.shape), same
            )
        weights = (
            f"{self.num_calls} calls; weights: {self.weights_shared} shared, {self.weights_equal} copied and equal."
        )
        if self.shared_variables:
            weights += f" Several stages share {listed(self.shared_variables)}."
        verdict = Text(self.verdict(), style="green" if self.ok else "bold red")
        return Group(table, Text(weights), verdict)


def verify(model: keras.Model, split: Split, x: Any = None, *, tolerance: float = 0.0, seed: int = 0) -> Receipt:
    """Compares a split with a model: its structure, and the numbers of every stage on one input.

    The model runs once by itself, giving out its own intermediate tensors; the stages run one after another, each on
    what the stages before it made. Both run eagerly, in inference mode.

    Args:
        model: The model to compare with: the one that was cut, or one that should be equal to it.
        split: The stages.
        x: Input in the structure of the model's inputs; by default two random samples.
        tolerance: The largest absolute difference to allow. 0 asks for equality bit for bit.
        seed: Seed of the random input.

    Returns:
        A `Receipt`. It does not raise when numbers differ: ask `receipt.ok`, or call `receipt.check()`.

    Raises:
        SplitError: `x` does not fit the model's inputs, or the split is not one of this model.

    Example:

    >>> receipt = ks.verify(resnet, ks.split(resnet, "conv4_block6_out"))
    >>> receipt.ok, receipt.max_difference
    (True, 0.0)
    """
    graph = read_graph(model)
    counterparts = _counterparts(graph, split)
    tensors = split.named_inputs(random_input(graph, seed) if x is None else x)
    made = sorted({counterparts[name] for stage in split for name in stage.outputs})
    try:
        expected = _computed_by(graph, made, [tensors[name] for name in keras.tree.flatten(split.inputs)])
    except Exception as error:
        if x is not None:
            raise
        raise SplitError(
            f"Random input, with {_OPEN_SIDE} for open dimensions, does not go through '{model.name}': {error}\n"
            "Give an input as `x` to compare on."
        ) from error
    comparisons = []
    results = set(graph.flat_outputs())
    with state_kept([stage.model for stage in split]):
        for stage in split:
            outputs = stage.run(tensors, training=False)
            tensors.update(outputs)
            for name, value in outputs.items():
                other = counterparts[name]
                comparisons.append(_compare(name, stage.name, other in results, value, expected[other]))
    shared, equal, problems = _compare_structure(graph, split)
    return Receipt(
        model=model.name,
        comparisons=tuple(comparisons),
        num_calls=sum(1 for call in graph.calls if call.inputs),
        weights_shared=shared,
        weights_equal=equal,
        shared_variables=split.shared_variables,
        problems=tuple(problems),
        tolerance=tolerance,
    )


def _computed_by(graph: Graph, tensors: Sequence[int], inputs: Sequence[Any]) -> dict[int, Any]:
    """What the model computes for these tensors: its own by Keras alone, those inside nested models by opening them."""
    own = graph.own_symbols()
    ours = [tensor for tensor in tensors if tensor in own]
    inside = [tensor for tensor in tensors if tensor not in own]
    values = [None if value is None else keras.ops.convert_to_tensor(value) for value in inputs]
    computed: dict[int, Any] = {}
    with state_kept([graph.model]):
        outputs = whole_model(graph, [own[tensor] for tensor in ours])(values, training=False) if ours else []
        computed.update(zip(ours, keras.tree.flatten(outputs), strict=True))
    if inside:
        calls, taken = part(graph, [], inside)
        opened, taken, made = build_part(graph, calls, taken, inside, graph.model.name, only_to_run=True)
        given = dict(zip(graph.flat_inputs(), values, strict=True))
        with state_kept([graph.model]):
            inputs = keras.tree.pack_sequence_as(opened.input, [given[tensor] for tensor in taken])
            outputs = opened(inputs, training=False)
            computed.update(zip(made, keras.tree.flatten(outputs), strict=True))
    return computed


def _counterparts(graph: Graph, split: Split) -> dict[str, int]:
    """The model's tensor for each name in the split: inputs by place (Keras's names for them differ), others by name.

    Raises:
        SplitError: The model has no such tensor, or one of another shape.
    """

    def refusal(reason: str) -> SplitError:
        return SplitError(f"This is no split of '{graph.model.name}': {reason}")

    symbols = split.symbols_in(graph.model)
    if symbols is not None:
        counterparts = {name: graph.scope[id(symbol)] for name, symbol in symbols.items()}
    else:
        counterparts = {tensor.name: index for index, tensor in enumerate(graph.tensors)}
    unknown = [name for stage in split for name in stage.outputs if name not in counterparts]
    if unknown:
        raise refusal(f"the stages make {listed(unknown)}, and the model does not.")
    names, inputs = keras.tree.flatten(split.inputs), graph.flat_inputs()
    if len(names) != len(inputs):
        raise refusal(f"it takes {len(names)} inputs ({listed(names)}), and the model {len(inputs)}.")
    counterparts |= dict(zip(names, inputs, strict=True))
    for stage in split:
        symbols = [*stage.model.inputs, *stage.model.outputs]
        for name, symbol in zip((*stage.inputs, *stage.outputs), symbols, strict=True):
            ours, theirs = tuple(symbol.shape), tuple(graph.tensors[counterparts[name]].symbol.shape)
            if ours != theirs:
                raise refusal(
                    f"'{name}' has the shape {ours} in stage '{stage.name}' and {theirs} in the model. "
                    "Was the model built with another input shape?"
                )
    return counterparts


def random_input(graph: Graph, seed: int) -> Any:
    """Two random samples that fit the model's inputs, in its structure.

    Floats are normal, integers 0 or 1 (small enough for any vocabulary), open dimensions 32.
    """
    generator = np.random.default_rng(seed)

    def draw(tensor: int) -> np.ndarray:
        symbol = graph.tensors[tensor].symbol
        batch, *sides = symbol.shape
        if symbol.dtype == "string":
            raise SplitError(f"'{graph.tensors[tensor].name}' takes strings: give an input as `x` to compare on.")
        shape = (batch or _SAMPLES, *(side or _OPEN_SIDE for side in sides))
        if "float" in symbol.dtype:
            return generator.standard_normal(shape).astype("float32")
        return generator.integers(0, 2, shape).astype(symbol.dtype)

    return keras.tree.map_structure(draw, graph.inputs)


@contextlib.contextmanager
def state_kept(models: Iterable[keras.Model]) -> Iterator[None]:
    """Puts back what running changes even in inference mode: random generators, stateful recurrent layers."""
    states = {id(one): one for model in models for one in _states(model)}
    before = [(one, keras.ops.copy(one.value)) for one in states.values()]
    try:
        yield
    finally:
        for one, value in before:
            one.assign(value)


def _states(model: keras.Model) -> Iterator[keras.Variable]:
    yield from (variable for variable in model.variables if not variable.trainable)
    for layer in model.layers:
        # Keras does not count the states of a recurrent layer among its variables.
        if isinstance(layer, keras.layers.RNN) and layer.stateful:
            yield from (state for state in keras.tree.flatten(layer.states) if isinstance(state, keras.Variable))


def _compare(name: str, stage: str, is_output: bool, ours: Any, theirs: Any) -> Comparison:
    one, other = keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs)
    identical = one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    difference = 0.0 if identical else largest_difference(one, other)
    return Comparison(name, stage, is_output, one.shape, str(one.dtype), difference, identical)


def largest_difference(one: np.ndarray, other: np.ndarray) -> float:
    """The largest absolute difference of two arrays; infinite where only one has a number, or their shapes differ."""
    if one.shape != other.shape:
        return float("inf")
    wide = [array.astype("complex128" if array.dtype.kind == "c" else "float64") for array in (one, other)]
    equal = (wide[0] == wide[1]) | (np.isnan(wide[0]) & np.isnan(wide[1]))
    with np.errstate(invalid="ignore"):
        differences = np.where(equal, 0.0, np.abs(wide[0] - wide[1]))
    return float(np.max(np.where(np.isnan(differences), np.inf, differences), initial=0.0))


def _compare_structure(graph: Graph, split: Split) -> tuple[int, int, list[str]]:
    """How many variables are shared and how many equal, and what is wrong with calls and weights."""
    ours: Counter[str] = Counter()
    stages_of: dict[str, list[str]] = {}
    operations: dict[int, Any] = {}
    own = {call.operation.name for call in graph.calls if call.inputs} - graph.made
    carrier = f"{MASKED}/"
    for stage in split:
        for call in read_graph(stage.model).calls:
            name = call.operation.name
            if call.inputs and (name in own or (isinstance(call.operation, keras.Layer) and carrier not in call.name)):
                ours[name] += 1
                stages_of.setdefault(name, []).append(stage.name)
                operations[id(call.operation)] = call.operation
    theirs = Counter(call.operation.name for call in graph.calls if call.operation.name in own)
    made = {name for stage in split for name in (*stage.inputs, *stage.outputs)} | {*keras.tree.flatten(split.inputs)}
    problems = [
        f"'{name}' is called {theirs[name]} times in the model and {ours[name]} times in the stages"
        + (f" ({', '.join(stages_of[name])})." if name in stages_of else ".")
        for name in {**theirs, **ours}
        if ours[name] != theirs[name]
    ]
    outputs = dict.fromkeys(graph.names(graph.flat_outputs()))
    problems += [f"No stage makes the model's output '{name}'." for name in outputs if name not in made]
    shared: set[int] = set()
    equal = 0
    originals = {id(call.operation): call.operation for call in graph.calls}
    for operation in operations.values():
        if id(operation) in originals:
            shared.update(id(variable) for variable in _variables(operation))
            continue
        # Layers of different nested models can bear one name.
        namesakes = [other for other in originals.values() if other.name == operation.name]
        results = [_compare_variables(operation, other) for other in namesakes]
        same, wrong = min(results, key=lambda result: len(result[1]), default=(0, []))
        equal += same
        problems += wrong
    return len(shared), equal, problems


def _compare_variables(one: Any, other: Any) -> tuple[int, list[str]]:
    ours, theirs = _variables(one), _variables(other)
    if len(ours) != len(theirs):
        return 0, [f"'{one.name}' has {len(ours)} variables in its stage and {len(theirs)} in the model."]
    equal, problems = 0, []
    for mine, its in zip(ours, theirs, strict=True):
        if mine.shape == its.shape and np.array_equal(*map(keras.ops.convert_to_numpy, (mine, its)), equal_nan=True):
            equal += 1
        else:
            problems.append(f"Variable '{its.path}' has other values in its stage than in the model.")
    return equal, problems


def _variables(operation: Any) -> list[Any]:
    # Not `layer.variables`: the states of random generators are among them, and Keras does not restore these.
    return operation.weights if isinstance(operation, keras.Layer) else []
