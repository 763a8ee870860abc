"""Stages as LiteRT (TensorFlow Lite) files, run by their signature: the order of inputs and outputs can be any."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from kerassplit.formats.savedmodel import SIGNATURE


def convert(saved_model: Path, target: Path) -> None:
    """Makes a LiteRT file of a SavedModel, with LiteRT's own operations only: no runtime brings TensorFlow's."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=[SIGNATURE])
    target.write_bytes(converter.convert())


def opened(path: Path) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """A function that runs an exported stage: arrays by name in, arrays by name out."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    runner = interpreter.get_signature_runner(SIGNATURE)  # makes room for as many samples as it is given

    def run(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.array(value) for name, value in runner(**tensors).items()}

    return run
