"""A model as a sequence of stages: `Stage`, `Stages`."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import keras

from kerassplit.cutting.arrays import as_taken, dense, named_tensors, packed_tensors
from kerassplit.cutting.crossing import Crossing, CrossingTensor, crossing_tensor
from kerassplit.display.rich_table import Records, SafeConsole, Shown, right
from kerassplit.display.table import FittedTable
from kerassplit.display.units import format_count, format_shape
from kerassplit.errors import SplitError
from kerassplit.files.sizes import format_bytes
from kerassplit.graph.assembling import joined
from kerassplit.graph.backends.interface import Run
from kerassplit.graph.compiling import Program
from kerassplit.graph.copying import copying
from kerassplit.graph.masks import hands_masks_on
from kerassplit.graph.reading import read_graph
from kerassplit.graph.sizes import bytes_in
from kerassplit.graph.tensor_marks import as_received
from kerassplit.graph.unsupported import own_prediction, told_of_own_prediction
from kerassplit.text import listed, printable, shortened, unique

_PROGRAM = "_program"


@dataclass(frozen=True, eq=False, repr=False)
class Stage:
    """One stage of a split; call it like its model.

    Attributes:
        name: Its name, also that of its model.
        model: Its model, from `inputs` to `outputs`; it shares the layers of the model that was cut.
        inputs: Names of its input tensors, in the order of `model.inputs`.
        outputs: Names of its output tensors, in the order of `model.outputs`.
    """

    name: str
    model: keras.Model
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Calls its model."""
        return self.model(*arguments, **options)

    def predict(self, *arguments: Any, **options: Any) -> Any:
        """Calls its model's `predict`; the arguments are those of `keras.Model.predict`."""
        return self.model.predict(*arguments, **options)

    def summary(self, **options: Any) -> None:
        """Prints its model's summary; the options are those of `keras.Model.summary`."""
        self.model.summary(**options)

    def __repr__(self) -> str:
        parameters = format_count(self.model.count_params())
        return shortened(
            f"<Stage {self.name}: {', '.join(self.inputs)} → {', '.join(self.outputs)}, {parameters} parameters>"
        )

    def run(self, tensors: dict[str, Any], training: bool | None = None) -> dict[str, Any]:
        """Runs the stage on tensors by name, which must include all its inputs, and returns its outputs by name."""
        values = [as_received(tensors[name]) for name in self.inputs]
        outputs = self.model(keras.tree.pack_sequence_as(self.model.input, values), training=training)
        return dict(zip(self.outputs, keras.tree.flatten(outputs), strict=True))

    @property
    def compiled(self) -> Run:
        """The stage as a function of its inputs in order, compiled as `predict` compiles a model.

        It is compiled once, and again when its layers have changed. Checking for changes takes a moment, so read this
        property once for all batches.
        """
        program = vars(self).get(_PROGRAM)
        if program is None or not program.is_current():
            program = vars(self)[_PROGRAM] = Program(self.model)
        return program

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != _PROGRAM}  # it is bound to this model

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        hands_masks_on(self.model)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Stage":
        with copying([self.model], self.name):
            return Stage(self.name, hands_masks_on(copy.deepcopy(self.model, memo)), self.inputs, self.outputs)


