"""Tokens from logits, as KerasHub's samplers choose them, one step at a time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kerassplit.errors import SplitError


def generate_batch(
    inputs: Mapping[str, Any],
    sampler: Any,
    forward: Callable[[np.ndarray, int, dict[str, np.ndarray]], Any],
    stop_token_ids: Sequence[int] | None,
) -> dict[str, Any]:
    """Continues a batch of prompts, as `generate_step` of a task of KerasHub does.

    Args:
        inputs: `token_ids` and `padding_mask` (rows × tokens): the prompts, padded to the length to generate.
        sampler: A sampler of KerasHub that chooses one token at a time.
        forward: Returns the logits (rows × tokens × vocabulary) for tokens from an index on, given the masks that a
            model may take, and keeps the caches.
        stop_token_ids: Tokens that end a row; generation stops when all rows have ended. `None`: at full length.

    Raises:
        SplitError: A prompt is empty.
    """
    tokens, prompt = (np.array(keras.ops.convert_to_numpy(inputs[name])) for name in ("token_ids", "padding_mask"))
    prompt = prompt.astype(bool)
    first = int(prompt.sum(-1).min(initial=prompt.shape[-1]))
    if not first:
        raise SplitError("A prompt has no tokens. Start it with at least one, such as the tokenizer's start token.")
    everywhere = np.ones_like(prompt)
    forward(tokens, 0, {"padding_mask": prompt, "cache_update_mask": everywhere})
    for index in range(first, tokens.shape[1]):
        if stop_token_ids is not None and _ended(tokens, prompt, stop_token_ids).any(-1).all():
            break
        last = slice(index - 1, index)
        masks = {"padding_mask": everywhere[:, last], "cache_update_mask": ~prompt[:, last]}
        logits = forward(tokens[:, last], index - 1, masks)[:, 0]
        chosen = keras.ops.convert_to_numpy(sampler.get_next_token(sampler.compute_probabilities(logits)))
        tokens[:, index] = np.where(prompt[:, index], tokens[:, index], chosen)
    if stop_token_ids is None:
        written = everywhere
    else:
        ended = _ended(tokens, prompt, stop_token_ids).astype("int32")
        written = ended.cumsum(-1) == ended  # up to the first of them
    return {"token_ids": keras.ops.convert_to_tensor(tokens), "padding_mask": keras.ops.convert_to_tensor(written)}


def _ended(tokens: np.ndarray, prompt: np.ndarray, stop_token_ids: Sequence[int]) -> np.ndarray:
    """Returns where a row that was generated has a token that ends it."""
    return np.isin(tokens, list(stop_token_ids)) & ~prompt
