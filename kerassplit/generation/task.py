"""What a causal language model of KerasHub consists of, and which ones are refused."""

import inspect
from types import MethodType
from typing import Any

import keras

from kerassplit.errors import SplitError, UnsupportedModelError
from kerassplit.text import listed

MASKS = ("padding_mask", "cache_update_mask")
"""Arguments of `call_with_cache` beyond the tokens that matter for text; all true in a step, they change nothing."""
_TEXT = {"token_ids", "padding_mask"}
_OWN = {"token_ids", "cache", "cache_update_index"}


class View:
    """A task or backbone with some attributes replaced for its methods; the object itself stays as it was."""

    def __init__(self, of: Any, **replaced: Any):
        vars(self).update(replaced, _of=of)

    @property  # for `super()` in methods
    def __class__(self) -> Any:
        return type(self._of)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._of, name)
        if isinstance(value, MethodType) and value.__self__ is self._of:
            return MethodType(value.__func__, self)
        return value


def check_task(task: Any) -> None:
    """Refuses anything but a causal language model whose transformer blocks have caches, and that takes only text.

    Raises:
        UnsupportedModelError: It is something else.
    """
    named = f"'{getattr(task, 'name', task)}' ({type(task).__name__})"
    blocks = getattr(getattr(task, "backbone", None), "transformer_layers", None)
    if not all(hasattr(task, name) for name in ("call_with_cache", "_build_cache", "generate")) or not blocks:
        raise UnsupportedModelError(
            f"{named} is not a causal language model with a cache in each of its transformer blocks. Expected a "
            "task of KerasHub such as `keras_hub.models.GPT2CausalLM`; `kerassplit.split` cuts other models."
        )
    inputs = task.backbone.input
    others = sorted(set(inputs) - _TEXT) if isinstance(inputs, dict) else ["something else"]
    parameters = inspect.signature(task.call_with_cache).parameters.values()
    others += [one.name for one in parameters if one.name not in {*_OWN, *MASKS} and one.default is one.empty]
    if others:
        raise UnsupportedModelError(
            f"{named} takes {listed(others)} besides tokens, and only text can be generated over stages. Build it "
            "without a vision or an audio encoder."
        )


def check_sampler(sampler: Any) -> None:
    """Refuses a sampler that searches among several continuations of a text.

    Raises:
        SplitError: It does.
    """
    base = next(kind for kind in reversed(type(sampler).__mro__) if "__call__" in vars(kind))
    if type(sampler).__call__ is not base.__call__:
        raise SplitError(
            f"{type(sampler).__name__} chooses among several continuations, for which caches would have to move "
            "between texts. Over stages, use one that chooses one token at a time: `task.compile(sampler='greedy')`, "
            "'top_k', 'top_p' or 'random'."
        )


def masks_of(task: Any) -> list[str]:
    """Returns the masks that `call_with_cache` of a task takes."""
    return [name for name in MASKS if name in inspect.signature(task.call_with_cache).parameters]


def cache_specs(task: Any) -> list[Any]:
    """Returns the cache of each block as a `KerasTensor`, or a tuple of these, with unknown batch and length.

    Raises:
        UnsupportedModelError: A cache does not grow with the length of the text, or blocks have different ones.
    """
    small, large = _built_cache(task, 2, 5), _built_cache(task, 3, 7)
    if isinstance(small, tuple):  # one cache for each block; else one tensor for all of them
        pairs = list(zip(small, large, strict=True))
    else:
        count = len(task.backbone.transformer_layers)
        if small.ndim < 3 or small.shape[1] != count:
            raise _without_length(task)
        pairs = [(small[:, 0], large[:, 0])] * count
    return [keras.tree.map_structure(lambda one, two: _spec(task, one, two), *pair) for pair in pairs]


def _built_cache(task: Any, batch: int, length: int) -> Any:
    """Returns the empty cache that a task creates; its forward pass is replaced."""
    view = View(task, call_with_cache=_keep_cache)
    arguments = {"token_ids": keras.ops.ones((batch, length), "int32")}
    others = list(inspect.signature(task._build_cache).parameters)[1:]
    return view._build_cache(**arguments, **dict.fromkeys(others))[-1]


def _keep_cache(token_ids: Any, *args: Any, cache: Any = None, **options: Any) -> tuple[Any, Any, Any]:
    return None, None, args[0] if cache is None else cache


def _spec(task: Any, one: Any, two: Any) -> keras.KerasTensor:
    sides = [a if a == b else None for a, b in zip(one.shape, two.shape, strict=True)]
    if sides[:1] != [None] or sides.count(None) != 2:
        raise _without_length(task)
    return keras.KerasTensor(sides, keras.backend.standardize_dtype(one.dtype))


def _without_length(task: Any) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"The blocks of '{task.name}' ({type(task).__name__}) keep something else than one cache as long as the text, "
        "so it cannot be generated over stages."
    )
