"""The process that trains a stage on Ray."""

import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kerassplit.engines.ray.actor import Shipment, StageFailure, in_words
from kerassplit.graph.compile_options import keep_out_of_weight_decay
from kerassplit.training.steps.gradients import plus
from kerassplit.training.steps.stage_trainer import Role, StageTrainer


class TrainingActor:
    """Trains one stage; see `StageTrainer`. Arrays come and go."""

    def load(
        self,
        shipment: Shipment,
        content: np.ndarray,
        role: Role,
        values: Sequence[np.ndarray],
        optimizer: tuple[dict[str, Any], Sequence[int]] | None,
        slots: Sequence[np.ndarray],
    ) -> int:
        """Loads the stage, sets its variables and those of its optimiser, and gives the number of the process."""
        try:
            stage = shipment.unpack(content)
            for variable, value in zip(stage.model.variables, values, strict=True):
                variable.assign(value)
            self.optimizer = None
            if optimizer:
                config, left_out = optimizer
                variables = [stage.model.trainable_variables[place] for place in role.owned]
                self.optimizer = keras.optimizers.deserialize(config)
                keep_out_of_weight_decay(self.optimizer, [variables[place] for place in left_out])
                self.optimizer.build(variables)
                for variable, value in zip(self.optimizer.variables, slots, strict=True):
                    variable.assign(value)
            self.role = role
            self.trainer = StageTrainer(
                stage, self.optimizer, judged=role.judged, back_to=role.back_to, owned=role.owned
            )
        except Exception as error:
            raise StageFailure(in_words(error)) from None
        return os.getpid()

    def forward(self, number: int, share: float, *inputs: Any) -> tuple[Any, ...]:
        """What its layers add to the loss, what the loss sees, and its outputs."""
        stage = self.trainer.stage
        before = len(self.trainer.added_losses)
        try:
            tensors = dict(zip(stage.inputs, inputs, strict=True))
            made = self.trainer.forward(tensors, number, share=share, regularized=number == 0)
            given = {name: keras.ops.convert_to_numpy(value) for name, value in made.items()}
        except Exception as error:
            raise StageFailure(in_words(error)) from None
        judged = {name: value for name, value in given.items() if name.partition("\0")[0] in self.role.judged}
        return self.trainer.added_losses[before:], judged, *(given[name] for name in stage.outputs)

    def backward(self, number: int, gradients: dict[str, Any], names: Sequence[str], *crossing: Any) -> Any:
        """`None`, which tells that it went well, and the gradients of the inputs that earlier stages want."""
        try:
            for name, slope in zip(names, crossing, strict=True):
                gradients[name] = plus(gradients.get(name), slope)
            found = self.trainer.backward({name: one for name, one in gradients.items() if one is not None}, number)
            given = [found.get(name) for name in self.role.back_to]
        except Exception as error:
            raise StageFailure(in_words(error)) from None
        return (None, *map(_array, given)) if given else None

    def take(self, places: Sequence[int]) -> list[Any]:
        """The gradients of variables that another stage trains."""
        return [_array(self.trainer.gradients[place]) for place in places]

    def apply(self, shared: Sequence[Sequence[int]], *parts: Sequence[Any]) -> bool:
        """The optimiser's step, with what other stages have of shared variables: whether there were gradients."""
        try:
            for places, gradients in zip(shared, parts, strict=True):
                for place, gradient in zip(places, gradients, strict=True):
                    self.trainer.add(place, gradient)
            trained = any(gradient is not None for gradient in self.trainer.gradients)
            self.trainer.apply()
        except Exception as error:
            raise StageFailure(in_words(error)) from None
        return trained

    def values(self, places: Sequence[int]) -> list[np.ndarray]:
        """The values of trainable variables."""
        return arrays([self.trainer.variables[place] for place in places])

    def receive(self, places: Sequence[int], values: Sequence[np.ndarray]) -> None:
        """Takes the values of variables that another stage trains."""
        for place, value in zip(places, values, strict=True):
            self.trainer.variables[place].assign(value)

    def forget(self) -> None:
        """Drops what the step has computed so far."""
        self.trainer.forget()

    def state(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The values of all variables, and of the optimiser's."""
        return arrays(self.trainer.stage.model.variables), arrays(self.optimizer.variables if self.optimizer else [])


def arrays(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """The values of variables, as arrays of their own."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def _array(gradient: Any) -> Any:
    return None if gradient is None else np.asarray(keras.ops.convert_to_numpy(plus(gradient, None)))
