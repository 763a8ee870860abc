"""One stage in training: forward, back with the gradient of what crosses, and its own optimiser's step.

This is all that a process needs to have that trains one stage of a split, whoever has the others.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kerassplit.cutting.stages import Stage
from kerassplit.errors import SplitError
from kerassplit.graph.backends import backend
from kerassplit.graph.internals.layers import all_layers
from kerassplit.graph.tensor_marks import as_received, mask_on
from kerassplit.text import listed
from kerassplit.training.steps.gradients import is_real, plus
from kerassplit.training.steps.optimizers import refuse_strategy, refuse_used

LOGITS, MASK = "\0logits", "\0mask"
"""Behind the name of an output: what Keras hangs on it for the loss."""


@dataclass(frozen=True)
class Role:
    """The part of a stage in training.

    Attributes:
        judged: Its outputs that the loss sees.
        back_to: Its inputs whose gradient an earlier stage wants.
        owned: Which of the trainable variables of its model it applies gradients to, by their places; the others it
            shares with an earlier stage.
        trains: Whether its model has trainable variables.
    """

    judged: tuple[str, ...]
    back_to: tuple[str, ...]
    owned: tuple[int, ...]
    trains: bool

    @property
    def goes_back(self) -> bool:
        """Whether there is anything to compute a gradient for."""
        return self.trains or bool(self.back_to)

    def trained(self, stage: Stage) -> list[keras.Variable]:
        """The variables that the stage's own optimizer trains."""
        return [stage.model.trainable_variables[place] for place in self.owned]

    def trainer(self, stage: Stage, optimizer: keras.optimizers.Optimizer | None = None) -> "StageTrainer":
        """Makes the trainer of the stage."""
        return StageTrainer(stage, optimizer, judged=self.judged, back_to=self.back_to, owned=self.owned)


