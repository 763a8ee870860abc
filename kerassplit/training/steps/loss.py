"""Computes the loss of a batch, and its gradients with respect to the model's outputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from kerassplit.cutting.arrays import packed_tensors
from kerassplit.cutting.stages import Stages
from kerassplit.errors import SplitError
from kerassplit.graph.backends import backend
from kerassplit.graph.tensor_marks import as_made
from kerassplit.training.steps.gradients import is_real
from kerassplit.training.steps.stage_trainer import LOGITS, MASK


class OutputLoss:
    """Computes a loss as Keras's `compile(loss=...)` and `fit` do."""

    def __init__(self, loss: Any, outputs: Any, output_names: Sequence[str] | None = None):
        """Prepares a loss.

        Args:
            loss: As in `keras.Model.compile`: a loss, a function, a name, or a structure of these.
            outputs: Names of tensors in the structure of the model's outputs.
            output_names: Keras's names of the outputs, in order: `model.output_names`; a `Sequential` has none.
        """
        self._outputs = outputs
        self._keras = None
        if loss is not None:
            self._keras = _Nothing(output_names)
            try:
                self._keras.compile(loss=loss, jit_compile=False)
            except (ValueError, TypeError, KeyError) as error:
                raise _unusable(error) from error

    def check(self, added: Sequence[float]) -> None:
        """Checks that there is a loss, either passed or added by layers.

        Raises:
            SplitError: No loss was passed, and no layer adds one.
        """
        if self._keras is None and not added:
            raise SplitError("There is no loss, and no layer adds one. Pass `loss`, as in `model.compile`.")

    def __call__(
        self, parts: Sequence[Mapping[str, Any]], y: Any, sample_weight: Any = None
    ) -> tuple[float, list[dict[str, Any]]]:
        """Computes the loss of a batch and its gradients.

        Args:
            parts: For each micro-batch, in order, the result of `StageTrainer.forward`; other tensors are ignored.
            y: The targets of the whole batch.
            sample_weight: As in `fit`.

        Returns:
            The loss, and for each micro-batch the gradients with respect to its outputs, by name.

        Raises:
            SplitError: The loss does not fit the outputs or the targets.
        """
        model = self._keras
        if model is None:
            return 0.0, [{} for _ in parts]
        names = [key for key in parts[0] if key.partition("\0")[0] in keras.tree.flatten(self._outputs)]
        values = {name: _whole([part[name] for part in parts], name) for name in names}
        real = [name for name in names if is_real(values[name])]

        def run(tensors: list[Any]) -> tuple[list[Any], None]:
            return [self._loss(model, {**values, **dict(zip(real, tensors, strict=True))}, y, sample_weight)], None

        try:
            [loss], _, back = backend().record(run, [values[name] for name in real], range(len(real)))
        except Exception as error:  # each backend raises its own error for shapes that do not fit
            raise _unusable(error) from error
        _, slopes = back([keras.ops.ones_like(loss)])
        gradients = {name: slope for name, slope in zip(real, slopes, strict=True) if slope is not None}
        return float(keras.ops.convert_to_numpy(loss)), _cut(gradients, parts)

    def _loss(self, model: keras.Model, values: Mapping[str, Any], y: Any, sample_weight: Any) -> Any:
        made = {
            name: as_made(value, values.get(name + MASK), values.get(name + LOGITS))
            for name, value in values.items()
            if "\0" not in name
        }
        with keras.StatelessScope():  # Keras tracks the parts of a loss in metrics, which are not needed
            return model.compute_loss(None, y, packed_tensors(made, self._outputs), sample_weight)


def loss_of(split: Stages, loss: Any) -> OutputLoss:
    """Builds a loss on the outputs of a split."""
    return OutputLoss(loss, split.outputs, getattr(split.model, "output_names", None))


class _Nothing(keras.Model):
    """Stand-in model that has only output names, to compute a loss."""

    def __init__(self, output_names: Sequence[str] | None):
        super().__init__(name="loss")
        if output_names is not None:
            self.output_names = list(output_names)


def _unusable(error: Exception) -> SplitError:
    said = str(error.args[0]) if error.args else type(error).__name__
    said = " ".join(said.split())[:300]
    return SplitError(
        f"The loss cannot be computed: {said} Pass `loss` as in `model.compile`, and `y` and `sample_weight` as "
        "in `model.fit`."
    )


def _whole(parts: Sequence[Any], name: str) -> Any:
    """Joins the micro-batches of an output (arrays or tensors) to one tensor."""
    if len(parts) == 1:
        return None if parts[0] is None else keras.ops.convert_to_tensor(parts[0])
    name = name.partition("\0")[0]
    if any(part is None or not len(part.shape) for part in parts):
        raise SplitError(f"Output '{name}' has no samples along its first dimension. Pass micro_batches=1.")
    return keras.ops.concatenate(parts, axis=0)


def _cut(gradients: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Cuts the gradients of a whole batch into micro-batches."""
    if len(parts) == 1:
        return [dict(gradients)]
    cut, firsts = [], dict.fromkeys(gradients, 0)
    for part in parts:
        lasts = {name: first + part[name].shape[0] for name, first in firsts.items()}
        cut.append({name: gradient[firsts[name] : lasts[name]] for name, gradient in gradients.items()})
        firsts = lasts
    return cut
