"""The process that trains a stage on Ray."""

import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kerassplit.engines.ray.actor import Shipment, failing_in_words
from kerassplit.graph.compile_options import keep_out_of_weight_decay
from kerassplit.training.steps.gradients import plus
from kerassplit.training.steps.stage_trainer import Role


class TrainingActor:
    """Trains one stage; see `StageTrainer`. Takes and returns arrays."""

    @failing_in_words()
    def load(
        self,
        shipment: Shipment,
        content: np.ndarray,
        role: Role,
        values: Sequence[np.ndarray],
        optimizer: tuple[dict[str, Any], Sequence[int]] | None,
        slots: Sequence[np.ndarray],
    ) -> int:
        """Loads the stage, sets its variables and those of its optimizer, and returns the process ID."""
        stage = shipment.unpack(content)
        assign(stage.model.variables, values)
        self.optimizer = None
        if optimizer:
            config, left_out = optimizer
            variables = role.trained(stage)
            self.optimizer = keras.optimizers.deserialize(config)
            keep_out_of_weight_decay(self.optimizer, [variables[place] for place in left_out])
            self.optimizer.build(variables)
            assign(self.optimizer.variables, slots)
        self.role = role
        self.trainer = role.trainer(stage, self.optimizer)
        return os.getpid()

    @failing_in_words()
    def forward(self, number: int, share: float, *inputs: Any) -> tuple[Any, ...]:
        """Returns the losses that its layers add, the tensors that the loss uses, and its outputs."""
        stage = self.trainer.stage
        before = len(self.trainer.added_losses)
        tensors = dict(zip(stage.inputs, inputs, strict=True))
        made = self.trainer.forward(tensors, number, share=share, regularized=number == 0)
        given = {name: keras.ops.convert_to_numpy(value) for name, value in made.items()}
        judged = {name: value for name, value in given.items() if name.partition("\0")[0] in self.role.judged}
        return self.trainer.added_losses[before:], judged, *(given[name] for name in stage.outputs)

    @failing_in_words()
    def backward(self, number: int, gradients: dict[str, Any], names: Sequence[str], *crossing: Any) -> Any:
        """Returns `None`, which signals success, and the gradients of the inputs that earlier stages need."""
        for name, slope in zip(names, crossing, strict=True):
            gradients[name] = plus(gradients.get(name), slope)
        found = self.trainer.backward({name: one for name, one in gradients.items() if one is not None}, number)
        given = [found.get(name) for name in self.role.back_to]
        return (None, *map(_array, given)) if given else None

    def take(self, places: Sequence[int]) -> list[Any]:
        """Returns the gradients of variables that another stage trains."""
        return [_array(self.trainer.gradients[place]) for place in places]

    @failing_in_words()
    def apply(self, shared: Sequence[Sequence[int]], *parts: Sequence[Any]) -> bool:
        """Runs the optimizer, with other stages' gradients of shared variables; returns True if any gradient exists."""
        for places, gradients in zip(shared, parts, strict=True):
            for place, gradient in zip(places, gradients, strict=True):
                self.trainer.add(place, gradient)
        trained = any(gradient is not None for gradient in self.trainer.gradients)
        self.trainer.apply()
        return trained

    def values(self, places: Sequence[int]) -> list[np.ndarray]:
        """Returns the values of trainable variables."""
        return arrays([self.trainer.variables[place] for place in places])

    def receive(self, places: Sequence[int], values: Sequence[np.ndarray]) -> None:
        """Sets the values of variables that another stage trains."""
        assign([self.trainer.variables[place] for place in places], values)

    def forget(self) -> None:
        """Drops the gradients and losses of the step so far."""
        self.trainer.forget()

    def state(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Returns the values of all variables of the model and of the optimizer."""
        return arrays(self.trainer.stage.model.variables), arrays(self.optimizer.variables if self.optimizer else [])


def arrays(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """Returns the values of variables, as copies."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def assign(variables: Sequence[keras.Variable], values: Sequence[Any]) -> None:
    """Sets variables to values."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _array(gradient: Any) -> Any:
    return None if gradient is None else np.asarray(keras.ops.convert_to_numpy(plus(gradient, None)))