class StageTrainer:
    """Trains one stage.

    A step is `forward`, then `backward` with the gradient that came back, then `apply`. Several micro-batches, told
    apart by a number, go forward and back before one `apply`: their gradients are summed.

    Attributes:
        stage: The stage.
        variables: The trainable variables of its model.
        gradients: For each of them the gradient so far; `None` where there is none.
        added_losses: What its layers have added to the loss so far (`add_loss`, regularisers).
    """

    def __init__(
        self,
        stage: Stage,
        optimizer: keras.optimizers.Optimizer | None = None,
        *,
        judged: Collection[str] = (),
        back_to: Collection[str] | None = None,
        owned: Collection[int] | None = None,
    ):
        """One stage in training.

        Args:
            stage: The stage.
            optimizer: Applies its gradients.
            judged: Its outputs that a loss is computed of here, with `OutputLoss`.
            back_to: Its inputs whose gradients are wanted: by default all of real numbers. Names of others do no harm.
            owned: Which of its model's trainable variables it trains, by their places; by default all.

        Raises:
            SplitError: The optimizer has been used for other variables, or these were made under a `tf.distribute`
                strategy.

        Example:

        >>> head = StageTrainer(ks.load("stages", stages=["head"])[0], keras.optimizers.Adam(), back_to=())
        >>> crossing = head.forward({"image": images})
        >>> head.backward(gradients_of(crossing))  # from whoever has the tail
        {}
        >>> head.apply()
        """
        self.stage = stage
        self.variables: list[keras.Variable] = list(stage.model.trainable_variables)
        self.gradients: list[Any] = [None] * len(self.variables)
        self.added_losses: list[float] = []
        self._optimizer = optimizer
        self._judged = frozenset(judged)
        self._back_to = frozenset(stage.inputs if back_to is None else back_to)
        self._owned = tuple(range(len(self.variables)) if owned is None else owned)
        self._ways_back: dict[int, Callable[[Mapping[str, Any]], dict[str, Any]]] = {}
        refuse_used(optimizer, stage.name, [self.variables[place] for place in self._owned])
        if optimizer is not None and self._owned:
            refuse_strategy(stage)

    def forward(
        self, tensors: Mapping[str, Any], number: int = 0, *, share: float = 1.0, regularized: bool = True
    ) -> dict[str, Any]:
        """Runs the stage in training mode: statistics and generators of random numbers go on.

        Args:
            tensors: What it takes, by name (arrays or tensors, the samples along the first dimension); others too.
            number: Of the micro-batch.
            share: What part of the batch it is: what layers add to the loss is averaged over its parts.
            regularized: Whether the regularisers of the weights are part of the loss of this micro-batch.

        Returns:
            Its outputs by name, for `OutputLoss` with the logits and masks of those judged.

        Raises:
            SplitError: A tensor is missing.
        """
        missing = [name for name in self.stage.inputs if name not in tensors]
        if missing:
            raise SplitError(
                f"Stage '{self.stage.name}' takes {listed(self.stage.inputs)}; {listed(missing)} is missing."
            )
        values = [as_received(tensors[name]) for name in self.stage.inputs]
        watched = [
            place for place, name in enumerate(self.stage.inputs) if name in self._back_to and is_real(values[place])
        ]
        penalized = [self.variables[place] for place in self._owned] if regularized else []
        made: list[str] = []

        def run(values: list[Any]) -> tuple[list[Any], dict[str, Any]]:
            tensors, losses = self._call(values, penalized, share)
            real = {name: one for name, one in tensors.items() if is_real(one)}
            made[:] = real
            others = {name: one for name, one in tensors.items() if name not in real}
            return [*real.values(), *losses], others

        if watched or self.variables:
            states = [*self.stage.model.non_trainable_variables, *_hidden_states(self.stage)]
            results, others, back = backend().record(run, values, watched, self.variables, states)
            self._ways_back[number] = lambda gradients: self._back(gradients, back, made, results, watched)
        else:
            with backend().without_recording():
                results, others = run(values)
            self._ways_back[number] = lambda _: {}
        self.added_losses += [float(keras.ops.convert_to_numpy(loss)) for loss in results[len(made) :]]
        return {**dict(zip(made, results, strict=False)), **others}

    def backward(self, gradients: Mapping[str, Any], number: int = 0) -> dict[str, Any]:
        """Takes gradients back through the stage, and adds those of its variables to `gradients`.

        Args:
            gradients: Of the loss with respect to the stage's outputs, by name; outputs that it does not depend on are
                left out. Names of other tensors do no harm.
            number: Of the micro-batch, which must have gone forward; it can go back once.

        Returns:
            The gradients with respect to its inputs, by name, those that the loss depends on.

        Raises:
            SplitError: The micro-batch has not gone forward.
        """
        if number not in self._ways_back:
            raise SplitError(
                f"Stage '{self.stage.name}' has nothing to go back through: forward comes first, and then one backward."
            )
        return self._ways_back.pop(number)(gradients)

    def apply(self) -> None:
        """Applies the gradients with the optimizer; the next step can begin.

        Raises:
            SplitError: There is no optimizer. Nothing has changed then.
        """
        mine = [(self.gradients[place], self.variables[place]) for place in self._owned]
        if any(gradient is not None for gradient, _ in mine):
            if self._optimizer is None:
                raise SplitError(f"Stage '{self.stage.name}' has trainable variables and no optimizer.")
            with backend().without_recording():
                self._optimizer.apply(*map(list, zip(*mine, strict=True)))
        self.forget()

    def forget(self) -> None:
        """Drops what the step has computed so far; statistics and seeds stay as they are."""
        self.gradients = [None] * len(self.variables)
        self.added_losses = []
        self._ways_back.clear()

    def add(self, place: int, gradient: Any) -> None:
        """Adds to the gradient of one of `variables`."""
        self.gradients[place] = plus(self.gradients[place], gradient)

    def _call(
        self, values: list[Any], penalized: Sequence[keras.Variable], share: float
    ) -> tuple[dict[str, Any], list[Any]]:
        """The outputs, with what hangs on them, and the parts of the loss."""
        model = self.stage.model
        outputs = keras.tree.flatten(model(keras.tree.pack_sequence_as(model.input, values), training=True))
        tensors = dict(zip(self.stage.outputs, outputs, strict=True))
        for name in self._judged.intersection(tensors):
            for suffix, hung in ((LOGITS, backend().logits_behind(tensors[name])), (MASK, mask_on(tensors[name]))):
                if hung is not None:
                    tensors[name + suffix] = hung
        losses = model.losses  # what layers added, then one for each variable that has a regulariser
        regularized = [variable for variable in model.trainable_weights if variable.regularizer is not None]
        count = len(losses) - len(regularized)
        chosen = {id(variable) for variable in penalized}
        penalties = [loss for variable, loss in zip(regularized, losses[count:], strict=True) if id(variable) in chosen]
        added = [_scalar(loss) if share == 1 else _scalar(loss) * share for loss in losses[:count]]
        return tensors, [*added, *map(_scalar, penalties)]

    def _back(
        self, gradients: Mapping[str, Any], back: Any, made: list[str], results: list[Any], watched: Sequence[int]
    ) -> dict[str, Any]:
        ones = [keras.ops.ones_like(loss) for loss in results[len(made) :]]
        slopes = [as_received(gradients.get(name)) for name in made]
        of_variables, of_inputs = back([*slopes, *ones])
        with backend().without_recording():
            for place, gradient in enumerate(of_variables):
                self.add(place, gradient)
        names = [self.stage.inputs[place] for place in watched]
        return {name: slope for name, slope in zip(names, of_inputs, strict=True) if slope is not None}


def _scalar(loss: Any) -> Any:
    """An added loss as Keras adds it up."""
    return keras.ops.sum(loss if is_real(loss) else keras.ops.cast(loss, keras.config.floatx()))


def _hidden_states(stage: Stage) -> list[keras.Variable]:
    """States of stateful recurrent layers, which Keras does not count among their variables."""
    known = {id(variable) for variable in stage.model.variables}
    states = [
        state
        for layer in all_layers(stage.model)
        if isinstance(layer, keras.layers.RNN) and layer.stateful
        for state in keras.tree.flatten(layer.states)
    ]
    return [state for state in states if isinstance(state, keras.Variable) and id(state) not in known]
