"""One training step through the stages of a split: `train_step`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kerassplit.cutting.arrays import wrong_batch
from kerassplit.cutting.stages import Stages
from kerassplit.engines.inputs import check_shapes, number_of_rows
from kerassplit.engines.route import route_of
from kerassplit.errors import SplitError
from kerassplit.files.values import as_count
from kerassplit.training.steps.gradients import plus
from kerassplit.training.steps.loss import loss_of
from kerassplit.training.steps.optimizers import checked_optimizers
from kerassplit.training.steps.stage_trainer import Role, StageTrainer


@dataclass(frozen=True)
class SplitGradients:
    """Loss and gradients of a step.

    Attributes:
        loss: Loss of the batch, including losses added by layers and regularizers.
        stages: Trainable variables with their gradients (`None`: the loss does not depend on it), by stage name. A
            variable that several stages share is listed with the first of them.
    """

    loss: float
    stages: dict[str, tuple[tuple[keras.Variable, Any], ...]]


def train_step(
    split: Stages,
    x: Any,
    y: Any,
    loss: Any,
    optimizers: Any,
    *,
    sample_weight: Any = None,
    micro_batches: int = 1,
) -> float:
    """Runs one training step through the stages, equivalent to a step of the whole model.

    Every stage runs forward in training mode. Then, from last to first, each receives only the gradients of its outputs
    and computes those of its own variables and of its inputs; finally its own optimizer applies them. Stages exchange
    nothing but crossing tensors and their gradients, so they can be on different machines: see
    `examples/split_training` and `kerassplit.training.ray`.

    In eager mode the gradients are bit-for-bit equal to those of the whole model, and so are updates of statistics and
    random number generators; gradients of layers that are called several times, and of tensors that several stages
    use, may differ by rounding. A variable that several stages share is trained by the first of them. If `split` warned
    that a loss is no longer masked, pass the mask in `sample_weight`. Each optimizer sees only its stage: `clipnorm`
    and the like work as in the whole model, but `global_clipnorm` uses the norm of the stage.

    Source: split learning, Gupta & Raskar, "Distributed learning of deep neural network over multiple agents" (2018);
    Vepakomma et al., "Split learning for health" (2018). Micro-batches: Huang et al., "GPipe" (NeurIPS 2019).

    Args:
        split: The split. Its variables are trained, except those of frozen layers.
        x: Arrays or tensors in the structure of the model's inputs, the samples along the first dimension.
        y: The targets, as in `fit`.
        loss: As in `compile`: a loss, a function, a name, or a structure of these for several outputs. `None`: only
            losses added by layers.
        optimizers: One optimizer of `keras.optimizers` for each stage, in a list or by name, `None` for a stage without
            trainable variables. They hold their state: pass the same objects to every step. `ks.stage_optimizers`
            creates them.
        sample_weight: As in `fit`.
        micro_batches: Number of equal parts in which the batch goes through the stages, one after another; their
            gradients are summed before the optimizers apply them. The loss is that of the whole batch, whatever its
            reduction. Unlike with one part, batch normalization sees one micro-batch at a time, and layers draw other
            random numbers; losses from `add_loss` are averaged over the parts. In this process all parts are kept until
            their gradients are computed, which takes as much memory as the undivided batch.

    Returns:
        The loss before the step.

    Raises:
        SplitError: The input, the targets or the loss do not fit the model; the optimizers do not fit the stages; or
            the loss would need scaling (float16). Nothing has been trained then; statistics and random number
            generators may have advanced, as in any call in training mode.

    Example:

    >>> split = ks.split(resnet, "conv4_block6_out")
    >>> optimizers = ks.stage_optimizers(split, keras.optimizers.SGD(1e-3))
    >>> ks.train_step(split, images, labels, "sparse_categorical_crossentropy", optimizers)
    6.912
    """
    given = checked_optimizers(split, optimizers)
    trainers = [role.trainer(stage, given[stage.name]) for stage, role in zip(split, roles_of(split), strict=True)]
    total = _forward_and_back(split, trainers, loss, x, y, sample_weight, micro_batches)
    for trainer in trainers:
        trainer.apply()
    return total


def split_gradients(
    split: Stages, x: Any, y: Any, loss: Any, *, sample_weight: Any = None, micro_batches: int = 1
) -> SplitGradients:
    """Computes the gradients of a training step without applying them: `train_step` up to its optimizers.

    Statistics and random number generators advance, as in every call in training mode.

    Args:
        split: The split; all arguments are as in `train_step`.
        x: The inputs.
        y: The targets.
        loss: The loss.
        sample_weight: Weights of the samples.
        micro_batches: Number of parts.

    Returns:
        The loss and the gradients of every stage.

    Raises:
        SplitError: The input, the targets or the loss do not fit the model.
    """
    roles = roles_of(split)
    trainers = [role.trainer(stage) for stage, role in zip(split, roles, strict=True)]
    total = _forward_and_back(split, trainers, loss, x, y, sample_weight, micro_batches)
    return SplitGradients(
        total,
        {
            trainer.stage.name: tuple((trainer.variables[place], trainer.gradients[place]) for place in role.owned)
            for trainer, role in zip(trainers, roles, strict=True)
        },
    )


def roles_of(split: Stages) -> list[Role]:
    """Returns the role of each stage in training, such that only gradients that are needed get computed."""
    judged = set(keras.tree.flatten(split.outputs))
    owned_before: set[int] = set()
    wanted: set[str] = set()
    roles = []
    for stage in split:
        variables = stage.model.trainable_variables
        owned = tuple(place for place, variable in enumerate(variables) if id(variable) not in owned_before)
        owned_before.update(map(id, variables))
        role = Role(
            tuple(name for name in stage.outputs if name in judged),
            tuple(name for name in stage.inputs if name in wanted),
            owned,
            bool(variables),
        )
        if role.goes_back:
            wanted.update(stage.outputs)
        roles.append(role)
    return roles


def micro_batches_of(split: Stages, x: Any, count: int) -> list[dict[str, Any]]:
    """Divides the inputs into equal micro-batches, by tensor name.

    Raises:
        SplitError: They cannot be divided equally.
    """
    count = as_count(count, "micro_batches")
    tensors = {
        name: value if value is None or hasattr(value, "shape") else np.asarray(value)
        for name, value in split.named_inputs(x).items()
    }
    check_shapes(tensors, route_of(split))
    if count == 1:
        return [tensors]
    shapes = {name: tuple(value.shape) for name, value in tensors.items() if value is not None}
    total = number_of_rows(shapes)
    if total % count:
        raise SplitError(
            f"A batch of {total} samples cannot be divided into {count} equal micro-batches. Pass `micro_batches` that "
            f"divides {total}."
        )
    size = total // count
    try:
        return [
            {name: None if one is None else one[first : first + size] for name, one in tensors.items()}
            for first in range(0, total, size)
        ]
    except TypeError as error:
        raise SplitError(f"The inputs cannot be divided: {error}. Pass micro_batches=1.") from error


def _forward_and_back(
    split: Stages, trainers: Sequence[StageTrainer], loss: Any, x: Any, y: Any, sample_weight: Any, count: int
) -> float:
    """Returns the loss; leaves the gradients in the trainers, those of a shared variable in the first one only."""
    output_loss = loss_of(split, loss)
    parts = micro_batches_of(split, x, count)
    size = route_of(split).batch
    for number, tensors in enumerate(parts):
        wrong = wrong_batch(tensors, size, split.name)
        try:
            for trainer in trainers:
                tensors.update(trainer.forward(tensors, number, share=1 / count, regularized=number == 0))
        except Exception as error:
            if wrong is None:
                raise
            raise SplitError(wrong) from error
    added = [loss for trainer in trainers for loss in trainer.added_losses]
    output_loss.check(added)
    total, gradients = output_loss(parts, y, sample_weight)
    for number, slopes in enumerate(gradients):
        for trainer in reversed(trainers):
            for name, slope in trainer.backward(slopes, number).items():
                slopes[name] = plus(slopes.get(name), slope)
    for owner, ours, other, theirs in links_of(split):  # the first stage trains what it shares with others
        for there, here in zip(ours, theirs, strict=True):
            trainers[owner].add(there, trainers[other].gradients[here])
            trainers[other].gradients[here] = None
    if all(gradient is None for trainer in trainers for gradient in trainer.gradients):
        raise SplitError(nothing_to_train(split))
    return total + sum(added)


def nothing_to_train(split: Stages) -> str:
    """Returns the message for a step without any gradient."""
    return f"No trainable variable of '{split.name}' has a gradient: the loss depends on none of them."


def links_of(split: Stages) -> list[tuple[int, list[int], int, list[int]]]:
    """Pairs trainable variables that stages share: the first stage, its indices, the other stage, its indices."""
    first: dict[int, tuple[int, int]] = {}
    pairs: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
    for place, stage in enumerate(split):
        for here, variable in enumerate(stage.model.trainable_variables):
            owner, there = first.setdefault(id(variable), (place, here))
            if owner != place:
                ours, theirs = pairs.setdefault((owner, place), ([], []))
                ours.append(there)
                theirs.append(here)
    return [(owner, ours, other, theirs) for (owner, other), (ours, theirs) in pairs.items()]