@dataclass(frozen=True, eq=False, repr=False)
class Stages:
    """A model cut into stages; call it like the model.

    Base of `kerassplit.Split`, which adds the methods that depend on other packages and documents the attributes.
    """

    stages: tuple[Stage, ...]
    inputs: Any
    outputs: Any
    name: str
    original: keras.Model | None = None
    unused_inputs: tuple[CrossingTensor, ...] = ()
    unknown: dict[str, dict[str, Any]] = field(default_factory=dict)
    own_prediction: tuple[str, ...] = ()
    preprocessor: str | None = None

    __post_init__ = Shown.__post_init__

    @property
    def model(self) -> keras.Model:
        """The original model or, for a loaded split, the stages joined into one."""
        return self._joined[0] if self.original is None else self.original

    def notes_on_prediction(self) -> list[str]:
        """Returns warnings to show when the stages predict, if `model.predict` would return something else."""
        return told_of_own_prediction(self.name, self.own_methods_of_prediction())

    def own_methods_of_prediction(self) -> tuple[str, ...]:
        """Returns the prediction methods that the model overrides, such as `predict_step`."""
        return self.own_prediction if self.original is None else own_prediction(self.original)

    @property
    def crossings(self) -> tuple[Crossing, ...]:
        """The tensors that cross each cut; `crossings[0]` is between stages 0 and 1."""
        made = {name: symbol for stage in self.stages for name, symbol in _symbols(stage)}
        crossings = []
        for cut in range(1, len(self.stages)):
            before, after = self.stages[:cut], self.stages[cut:]
            used = {name for stage in after for name in stage.inputs}
            ours = dict.fromkeys(name for stage in before for name in (*stage.inputs, *stage.outputs))
            crossings.append(Crossing(tuple(crossing_tensor(name, made[name]) for name in ours if name in used)))
        return Records(crossings)

    @property
    def shared_variables(self) -> dict[str, tuple[str, ...]]:
        """Variables that several stages use, as a dict from variable path to the names of these stages."""
        stages_of: dict[int, tuple[str, list[str]]] = {}
        for stage in self.stages:
            for variable in stage.model.variables:  # including the states of random generators
                stages_of.setdefault(id(variable), (variable.path, []))[1].append(stage.name)
        taken: set[str] = set()
        return {unique(path, taken): tuple(stages) for path, stages in stages_of.values() if len(stages) > 1}

    def __len__(self) -> int:
        return len(self.stages)

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)

    def __getitem__(self, which: int | str) -> Stage:
        if isinstance(which, int):
            return self.stages[which]
        for stage in self.stages:
            if stage.name == which:
                return stage
        raise SplitError(
            f"The split of '{self.name}' has no stage '{which}'. Its stages: {listed(stage.name for stage in self)}."
        )

    def __call__(self, x: Any, training: bool | None = None) -> Any:
        """Runs the stages one after another; inputs and outputs are those of the model.

        Args:
            x: Tensors or arrays in the structure of the model's inputs, or a dict by input name.
            training: Run layers in training mode, as when calling the model.
        """
        tensors = self.named_inputs(x)
        for stage in self.stages:
            tensors.update(stage.run(tensors, training))
        return packed_tensors(tensors | self.given_back(tensors), self.outputs)

    def join(self) -> keras.Model:
        """Joins the stages into one model that shares their layers."""
        return self._join()[0]

    def symbols_in(self, model: keras.Model) -> dict[str, keras.KerasTensor] | None:
        """Returns the symbolic tensors of `model` by tensor name if it is the stages joined, else `None`."""
        built = vars(self).get("_joined", (None, None))
        return built[1] if built[0] is model else None

    @cached_property
    def _joined(self) -> tuple[keras.Model, dict[str, keras.KerasTensor]]:
        return self._join()

    def _join(self) -> tuple[keras.Model, dict[str, keras.KerasTensor]]:
        pieces = [(read_graph(stage.model), stage.inputs, stage.outputs) for stage in self.stages]
        return joined(pieces, self.inputs, self.outputs, self.name, self.unused_inputs)

    def summary(self) -> None:
        """Prints a table of the stages and the tensors that cross each cut."""
        SafeConsole().print(self)

    def __rich__(self) -> FittedTable:
        notes = [f"{path} is shared by {listed(stages)}." for path, stages in self.shared_variables.items()]
        if self.preprocessor is not None:
            notes.append(f"The model's `predict` applies {self.preprocessor} to its input; no stage contains it.")
        table = FittedTable(
            f"{self.name} in {len(self)} stages",
            *("stage", "gives to later stages", right("per sample"), right("shape"), "dtype"),
            *(right(heading) for heading in ("parameters", "weights", "calls")),
            whole=2,
            notes=tuple(notes),
        )
        crossings = [*self.crossings, None]
        for stage, crossing in zip(self.stages, crossings, strict=True):
            tensors = crossing.tensors if crossing else ()
            table.add_row(
                stage.name,
                "\n".join(one.name for one in tensors),
                format_bytes(crossing.bytes) if crossing else "",
                "\n".join(format_shape(one.shape) for one in tensors),
                "\n".join(one.dtype for one in tensors),
                format_count(stage.model.count_params()),
                format_bytes(bytes_in(stage.model.weights)),
                str(sum(1 for call in read_graph(stage.model).calls if call.inputs)),
            )
        return table

    def __copy__(self) -> "Stages":
        return replace(self)

    def __repr__(self) -> str:
        return printable(f"<Split of {self.name}: {', '.join(stage.name for stage in self.stages)}>")

    def named_inputs(self, x: Any) -> dict[str, Any]:
        """Returns the model's input by tensor name; SciPy's sparse arrays become dense.

        Raises:
            SplitError: `x` does not have the structure of the model's inputs.
        """
        return {name: dense(value) for name, value in named_tensors(x, self.inputs, self.name).items()}

    def given_back(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the inputs that are also outputs of the model, as the model returns them."""
        known = {one.name: one for one in self.unused_inputs} | {
            name: symbol for stage in self for name, symbol in zip(stage.inputs, stage.model.inputs, strict=True)
        }
        both = {*keras.tree.flatten(self.inputs)} & {*keras.tree.flatten(self.outputs)}
        return {name: as_taken(tensors[name], known[name]) for name in keras.tree.flatten(self.inputs) if name in both}


def _symbols(stage: Stage) -> Iterator[tuple[str, keras.KerasTensor]]:
    yield from zip(stage.inputs, stage.model.inputs, strict=True)
    yield from zip(stage.outputs, stage.model.outputs, strict=True)
