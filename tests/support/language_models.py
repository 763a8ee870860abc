"""Causal language models of KerasHub, tiny, with large random weights, so that their texts vary."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

hub = pytest.importorskip("keras_hub").models

VOCABULARY = 96
BLOCKS = 4
PLACED = {
    "num_layers": BLOCKS,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "vocabulary_size": VOCABULARY,
    "max_sequence_length": 256,
}
DECODER = {
    "num_layers": BLOCKS,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "vocabulary_size": VOCABULARY,
}
PLAIN = {name: PLACED[name] for name in PLACED if name != "max_sequence_length"}
FALCON = {("num_attention_heads" if name == "num_heads" else name): value for name, value in PLAIN.items()}
SMOLLM = {("num_attention_heads" if name == "num_query_heads" else name): value for name, value in DECODER.items()}
SMOLLM |= {"attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False, "layer_norm_epsilon": 1e-6}
SMOLLM |= {"rope_layer_enabled_list": [True, False, True, True], "layer_types": ["attention"] * BLOCKS}
SMOLLM |= {"max_position_embeddings": 256, "rope_theta": 1e4, "partial_rotary_factor": 1.0}
WINDOW = {"sliding_window_size": 8, "use_sliding_window_attention": True}

BUILDERS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: hub.GPT2CausalLM(hub.GPT2Backbone(**PLACED)),
    "llama": lambda: hub.LlamaCausalLM(hub.LlamaBackbone(**DECODER)),
    "gemma": lambda: hub.GemmaCausalLM(hub.GemmaBackbone(head_dim=4, **DECODER)),
    "gemma3": lambda: hub.Gemma3CausalLM(None, hub.Gemma3Backbone(image_size=16, head_dim=4, **WINDOW, **DECODER)),
    "qwen": lambda: hub.QwenCausalLM(hub.QwenBackbone(**DECODER)),
    "qwen3": lambda: hub.Qwen3CausalLM(hub.Qwen3Backbone(head_dim=4, **DECODER)),
    "mistral": lambda: hub.MistralCausalLM(hub.MistralBackbone(sliding_window=8, **DECODER)),
    "mixtral": lambda: hub.MixtralCausalLM(hub.MixtralBackbone(num_experts=4, sliding_window=8, **DECODER)),
    "phi3": lambda: hub.Phi3CausalLM(hub.Phi3Backbone(**DECODER)),
    "opt": lambda: hub.OPTCausalLM(hub.OPTBackbone(**PLACED)),
    "falcon": lambda: hub.FalconCausalLM(hub.FalconBackbone(**FALCON)),
    "bloom": lambda: hub.BloomCausalLM(hub.BloomBackbone(**PLAIN)),
    "gpt_neo_x": lambda: hub.GPTNeoXCausalLM(hub.GPTNeoXBackbone(**PLACED)),
    "smollm3": lambda: hub.SmolLM3CausalLM(hub.SmolLM3Backbone(**SMOLLM)),
}


def tiny(kind: str) -> Any:
    """Builds a model with random weights, which chooses greedily."""
    return varied(BUILDERS[kind]())


def varied(task: Any, seed: int = 0) -> Any:
    """Gives a model random weights: large matrices, scales around 1, small biases and embeddings."""
    generator = np.random.default_rng(seed)
    for variable in task.weights:
        shape, name = tuple(variable.shape), variable.path.rpartition("/")[2]
        if len(shape) > 1:
            variable.assign((0.2 if "embedding" in variable.path else 1.0) * generator.normal(size=shape))
        elif "scale" in name or "gamma" in name:
            variable.assign(generator.uniform(0.5, 1.5, shape))
        else:
            variable.assign(0.3 * generator.normal(size=shape))
    task.compile(sampler="greedy")
    return task


def prompts(length: int, lengths: tuple[int, ...] = (5, 3, 8)) -> dict[str, np.ndarray]:
    """Returns prompts of these lengths, padded, as a model without a preprocessor takes them."""
    tokens = np.random.default_rng(1).integers(1, VOCABULARY, (len(lengths), length)).astype("int32")
    mask = np.arange(length) < np.array(lengths)[:, None]
    return {"token_ids": np.where(mask, tokens, 0).astype("int32"), "padding_mask": mask}


def own_tokens(task: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the tokens that the model generates by itself, compiled. Gemma 3 does not `generate` from arrays."""
    given = {name: keras.ops.convert_to_tensor(value) for name, value in inputs.items()}
    return keras.ops.convert_to_numpy(task.make_generate_function()(given, stop_token_ids=None)["token_ids"])


def spelling_task() -> Any:
    """Returns a GPT-2 with a tokenizer that knows letters: strings in, strings out."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|endoftext|>", *letters, "Ġ", *(f"Ġ{letter}" for letter in letters)]
    tokenizer = hub.GPT2Tokenizer({one: place for place, one in enumerate(tokens)}, [f"Ġ {one}" for one in letters])
    preprocessor = hub.GPT2CausalLMPreprocessor(tokenizer, sequence_length=24)
    backbone = hub.GPT2Backbone(**{**PLACED, "vocabulary_size": len(tokens)})
    task = varied(hub.GPT2CausalLM(backbone, preprocessor=preprocessor, name="speller"))
    embeddings = backbone.token_embedding.embeddings
    embeddings.assign(keras.ops.slice_update(embeddings.value, (0, 0), keras.ops.zeros((1, 16))))  # ends seldom
    return task
