"""Trains on Ray: each stage in its own process, with micro-batches pipelined through them.

All micro-batches are sent to all stages at once; a stage's call receives references to the future results of earlier
calls: while a stage works on one micro-batch, the next stage works on the previous one, and tensors go from process to
process. The model's outputs come here, where the loss is computed and the labels stay; their gradients go back the same
way.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from kerassplit.cutting.cuts import changes_in_training
from kerassplit.cutting.stages import Stages
from kerassplit.engines.local import refuse_states
from kerassplit.engines.ray.actor import Shipment
from kerassplit.engines.ray.cluster import connected, import_ray, quiet, reserved
from kerassplit.engines.ray.engine import RayOptions, actor_in, content_of
from kerassplit.engines.ray.pipeline import cause_of, cause_of_death, signs_of_death
from kerassplit.errors import RunError, SplitError
from kerassplit.files.values import as_count
from kerassplit.graph.compile_options import out_of_weight_decay
from kerassplit.graph.internals.layers import all_layers
from kerassplit.storage.manifest import MANIFEST, read_manifest
from kerassplit.storage.saving import save
from kerassplit.training.ray.actor import TrainingActor, arrays, assign
from kerassplit.training.steps.loss import loss_of
from kerassplit.training.steps.optimizers import checked_optimizers, refuse_used, stage_optimizers
from kerassplit.training.steps.train_step import links_of, micro_batches_of, nothing_to_train, roles_of


class RayTraining:
    """Trains a split on Ray, each stage in its own process.

    A step equals `kerassplit.train_step` with the same number of micro-batches: all of them go forward, the loss of the
    whole batch is computed, all go backward, and each stage's optimizer applies the sum of its gradients. The algorithm
    is GPipe (Huang et al., "GPipe: Efficient Training of Giant Neural Networks using Pipeline Parallelism", NeurIPS
    2019) without recomputation: a stage keeps what the backward pass of every micro-batch needs.

    The stages' variables live in the processes. They are copied back into the split, and the optimizers' states into
    the optimizers, when the `with` block ends or `bring_back` is called: all at once or, if that fails, not at all.

    A process that dies, or a stage that fails, ends the training: `RunError` names the stage and the step (counted from
    0 in this training), and the split's variables are those of the last `bring_back`, or those before the training. To
    lose no more than ten steps, call `bring_back` every ten steps; to continue, start another training of the same
    split with the same optimizers. Any other error between two steps loses nothing.
    """

    def __init__(
        self,
        split: Stages,
        loss: Any,
        optimizers: Any,
        *,
        micro_batches: int = 1,
        num_cpus: float | Mapping[str, float] = 1,
        num_gpus: float | Mapping[str, float] = 0,
        address: str | None = None,
    ):
        """Prepares the training; the `with` block starts and ends the processes.

        Args:
            split: The split. Do not change its variables during the training.
            loss: As in `train_step`.
            optimizers: As in `train_step`; or a single optimizer, of which each stage gets its own copy.
            micro_batches: Number of equal parts in which every batch goes through the stages. With one, only one stage
                works at a time; with several times the number of stages, all are busy most of the time.
            num_cpus: CPUs that Ray reserves for each stage; see `kerassplit.engines.ray.engine.RayOptions`.
            num_gpus: GPUs, likewise.
            address: Address of a Ray cluster, likewise.

        Raises:
            SplitError: Ray is missing, an option is invalid, the optimizers do not fit the stages, or stages share a
                layer whose statistics or random numbers change in training.

        Example:

        >>> with RayTraining(split, "sparse_categorical_crossentropy", "adam", micro_batches=4) as training:
        ...     for x, y in batches:
        ...         print(training.step(x, y))
        """
        self._ray = import_ray()
        one_for_all = isinstance(optimizers, (str, keras.optimizers.Optimizer))
        self._optimizers = checked_optimizers(split, stage_optimizers(split, optimizers) if one_for_all else optimizers)
        self._split = split
        self._loss = loss_of(split, loss)
        self._options = RayOptions(num_cpus=num_cpus, num_gpus=num_gpus, address=address)
        self._options.check([stage.name for stage in split])
        self._micro_batches = as_count(micro_batches, "micro_batches")
        self._roles = roles_of(split)
        for stage, role in zip(split, self._roles, strict=True):
            if role.owned:
                refuse_used(self._optimizers[stage.name], stage.name, role.trained(stage), exactly=True)
        self._links = links_of(split)
        for stage in split:
            refuse_states(stage.model, f"stage '{stage.name}'")
        _refuse_shared_states(split)
        self._open = contextlib.ExitStack()
        self._actors: list[Any] = []
        self._steps = 0
        self._steady = False

    def __enter__(self) -> "RayTraining":
        with contextlib.ExitStack() as stack:
            ray = self._ray
            stack.callback(self._actors.clear)
            stack.enter_context(quiet())
            stack.enter_context(connected(ray, self._options.address))
            needs = [self._options.needs(stage.name) for stage in self._split]
            group = stack.enter_context(reserved(ray, needs))
            self._actors = [
                actor_in(ray, group, place, need, TrainingActor).remote() for place, need in enumerate(needs)
            ]
            self._load()
            self._open = stack.pop_all()
        self._steady = True
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._steady:
                self.bring_back()
        finally:
            self._steady = False
            self._open.close()

    def step(self, x: Any, y: Any, *, sample_weight: Any = None) -> float:
        """Runs one training step.

        Args:
            x: The inputs, as in `train_step`.
            y: The targets of the whole batch.
            sample_weight: Weights of the samples.

        Returns:
            The loss before the step.

        Raises:
            SplitError: The input, the targets or the loss do not fit the model. The training can continue: no weight
                has changed, as in `train_step`.
            RunError: A process died, or a stage failed. The training is over.
        """
        self._check_steady()
        parts = micro_batches_of(self._split, x, self._micro_batches)
        self._steady = False
        made, added = self._forward(parts)
        try:
            self._loss.check(added)
            loss, gradients = self._loss(made, y, sample_weight)
        except SplitError:
            self._wait([(place, actor.forget.remote()) for place, actor in enumerate(self._actors)])
            self._steady = True
            raise
        self._backward_and_apply(gradients)
        self._steps += 1
        self._steady = True
        return loss + sum(added)

    def bring_back(self) -> None:
        """Copies all variables back into the split, and all states into the optimizers; the training continues.

        Raises:
            RunError: A process died. The split's variables are unchanged.
        """
        self._check_steady()
        self._steady = False
        states = self._wait([(place, actor.state.remote()) for place, actor in enumerate(self._actors)])
        for stage, (values, slots) in zip(self._split, states, strict=True):
            assign(stage.model.variables, values)
            assign(_variables_of(self._optimizers[stage.name]), slots)
        self._steady = True

    def finish(self) -> None:
        """Copies everything back and ends the processes, as leaving the `with` block does."""
        self._check_steady()
        self.__exit__()

    def _load(self) -> None:
        """Ships the stages with the values of all their variables, and waits until they are loaded."""
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "split"
            save(self._split, folder, tells_of_shared=False)  # copies of shared variables are kept equal here
            entries = read_manifest(folder)["stages"]
            manifest = (folder / MANIFEST).read_bytes()
            loading = []
            for place, (stage, role, entry) in enumerate(zip(self._split, self._roles, entries, strict=True)):
                shipment = Shipment(stage.name, entry["file"], manifest, safe_mode=False)
                optimizer = self._optimizers[stage.name] if role.owned else None
                if optimizer and not optimizer.built:
                    optimizer.build(role.trained(stage))
                recipe = _recipe(optimizer, role.trained(stage)) if optimizer else None
                values, slots = arrays(stage.model.variables), arrays(_variables_of(optimizer))
                file = self._ray.put(content_of(folder, entry))
                loading.append((place, self._actors[place].load.remote(shipment, file, role, values, recipe, slots)))
            try:
                self._wait(loading)
            except RunError as error:
                raise SplitError(f"The training cannot start. {error}") from error

    def _forward(self, parts: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[float]]:
        """Sends all micro-batches through all stages; returns the tensors for the loss of each, and added losses."""
        calls, judged = [], []
        for number, tensors in enumerate(parts):
            sent = {
                name: None if value is None else self._ray.put(keras.ops.convert_to_numpy(value))
                for name, value in tensors.items()
            }
            for place, (actor, stage) in enumerate(zip(self._actors, self._split, strict=True)):
                call = actor.forward.options(num_returns=2 + len(stage.outputs))
                inputs = [sent[name] for name in stage.inputs]
                done, for_loss, *outputs = call.remote(number, 1 / len(parts), *inputs)
                sent.update(zip(stage.outputs, outputs, strict=True))
                calls.append((place, done))
                judged.append((place, for_loss))
        added = self._wait(calls)
        made = [dict(tensors) for tensors in parts]
        for number, tensors in enumerate(self._wait(judged)):
            made[number // len(self._actors)].update(tensors)
        return made, [loss for some in added for loss in some]

    def _backward_and_apply(self, gradients: Sequence[Mapping[str, Any]]) -> None:
        calls = []
        for number, slopes in enumerate(gradients):
            crossing: list[tuple[str, Any]] = []  # gradients of crossing tensors, with the names of these tensors
            for place in reversed(range(len(self._actors))):
                stage, role = self._split[place], self._roles[place]
                if not role.goes_back:
                    continue
                from_loss = {
                    name: keras.ops.convert_to_numpy(slope)
                    for name, slope in slopes.items()
                    if name.partition("\0")[0] in role.judged
                }
                mine = [(name, slope) for name, slope in crossing if name in stage.outputs]
                call = self._actors[place].backward.options(num_returns=1 + len(role.back_to))
                references = call.remote(number, from_loss, [name for name, _ in mine], *(slope for _, slope in mine))
                done, *given = references if isinstance(references, list) else [references]
                crossing += zip(role.back_to, given, strict=True)
                calls.append((place, done))
        self._wait(calls)
        if not any(self._wait(self._apply())):  # `apply` returns if there were gradients, `receive` returns None
            self._steady = True
            raise SplitError(nothing_to_train(self._split))

    def _apply(self) -> list[tuple[int, Any]]:
        """Runs every optimizer; variables that stages share are trained by the first and sent to the others."""
        calls = []
        for place, actor in enumerate(self._actors):
            mine = [(there, here, other) for owner, there, other, here in self._links if owner == place]
            parts = [self._actors[other].take.remote(here) for _, here, other in mine]
            calls.append((place, actor.apply.remote([there for there, _, _ in mine], *parts)))
            for there, here, other in mine:
                calls.append((other, self._actors[other].receive.remote(here, actor.values.remote(there))))
        return calls

    def _wait(self, calls: Iterable[tuple[int, Any]]) -> list[Any]:
        """Returns the results of calls, fetched in order of their dependencies: the first to fail is at fault."""
        answers = []
        for place, reference in calls:
            try:
                answers.append(self._ray.get(reference))
            except signs_of_death(self._ray) as error:
                raise self._failure(place, f"its process died ({cause_of_death(error)})") from error
            except self._ray.exceptions.RayError as error:
                raise self._failure(place, str(cause_of(error))) from error
        return answers

    def _failure(self, place: int, why: str) -> RunError:
        name = self._split[place].name
        return RunError(
            f"Stage '{name}', step {self._steps}: {' '.join(why.split()).rstrip('.')[:1000]}. The variables of "
            f"'{self._split.name}' are those of the last `bring_back`, or those before the training, which is over.",
            stage=name,
            batch=self._steps,
            rows=(0, 0),
        )

    def _check_steady(self) -> None:
        if not self._steady:
            raise SplitError(
                "This training is not running. Use it in a `with` block, and start another one after a RunError."
            )


def _recipe(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> tuple[Any, list[int]]:
    """Returns the configuration of an optimizer, and the indices of variables left out of weight decay."""
    left_out = {id(variable) for variable in out_of_weight_decay(optimizer, variables)}
    places = [place for place, variable in enumerate(variables) if id(variable) in left_out]
    return keras.optimizers.serialize(optimizer), places


def _variables_of(optimizer: keras.optimizers.Optimizer | None) -> list[keras.Variable]:
    return list(optimizer.variables) if optimizer and optimizer.built else []


def _refuse_shared_states(split: Stages) -> None:
    stages_of: dict[int, str] = {}
    for stage in split:
        for layer in all_layers(stage.model):
            if isinstance(layer, keras.Model) or not changes_in_training(layer):
                continue
            for variable in layer.non_trainable_variables:
                other = stages_of.setdefault(id(variable), stage.name)
                if other != stage.name:
                    raise SplitError(
                        f"Stages '{other}' and '{stage.name}' share layer '{layer.name}', whose statistics or random "
                        "numbers change in training, so two processes would diverge. Cut so that one stage has it, or "
                        "use kerassplit.train_step."
                    )
