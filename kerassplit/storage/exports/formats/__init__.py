"""Names the formats stages can be exported to, and the packages each needs.

In reading order:

- `naming`: names of inputs and outputs in exported files.
- `savedmodel`: TensorFlow SavedModels, from which the others are made.
- `onnx`: ONNX.
- `litert`: LiteRT (TensorFlow Lite).
- `openvino`: OpenVINO.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kerassplit.errors import SplitError
from kerassplit.text import listed


@dataclass(frozen=True)
class Format:
    """One format. The module of this package that bears its name writes and runs stages.

    Attributes:
        name: As users write it.
        title: As its makers write it.
        suffix: Of a stage's file; empty where a stage is a folder.
        extra: What brings the packages: `pip install "kerassplit[extra]"`.
        to_write: The packages that exporting needs, by the names under which they are imported.
        to_run: Those that running exported stages needs; the last one is the runtime itself.
    """

    name: str
    title: str
    suffix: str
    extra: str
    to_write: tuple[str, ...]
    to_run: tuple[str, ...]


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        one.name: one
        for one in (
            Format("savedmodel", "SavedModel", "", "tensorflow", ("tensorflow",), ("tensorflow",)),
            Format("onnx", "ONNX", ".onnx", "onnx", ("tensorflow", "tf2onnx", "onnx"), ("onnxruntime",)),
            Format("litert", "LiteRT", ".tflite", "litert", ("tensorflow",), ("ai_edge_litert",)),
            Format("openvino", "OpenVINO", ".xml", "openvino", ("tensorflow", "openvino"), ("openvino",)),
        )
    }
)


_NAMES_IN_KERAS = {"tf_saved_model": "savedmodel"}
"""What `keras.Model.export` calls formats, where that differs."""


def find_format(name: object) -> Format:
    """The format of this name, or of what `keras.Model.export` calls it.

    Raises:
        SplitError: There is none.
    """
    found = FORMATS.get(_NAMES_IN_KERAS.get(name, name)) if isinstance(name, str) else None
    if found is None:
        what = "Stages are not exported as 'torch'" if name == "torch" else f"There is no format {name!r}"
        raise SplitError(f"{what}; expected {listed(FORMATS, 'or')}.")
    return found


def check_packages(form: Format, *, write: bool, run: bool) -> None:
    """Makes sure that what a format needs is installed; nothing is imported.

    Raises:
        SplitError: Something is missing. The message names it, and the extra that brings it.
    """
    missing = {name: None for name in (*(form.to_write * write), *(form.to_run * run)) if not _is_installed(name)}
    if not missing:
        return
    names = listed(distribution(name) for name in missing)
    what = "Exporting as" if write else "Running stages exported as"
    hint = ""
    if write and not any(name in missing for name in form.to_write):
        hint = " Only the comparison needs it: verify=False goes without."
    raise SplitError(
        f"{what} {form.title} needs {names}, which {'are' if len(missing) > 1 else 'is'} not installed. "
        f'`pip install "kerassplit[{form.extra}]"` brings all that it needs.{hint}'
    )


def distribution(package: str) -> str:
    """The name under which a package is installed."""
    return package.replace("_", "-")


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
