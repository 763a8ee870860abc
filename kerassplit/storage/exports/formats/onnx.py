"""Stages as ONNX files: tf2onnx writes them, ONNX Runtime runs them."""

import gc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kerassplit.storage.exports.formats.savedmodel import SIGNATURE, input_infos
from kerassplit.text import listed

OPSET = 18
"""The newest opset that tf2onnx writes; ONNX Runtime 1.14 (2023) and later read it."""


def convert(saved_model: Path, target: Path) -> None:
    """Converts a SavedModel to ONNX."""
    import onnx
    import tensorflow as tf
    import tf2onnx

    loaded = tf.saved_model.load(str(saved_model))  # keep a reference: the signature does not keep its variables alive
    signature = loaded.signatures[SIGNATURE]
    specs = [
        tf.TensorSpec(tf.TensorShape(taken.tensor_shape), tf.as_dtype(taken.dtype), name)
        for name, taken in input_infos(saved_model).items()
    ]

    def compute(*values: Any) -> Any:
        return signature(**{str(spec.name): value for spec, value in zip(specs, values, strict=True)})

    # tf2onnx copies the model once for each of two dozen optimizations, in objects that only the garbage collector
    # frees. It runs too rarely for so few, large objects: ResNet50 took 7.5 GB, and takes 3.7 GB this way.
    gc.collect()
    gc.freeze()
    gc.collect()
    gc.set_threshold(700, 5, 2)
    function = tf.function(compute, autograph=False)
    handlers = {"Erfc": (_write_erfc, [])}
    made, _ = tf2onnx.convert.from_function(function, specs, opset=OPSET, custom_op_handlers=handlers)
    unknown = sorted(set(_unknown_to_onnx(made.graph)))
    if unknown:  # tf2onnx leaves them in the file, which then cannot be run
        raise NotImplementedError(f"tf2onnx cannot write TensorFlow's {listed(unknown)} in ONNX")
    for taken in made.graph.input:
        if taken.type.tensor_type.shape.dim and not taken.type.tensor_type.shape.dim[0].HasField("dim_value"):
            taken.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(made, str(target))


def _write_erfc(graph: Any, node: Any, _name: str, _arguments: Any) -> None:
    """Writes `erfc(x)`, which TensorFlow uses for GELU since 2.19, as `1 - erf(x)`: tf2onnx 1.17 lacks it."""
    import onnx

    (output,), (taken,) = node.output, node.input
    shape, dtype = graph.get_shape(output), graph.get_dtype(output)
    number = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    graph.remove_node(node.name)
    one = graph.make_const(f"{node.name}/one", np.array(1, number))
    erf = graph.make_node("Erf", [taken], name=f"{node.name}/erf", shapes=[shape], dtypes=[dtype])
    parts = [one.output[0], erf.output[0]]
    graph.make_node("Sub", parts, outputs=[output], name=node.name, shapes=[shape], dtypes=[dtype])


def _unknown_to_onnx(graph: Any) -> Iterator[str]:
    import onnx

    for node in graph.node:
        if not onnx.defs.has(node.op_type, node.domain):
            yield node.op_type
        for attribute in node.attribute:  # the bodies of loops and conditions
            for inner in (attribute.g, *attribute.graphs):
                yield from _unknown_to_onnx(inner)


def opened(path: Path) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """Returns a function that runs an exported stage: arrays by name in, arrays by name out."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]

    def run(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, dict(tensors)), strict=True))

    return run
