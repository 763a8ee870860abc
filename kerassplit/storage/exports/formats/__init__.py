"""Lists the formats to which stages can be exported, and the packages each needs.

In reading order:

- `naming`: names of inputs and outputs in exported files.
- `savedmodel`: TensorFlow SavedModels, from which the others are converted.
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
    """An export format. The module of the same name in this package writes and runs its stages.

    Attributes:
        name: Its name in the API.
        title: Its official spelling.
        suffix: Suffix of a stage's file; empty if a stage is a folder.
        extra: The extra that installs the packages: `pip install "kerassplit[extra]"`.
        to_write: Packages needed for exporting, by import name.
        to_run: Packages needed for running exported stages; the last one is the runtime itself.
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
"""Names of formats in `keras.Model.export`, where they differ."""
FORMAT_NAMES = (*FORMATS, *_NAMES_IN_KERAS)
"""All names that `find_format` knows."""


def find_format(name: object) -> Format:
    """Returns the format of this name, which may also be the one used by `keras.Model.export`.

    Raises:
        SplitError: There is no such format.
    """
    found = FORMATS.get(_NAMES_IN_KERAS.get(name, name)) if isinstance(name, str) else None
    if found is None:
        what = "Stages are not exported as 'torch'" if name == "torch" else f"There is no format {name!r}"
        raise SplitError(f"{what}; expected {listed(FORMAT_NAMES, 'or')}.")
    return found


def check_packages(form: Format, *, write: bool, run: bool) -> None:
    """Checks that the packages of a format are installed; imports nothing.

    Raises:
        SplitError: A package is missing. The message names it, and the extra that installs it.
    """
    missing = {name: None for name in (*(form.to_write * write), *(form.to_run * run)) if not _is_installed(name)}
    if not missing:
        return
    names = listed(distribution(name) for name in missing)
    what = "Exporting as" if write else "Running stages exported as"
    hint = ""
    if write and not any(name in missing for name in form.to_write):
        hint = " Only verification needs it: verify=False works without it."
    raise SplitError(
        f"{what} {form.title} needs {names}, which {'are' if len(missing) > 1 else 'is'} not installed. "
        f'Install everything with `pip install "kerassplit[{form.extra}]"`.{hint}'
    )


def distribution(package: str) -> str:
    """Returns the name under which a package is installed."""
    return package.replace("_", "-")


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
