"""Stages in OpenVINO's format: `.xml` with the graph, `.bin` with the weights."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np


def convert(saved_model: Path, target: Path) -> None:
    """Converts a SavedModel to OpenVINO, with full-precision weights (the default would be float16)."""
    import openvino

    openvino.save_model(openvino.convert_model(str(saved_model)), str(target), compress_to_fp16=False)


def opened(path: Path) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """Returns a function that runs an exported stage: arrays by name in, arrays by name out.

    It computes in float32: on some processors OpenVINO would choose bfloat16.
    """
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        results = compiled(dict(tensors))
        return {name: np.array(results[output]) for output in compiled.outputs for name in output.get_names()}

    return run
