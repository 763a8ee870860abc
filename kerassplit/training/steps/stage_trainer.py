"""Trains one stage: forward, backward with the gradients of the crossing tensors, and a step of its own optimizer.

A process that trains one stage of a split needs nothing else, wherever the other stages are.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kerassplit.cutting.stages import Stage
from kerassplit.errors import SplitError
from kerassplit.graph.backends import backend
from kerassplit.graph.internals.layers import untrained_variables
from kerassplit.graph.tensor_marks import as_received, mask_on
from kerassplit.text import listed
from kerassplit.training.steps.gradients import is_real, plus
from kerassplit.training.steps.optimizers import refuse_strategy, refuse_used

LOGITS, MASK = "\0logits", "\0mask"
"""Suffixes to the name of an output, for the logits and mask that Keras attaches to it for the loss."""


@dataclass(frozen=True)
class Role:
    """Role of a stage in training.

    Attributes:
        judged: Names of its outputs that the loss uses.
        back_to: Names of its inputs whose gradients an earlier stage needs.
        owned: Indices of the trainable variables that it updates; it shares the others with an earlier stage.
        trains: True if its model has trainable variables.
    """

    judged: tuple[str, ...]
    back_to: tuple[str, ...]
    owned: tuple[int, ...]
    trains: bool

    @property
    def goes_back(self) -> bool:
        """True if the stage needs a backward pass."""
        return self.trains or bool(self.back_to)

    def trained(self, stage: Stage) -> list[keras.Variable]:
        """Returns the variables that the stage's own optimizer trains."""
        return [stage.model.trainable_variables[place] for place in self.owned]

    def trainer(self, stage: Stage, optimizer: keras.optimizers.Optimizer | None = None) -> "StageTrainer":
        """Builds the trainer of the stage."""
        return StageTrainer(stage, optimizer, judged=self.judged, back_to=self.back_to, owned=self.owned)


