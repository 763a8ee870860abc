"""The forward pass of a language model with caches, as a graph in which each block has caches of its own.

One graph serves the prompt (all its tokens, from index 0) and the steps (one token). KerasHub keeps the caches of all
blocks in one tensor; here its own `call_with_cache` is traced with one cache for each block instead.
"""

from collections.abc import Sequence
from typing import Any

import keras

from kerassplit.cutting.cuts import cut
from kerassplit.cutting.stages import Stages
from kerassplit.errors import SplitError
from kerassplit.generation.task import View, cache_specs, check_task, masks_of
from kerassplit.graph.internals.process_state import deep_recursion
from kerassplit.graph.reading import read_graph
from kerassplit.graph.tracing.trace import trace

LOGITS = "logits"
TOKENS, INDEX = "token_ids", "cache_update_index"


@keras.saving.register_keras_serializable("kerassplit")
class GenerationStep(keras.Model):
    """The forward pass of a task with caches: tokens, caches and an index to logits and caches. Build it by `step_of`.

    Its config is that of the task, without its preprocessor.
    """

    task: Any

    def get_config(self) -> dict[str, Any]:
        config = keras.saving.serialize_keras_object(self.task)
        config.pop("compile_config", None)
        config["config"]["preprocessor"] = None
        return {"name": self.name, "task": config}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "GenerationStep":
        if config["task"].get("compile_config"):
            raise ValueError("the task of a step is not compiled")
        return step_of(keras.saving.deserialize_keras_object(config["task"], custom_objects=custom_objects))


def step_of(task: Any) -> GenerationStep:
    """Returns the forward pass of a causal language model as a graph, on its own layers.

    Raises:
        UnsupportedModelError: It is not a causal language model whose blocks have caches, or cannot be traced.
    """
    check_task(task)
    caches = cache_specs(task)
    masks = {name: keras.KerasTensor((None, None), "bool") for name in masks_of(task)}
    traced = trace(
        _Forward(task),
        keras.KerasTensor((None, None), "int32"),
        training=False,
        caches=caches,
        cache_update_index=keras.KerasTensor((), "int32"),
        **masks,
    )
    with deep_recursion():
        step = GenerationStep(traced.input, traced.output, name=f"{task.name}_step")
    object.__setattr__(step, "task", task)  # Keras would add its layers
    return step


def cut_step(step: GenerationStep, blocks: Sequence[int]) -> Stages:
    """Cuts a step before the blocks with these numbers."""
    graph = read_graph(step)
    ends = [graph.tensors[call.outputs[0]].name for call in graph.calls if isinstance(call.operation, _CachedBlock)]
    return cut(step, [ends[block - 1] for block in blocks] or None, allow_crossing=True)


def blocks_to_cut(count: int, stages: int | None, at: Sequence[int] | None) -> list[int]:
    """Returns the numbers of the blocks that begin a stage, without the first.

    Raises:
        SplitError: There is no such split of `count` blocks.
    """
    if (stages is None) == (at is None):
        raise SplitError("Say how many `stages` to make, or the blocks to cut before in `at`, and not both.")
    if stages is not None:
        if type(stages) is not int or not 1 <= stages <= count:
            raise SplitError(f"The model has {count} blocks, so `stages` must be from 1 to {count}; got {stages!r}.")
        return [round(count * number / stages) for number in range(1, stages)]
    chosen: list[int] = [at] if isinstance(at, int) else list(at or [])
    inside = all(type(block) is int and 0 < block < count for block in chosen)
    if not inside or chosen != sorted(set(chosen)):
        raise SplitError(
            f"`at` must list blocks to cut before, in order, from 1 to {count - 1} as there are {count}; got {at!r}."
        )
    return chosen


class _CachedBlock(keras.layers.Layer):
    """A transformer block called with its cache.

    KerasHub's blocks declare the shape of their output without a cache, so Keras would take the two outputs for one.
    """

    def __init__(self, block: keras.Layer):
        super().__init__(name=block.name, dtype=block.dtype_policy)
        self.block = block
        self.built = self.supports_masking = True

    def call(self, x: Any, training: Any = None, **options: Any) -> Any:
        return self.block(x, **options)  # Keras passes `training` on

    def compute_output_spec(self, x: Any, training: Any = None, **options: Any) -> Any:
        caches = next(value for name, value in options.items() if name.endswith("cache"))
        return keras.tree.map_structure(lambda one: keras.KerasTensor(one.shape, one.dtype), (x, caches))


class _Kept:
    """Calls a block, and keeps the cache that it returns."""

    def __init__(self, block: keras.Layer):
        self.block, self.cache = _CachedBlock(block), None

    def __call__(self, *args: Any, **options: Any) -> Any:
        x, self.cache = self.block(*args, **options)
        return x, self.cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self.block.block, name)


class _Caches(list):
    """The caches of all blocks, in place of one tensor: `caches[:, i, ...]` is that of block i."""

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key[1] if isinstance(key, tuple) else key)


class _Forward(keras.Model):
    """Calls `call_with_cache` of a task with one cache for each block."""

    def __init__(self, task: Any):
        super().__init__(name=f"{task.name}_step")
        blocks = [_Kept(block) for block in task.backbone.transformer_layers]
        view = View(task, backbone=View(task.backbone, transformer_layers=blocks))
        self.built = True
        self.__dict__.update(blocks=blocks, view=view)  # not tracked by Keras

    def call(self, token_ids: Any, caches: Any, cache_update_index: Any, **masks: Any) -> dict[str, Any]:
        logits = self.view.call_with_cache(token_ids, _Caches(caches), cache_update_index, **masks)[0]
        made = {LOGITS: logits}
        for number, kept in enumerate(self.blocks):
            several = kept.cache if isinstance(kept.cache, (tuple, list)) else [kept.cache]
            for place, cache in enumerate(several):
                made[f"caches_{number}_{place}" if len(several) > 1 else f"caches_{number}"] = cache
        return made
