"""`Generation`: a language model over stages, each with the caches of its own transformer blocks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from kerassplit.cutting.stages import Stage, Stages
from kerassplit.errors import SplitError, StoreError
from kerassplit.generation.sampling import generate_batch
from kerassplit.generation.shell import TaskShell
from kerassplit.generation.step import INDEX, LOGITS, TOKENS, blocks_to_cut, cut_step, step_of
from kerassplit.generation.task import View, check_sampler, check_task
from kerassplit.graph.backends.interface import Run
from kerassplit.graph.compiling import Program
from kerassplit.storage.loading import load_with_companion
from kerassplit.storage.saving import save
from kerassplit.text import listed


@dataclass(eq=False)
class GenerationStage:
    """A stage of a language model, with the caches of its blocks.

    Attributes:
        stage: The stage: from tokens or hidden states, an index and caches to hidden states or logits and caches.
        caches: The input of the stage that takes each cache, and the output with the updated one.
    """

    stage: Stage
    caches: Mapping[str, str]
    _programs: dict[bool, Run] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The name of the stage."""
        return self.stage.name

    def new_caches(self, batch: int, length: int) -> dict[str, Any]:
        """Returns empty caches for `batch` texts of at most `length` tokens."""
        symbols = dict(zip(self.stage.inputs, self.stage.model.inputs, strict=True))
        return {name: _zeros(symbols[name], batch, length) for name in self.caches}

    def cache_bytes(self, batch: int, length: int) -> int:
        """Returns the bytes of the caches of this stage for `batch` texts of at most `length` tokens."""
        return sum(one.nbytes for one in map(keras.ops.convert_to_numpy, self.new_caches(batch, length).values()))

    def step(
        self, tensors: Mapping[str, Any], caches: Mapping[str, Any], *, run_eagerly: bool = False
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Runs the stage on the prompt, or on one more token.

        Args:
            tensors: Its inputs by name, other than the caches.
            caches: Its caches, from `new_caches` or the step before.
            run_eagerly: Do not compile it.

        Returns:
            Its outputs by name, other than the caches, and its caches.
        """
        given = {name: {**tensors, **caches}[name] for name in self.stage.inputs}
        if run_eagerly:
            made = self.stage.run(given, training=False)
        else:
            made = dict(zip(self.stage.outputs, self._program(given)(list(given.values())), strict=True))
        updated = {name: made.pop(output) for name, output in self.caches.items()}
        return made, updated

    def _program(self, given: Mapping[str, Any]) -> Run:
        """Returns the stage compiled for prompts, or for single tokens."""
        first = next(value for name, value in given.items() if name not in self.caches and len(value.shape) > 1)
        single = first.shape[1] == 1
        if single not in self._programs:
            self._programs[single] = Program(self.stage.model)
        return self._programs[single]


@dataclass(frozen=True, eq=False)
class Generation:
    """A causal language model cut into stages between its transformer blocks; `generate` is that of the model.

    Attributes:
        task: The causal language model of KerasHub that was cut. Loaded, it has no weights, but its preprocessor and
            its sampler; `task.compile(sampler=...)` sets another one.
        split: The stages of its forward pass with caches.
        stages: The stages with their caches, in execution order.
        run_eagerly: Do not compile the stages.
    """

    task: Any
    split: Stages
    stages: tuple[GenerationStage, ...]
    run_eagerly: bool = False
    _logits: str = LOGITS

    def generate(
        self,
        inputs: Any,
        max_length: int | None = None,
        stop_token_ids: Any = "auto",
        strip_prompt: bool = False,
    ) -> Any:
        """Generates text, as `generate` of the model does, with its preprocessor and its sampler.

        Args:
            inputs: A prompt, a list of prompts, or a `tf.data.Dataset` of them; without a preprocessor, a dict of
                `token_ids` and `padding_mask` (rows × tokens), padded to the length to generate.
            max_length: Largest number of tokens, the prompt included; by default the preprocessor's `sequence_length`.
            stop_token_ids: Tokens that end a text. `"auto"`: the tokenizer's end tokens. `None`: none.
            strip_prompt: Return only what was generated.

        Returns:
            A string or a list of strings; without a preprocessor, a dict of `token_ids` and `padding_mask`.

        Raises:
            SplitError: The sampler searches (beam or contrastive search), a prompt is empty, or a stage is missing.

        Example:

        >>> ks.split_generation(causal_lm, stages=2).generate("Keras is", max_length=64)
        'Keras is ...'
        """
        check_sampler(self.task.sampler)
        last = self.stages[-1].stage
        if TOKENS not in self.stages[0].stage.inputs or self._logits not in last.outputs or self._missing():
            raise SplitError(
                f"Of '{self.task.name}' only {listed(one.name for one in self.stages)} is here, and generating needs "
                "all stages. Load them all, or call `step` of each stage where it is."
            )
        options = {"strip_prompt": True} if strip_prompt else {}  # Phi-3 has no such argument
        task = View(self.task, make_generate_function=lambda: self._generate_batch)
        return task.generate(inputs, max_length=max_length, stop_token_ids=stop_token_ids, **options)

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes one `.keras` file for each stage, `task.keras` with the preprocessor and the sampler, and a manifest.

        No file holds weights but those of its stage. A sampler starts again from its seed when it is loaded.

        Args:
            directory: The folder; it appears complete or not at all.
            overwrite: Allow a folder that holds a split to be replaced. No other folder ever is.

        Raises:
            StoreError: The model cannot be built again from its config, or the folder cannot be written.
        """
        save(self.split, directory, overwrite=overwrite, tells_of_shared=False, companion=TaskShell(self.task))

    def _missing(self) -> bool:
        made = {name for one in self.stages for name in one.stage.outputs}
        others = {name for one in self.stages for name in one.stage.inputs if name not in one.caches}
        return not made.issuperset(name for name in others if name not in _GIVEN)

    def _generate_batch(self, inputs: Mapping[str, Any], stop_token_ids: Sequence[int] | None = None) -> dict[str, Any]:
        batch, length = inputs["token_ids"].shape
        caches = [stage.new_caches(batch, length) for stage in self.stages]

        def forward(tokens: np.ndarray, index: int, masks: dict[str, np.ndarray]) -> Any:
            given = {TOKENS: tokens, INDEX: np.int32(index), **masks}
            tensors = {name: keras.ops.convert_to_tensor(value) for name, value in given.items()}
            for place, stage in enumerate(self.stages):
                made, caches[place] = stage.step(tensors, caches[place], run_eagerly=self.run_eagerly)
                tensors |= made
            return tensors[self._logits]

        return generate_batch(inputs, self.task.sampler, forward, stop_token_ids)


_GIVEN = frozenset([TOKENS, INDEX, "padding_mask", "cache_update_mask"])


def split_generation(
    causal_lm: Any, *, stages: int | None = None, at: Sequence[int] | None = None, run_eagerly: bool = False
) -> Generation:
    """Cuts a causal language model of KerasHub into stages that generate text together.

    Each stage has some of the transformer blocks and keeps their caches; only hidden states go from stage to stage. The
    model is not changed, and the stages share its layers.

    Args:
        causal_lm: A task such as `keras_hub.models.GPT2CausalLM`, for text only.
        stages: Number of stages, with as many blocks each as possible.
        at: In place of `stages`: the numbers of the blocks to cut before, such as `[4, 8]`.
        run_eagerly: Do not compile the stages. Their logits then equal those of the model, run eagerly, bit for bit.

    Returns:
        A `Generation`, whose `generate` takes and returns what that of the model does.

    Raises:
        UnsupportedModelError: It is no such model, takes more than text, or its blocks have no caches.
        SplitError: There is no such split, or the sampler searches (beam or contrastive search).

    Example:

    >>> gen = ks.split_generation(causal_lm, at=[4, 8])
    >>> gen.generate("Keras is", max_length=64) == causal_lm.generate("Keras is", max_length=64)
    True
    """
    check_task(causal_lm)
    check_sampler(causal_lm.sampler)
    blocks = blocks_to_cut(len(causal_lm.backbone.transformer_layers), stages, at)
    split = cut_step(step_of(causal_lm), blocks)
    return _generation(causal_lm, split, split.inputs, split.outputs, run_eagerly)


def load_generation(
    directory: str | os.PathLike[str],
    stages: Sequence[int | str] | None = None,
    *,
    run_eagerly: bool = False,
    safe_mode: bool = True,
) -> Generation:
    """Loads a language model over stages that `Generation.save` wrote, or some of its stages.

    Args:
        directory: The folder, which is treated as untrusted input, as in `kerassplit.load`.
        stages: The stages to load, by name or number; by default all. The files of others may be missing.
        run_eagerly: Do not compile the stages.
        safe_mode: Refuse files that contain code.

    Returns:
        A `Generation`. With some of the stages, it has their `step`, but does not generate.

    Raises:
        StoreError: The folder is damaged, holds something else, or a file would run code.

    Example:

    >>> ks.load_generation("out").generate("Keras is", max_length=64)
    'Keras is ...'
    """
    split, manifest, shell = load_with_companion(directory, stages, safe_mode=safe_mode)
    if not isinstance(shell, TaskShell) or not isinstance(manifest["inputs"], dict):
        raise StoreError(f"'{directory}' holds no language model that `Generation.save` wrote.", path=directory)
    return _generation(shell.held.task, split, manifest["inputs"], manifest["outputs"], run_eagerly)


def _generation(
    task: Any, split: Stages, inputs: Mapping[str, str], outputs: Mapping[str, str], run_eagerly: bool
) -> Generation:
    caches = {inputs[key]: output for key, output in outputs.items() if key != LOGITS}
    parts = [GenerationStage(stage, {name: caches[name] for name in stage.inputs if name in caches}) for stage in split]
    return Generation(task, split, tuple(parts), run_eagerly, outputs[LOGITS])


def _zeros(symbol: keras.KerasTensor, batch: int, length: int) -> Any:
    """Returns an empty cache: of its two unknown dimensions, the first is the batch."""
    rest = [length if side is None else side for side in symbol.shape[1:]]
    return keras.ops.zeros((batch, *rest), symbol.dtype)