class StageTrainer:
    """Trains one stage.

    A step is `forward`, then `backward` with the gradients of the later stages, then `apply`. Several micro-batches,
    identified by number, can go forward and backward before one `apply`: their gradients are summed.

    Attributes:
        stage: The stage.
        variables: The trainable variables of its model.
        gradients: Gradient of each variable so far; `None` if there is none.
        added_losses: Losses added by its layers so far (`add_loss`, regularizers).
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
        """Prepares a stage for training.

        Args:
            stage: The stage.
            optimizer: Optimizer that applies its gradients.
            judged: Names of its outputs from which `OutputLoss` computes the loss.
            back_to: Names of its inputs whose gradients are needed: by default all floating-point ones. Other names
                are ignored.
            owned: Indices of the trainable variables that it trains; by default all.

        Raises:
            SplitError: The optimizer has been used for other variables, or the variables were created under a
                `tf.distribute` strategy.

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
        self._ways_back: dict[int, tuple[Any, ...] | None] = {}  # by micro-batch; see `forward`
        refuse_used(optimizer, stage.name, [self.variables[place] for place in self._owned])
        if optimizer is not None and self._owned:
            refuse_strategy(stage)

    def forward(
        self, tensors: Mapping[str, Any], number: int = 0, *, share: float = 1.0, regularized: bool = True
    ) -> dict[str, Any]:
        """Runs the stage in training mode, which updates statistics and random number generators.

        Args:
            tensors: Inputs by name (arrays or tensors, the samples along the first dimension); others are ignored.
            number: Number of the micro-batch.
            share: Fraction of the batch that it is: losses added by layers are averaged over the micro-batches.
            regularized: Count the weight regularizers in the loss of this micro-batch.

        Returns:
            The outputs by name; those judged come with their logits and masks, for `OutputLoss`.

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
            states = untrained_variables(self.stage.model)
            results, others, back = backend().record(run, values, watched, self.variables, states)
            self._ways_back[number] = back, made, results[len(made) :], [self.stage.inputs[place] for place in watched]
        else:
            with backend().without_recording():
                results, others = run(values)
            self._ways_back[number] = None
        self.added_losses += [float(keras.ops.convert_to_numpy(loss)) for loss in results[len(made) :]]
        return {**dict(zip(made, results, strict=False)), **others}

    def backward(self, gradients: Mapping[str, Any], number: int = 0) -> dict[str, Any]:
        """Backpropagates through the stage, and adds the gradients of its variables to `self.gradients`.

        Args:
            gradients: Gradients of the loss with respect to the stage's outputs, by name, without outputs that the
                loss does not depend on. Other names are ignored.
            number: Number of the micro-batch, which must have gone forward; it can go backward once.

        Returns:
            The gradients with respect to the inputs in `back_to` that the loss depends on, by name.

        Raises:
            SplitError: The micro-batch has not gone forward.
        """
        if number not in self._ways_back:
            raise SplitError(
                f"Stage '{self.stage.name}' cannot go backward without going forward. Call `forward` first, and then "
                "`backward` once."
            )
        way_back = self._ways_back.pop(number)
        if way_back is None:
            return {}
        back, made, losses, names = way_back
        slopes = [as_received(gradients.get(name)) for name in made]
        of_variables, of_inputs = back([*slopes, *map(keras.ops.ones_like, losses)])
        with backend().without_recording():
            for place, gradient in enumerate(of_variables):
                self.add(place, gradient)
        return {name: slope for name, slope in zip(names, of_inputs, strict=True) if slope is not None}

    def apply(self) -> None:
        """Applies the gradients with the optimizer and resets them for the next step.

        Raises:
            SplitError: There is no optimizer. Nothing has changed then.
        """
        mine = [(self.gradients[place], self.variables[place]) for place in self._owned]
        if any(gradient is not None for gradient, _ in mine):
            if self._optimizer is None:
                raise SplitError(f"Stage '{self.stage.name}' has trainable variables but no optimizer. Pass one.")
            with backend().without_recording():
                self._optimizer.apply(*map(list, zip(*mine, strict=True)))
        self.forget()

    def forget(self) -> None:
        """Drops the gradients and losses of the step so far; statistics and random seeds stay as they are."""
        self.gradients = [None] * len(self.variables)
        self.added_losses = []
        self._ways_back.clear()

    def add(self, place: int, gradient: Any) -> None:
        """Adds to the gradient of the variable at index `place`."""
        self.gradients[place] = plus(self.gradients[place], gradient)

    def _call(
        self, values: list[Any], penalized: Sequence[keras.Variable], share: float
    ) -> tuple[dict[str, Any], list[Any]]:
        """Calls the model; returns its outputs, with their logits and masks, and the losses that it adds."""
        model = self.stage.model
        outputs = keras.tree.flatten(model(keras.tree.pack_sequence_as(model.input, values), training=True))
        tensors = dict(zip(self.stage.outputs, outputs, strict=True))
        for name in self._judged.intersection(tensors):
            for suffix, hung in ((LOGITS, backend().logits_behind(tensors[name])), (MASK, mask_on(tensors[name]))):
                if hung is not None:
                    tensors[name + suffix] = hung
        losses = model.losses  # losses added by layers, then one for each variable with a regularizer
        regularized = [variable for variable in model.trainable_weights if variable.regularizer is not None]
        count = len(losses) - len(regularized)
        chosen = {id(variable) for variable in penalized}
        penalties = [loss for variable, loss in zip(regularized, losses[count:], strict=True) if id(variable) in chosen]
        added = [_scalar(loss) if share == 1 else _scalar(loss) * share for loss in losses[:count]]
        return tensors, [*added, *map(_scalar, penalties)]


def _scalar(loss: Any) -> Any:
    """Sums an added loss as Keras does."""
    return keras.ops.sum(loss if is_real(loss) else keras.ops.cast(loss, keras.config.floatx()))
