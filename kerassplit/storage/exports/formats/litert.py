"""Stages as LiteRT (TensorFlow Lite) files, run by their signature: the order of inputs and outputs can be any."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from kerassplit.storage.exports.formats.savedmodel import SIGNATURE
from kerassplit.text import listed


def convert(saved_model: Path, target: Path) -> None:
    """Makes a LiteRT file of a SavedModel, with LiteRT's own operations only: no runtime brings TensorFlow's."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=[SIGNATURE])
    try:
        content = converter.convert()
    except Exception as error:
        reason = _reason(str(error))
        raise NotImplementedError(reason or str(error)) from error
    target.write_bytes(content)


def _reason(message: str) -> str | None:
    """Picks the reason out of a message, with which the converter prints the whole graph; `None` if there is none."""
    errors = re.findall(r'error: loc\([^\n]*?fused\["(\w+):", "([^"@]+)[^\n]*\): (.+)', message)
    if not errors:
        return None
    name, place, text = errors[0]
    if name.startswith("TensorList"):
        return (
            f"it has no loop over time for an open number of samples, as in '{place}'. A recurrent layer made with "
            "unroll=True has no loop"
        )
    missing = dict.fromkeys(name for name, _, text in errors if "neither a custom op nor a flex op" in text)
    if missing:
        return f"it has no operation for TensorFlow's {listed(missing)}, as used in '{place}'"
    return f"{text} (in '{place}')"


def opened(path: Path) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """A function that runs an exported stage: arrays by name in, arrays by name out."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    runner = interpreter.get_signature_runner(SIGNATURE)  # makes room for as many samples as it is given

    def run(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.array(value) for name, value in runner(**tensors).items()}

    return run
