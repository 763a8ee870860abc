"""Stages as LiteRT (TensorFlow Lite) files, run by signature, since inputs and outputs may be in any order."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from kerassplit.storage.exports.formats.savedmodel import SIGNATURE
from kerassplit.text import listed


def convert(saved_model: Path, target: Path) -> None:
    """Converts a SavedModel to LiteRT, using only LiteRT's own operations: no runtime includes TensorFlow's."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=[SIGNATURE])
    try:
        content = converter.convert()
    except Exception as error:
        reason = _reason(str(error))
        raise NotImplementedError(reason or str(error)) from error
    target.write_bytes(content)


def _reason(message: str) -> str | None:
    """Extracts the reason from the converter's message, which prints the whole graph; `None` if not found."""
    errors = re.findall(r'error: loc\([^\n]*?fused\["(\w+):", "([^"@]+)[^\n]*\): (.+)', message)
    if not errors:
        return None
    name, place, text = errors[0]
    if name.startswith("TensorList"):
        return (
            f"it cannot loop over time steps when the batch size is unknown, as in '{place}'. Create recurrent layers "
            "with unroll=True, which has no loop"
        )
    missing = dict.fromkeys(name for name, _, text in errors if "neither a custom op nor a flex op" in text)
    if missing:
        return f"it has no operation for TensorFlow's {listed(missing)}, as used in '{place}'"
    return f"{text} (in '{place}')"


def opened(path: Path) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """Returns a function that runs an exported stage: arrays by name in, arrays by name out."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    runner = interpreter.get_signature_runner(SIGNATURE)  # allocates for the batch size of its input

    def run(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.array(value) for name, value in runner(**tensors).items()}

    return run
