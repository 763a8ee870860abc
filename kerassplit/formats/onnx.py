"""Stages as ONNX files: tf2onnx writes them, ONNX Runtime runs them."""

import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kerassplit.formats.savedmodel import SIGNATURE

OPSET = 18
"""The newest that tf2onnx writes; ONNX Runtime 1.14 (2023) and later read it."""


def convert(saved_model: Path, target: Path) -> None:
    """Makes an ONNX file of a SavedModel."""
    import onnx
    import tensorflow as tf
    import tf2onnx

    loaded = tf.saved_model.load(str(saved_model))  # to be kept: the signature does not keep its variables
    signature = loaded.signatures[SIGNATURE]
    specs = [tf.TensorSpec(spec.shape, spec.dtype, spec.name) for spec in signature.structured_input_signature[1].values()]

    def compute(*values: Any) -> Any:
        return signature(**{spec.name: value for spec, value in zip(specs, values, strict=True)})

    # tf2onnx copies the model once for each of two dozen optimisations, in objects that only the garbage collector
    # takes away. It runs too seldom for few objects as large as these: 7.5 GB for ResNet50, and so 3.7.
    gc.collect()
    gc.freeze()
    gc.collect()
    gc.set_threshold(700, 5, 2)
    made, _ = tf2onnx.convert.from_function(tf.function(compute, autograph=False), specs, opset=OPSET)
    for taken in made.graph.input:
        if taken.type.tensor_type.shape.dim and not taken.type.tensor_type.shape.dim[0].HasField("dim_value"):
            taken.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(made, str(target))


def opened(path: Path) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """A function that runs an exported stage: arrays by name in, arrays by name out."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]

    def run(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, dict(tensors)), strict=True))

    return run
