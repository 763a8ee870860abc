"""Imports custom code that a saved model needs, and explains how to provide it if it is missing."""

import importlib
import importlib.util
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from kerassplit.errors import SplitError
from kerassplit.files.atomic_file import check_regular

VARIABLE = "KERASSPLIT_IMPORT"
"""Environment variable through which processes started by kerassplit (exports, Ray) import the same code."""

_LONGEST = 300  # characters of Keras's own message
_BUILT_IN = ("activations", "constraints", "initializers", "layers", "losses", "metrics", "ops", "optimizers")
_BUILT_IN += ("regularizers",)
_MISSING = re.compile(r"Could not locate (?:class|function) '([^']+)'|Unknown [\w ]+: '([^']+)'")


_GONE = re.compile(
    "(TF|Slicing)OpLambda|TensorFlowOpLayer|ClassMethod|Instance(Method|Property)|Add(Loss|Metric)|CuDNN(LSTM|GRU)|"
    "LocallyConnected[12]D|ThresholdedReLU|Random(Height|Width)|(Dense|Sequence)Features|SyncBatchNormalization|"
    "(BatchNormalization|LSTM|GRU)V[12]|Merge|Highway|MaxoutDense|TimeDistributedDense|AtrousConvolution[12]D|"
    "Deconvolution2D"
)
"""Built-in layers of Keras 1 or 2 that Keras 3 lacks."""


def import_code(sources: Sequence[str]) -> None:
    """Runs files and modules, and registers their definitions with Keras, here and in processes started from here.

    Layers, models and functions need not be registered by the user: they are found by name, unless Keras itself has
    something of that name. Imports also search a file's folder and the working folder, after everything else.

    Args:
        sources: Paths of Python files, and names of modules.

    Raises:
        SplitError: There is no such file or module, or it raises.
    """
    import keras  # not needed by `check_sources`

    known = keras.saving.get_custom_objects()
    given = []
    for source in sources:
        check_regular(source)
        is_file = source.endswith(".py") or Path(source).is_file()
        given.append(str(Path(source).resolve()) if is_file else source)
        module = _imported(source, Path(given[-1]) if is_file else None)
        for name, value in vars(module).items():
            if _is_defined_in(module, value) and not any(hasattr(getattr(keras, one), name) for one in _BUILT_IN):
                known.setdefault(keras.saving.get_registered_name(value), value)
                known.setdefault(name, value)  # for files written before it was registered
    if given:
        os.environ[VARIABLE] = os.pathsep.join(given)


def check_sources(sources: Sequence[str]) -> None:
    """Refuses missing Python files, before Keras is imported.

    Raises:
        SplitError: There is no such file.
    """
    for source in sources:
        check_regular(source)
        if source.endswith(".py") and not Path(source).exists():
            raise _missing_source("file", source)


def _missing_source(what: str, source: str) -> SplitError:
    return SplitError(
        f"There is no {what} '{source}' to import. Name a Python file, or a module that is installed or in this folder."
    )


def import_what_the_parent_did() -> None:
    """Imports the code named by the environment variable, which the parent process or the user has set."""
    import_code([source for source in os.environ.get(VARIABLE, "").split(os.pathsep) if source])


def keras_reason(error: BaseException) -> str:
    """Shortens an error of Keras to one line: the last error of a chain, without configs."""
    text = re.sub(r"\x1b\[\d*m", "", str(error)).rpartition("Exception encountered:")[2]
    text = " ".join(text.partition("Full object config:")[0].split()) or type(error).__name__
    if len(text) > _LONGEST:
        return f"{text[:_LONGEST]} ..."
    return text if text.endswith((".", "!", "?")) else f"{text}."


def gone_with_old_keras(error: BaseException, version: str) -> str | None:
    """Explains an error about a missing layer that was built into an old version of Keras; `None` for other errors."""
    name = _missing(error)
    if name is None or not _GONE.fullmatch(name) or not version.startswith(("1.", "2.")):
        return None
    converted = ""
    if name.startswith("CuDNN"):
        plain = name.removeprefix("CuDNN")
        converted = f" Its weights have another layout: in that version, load them into a model with {plain} first."
    return f"'{name}' is a built-in layer of Keras {version} that Keras 3 does not have.{converted}"


def _missing(error: BaseException) -> str | None:
    """Returns the class or function that Keras reports as missing."""
    found = [one or other for one, other in _MISSING.findall(str(error))]
    return found[-1] if found else None


def way_to_code(error: BaseException, loaded: str) -> str:
    """Explains how to load a model whose custom code Keras does not find; empty for other errors.

    Args:
        error: The error of Keras.
        loaded: How to load the model in Python; `{objects}` stands for the custom objects.
    """
    missing = _missing(error)
    if missing is None:
        return ""
    name = missing.rpartition(">")[2]
    registered = re.findall(rf"'registered_name': '((?:[^']*>)?{re.escape(name)})'", str(error))
    key = [missing, *registered][-1]
    return (
        f"\n'{name}' is custom code, which must be imported first: with --import FILE or MODULE, which runs it; "
        f"or in Python, {loaded.format(objects=f'{{{key!r}: {name}}}')}."
    )


def _imported(source: str, path: Path | None) -> ModuleType:
    folder = str(Path.cwd() if path is None else path.parent)
    if folder not in sys.path:
        sys.path.append(folder)  # at the end: a file must not shadow a module of the same name
    try:
        return importlib.import_module(source) if path is None else _run(path)
    except (Exception, SystemExit) as error:  # custom code may raise anything
        missing = isinstance(error, ModuleNotFoundError) and path is None and source.startswith(str(error.name))
        if missing or (isinstance(error, FileNotFoundError) and path is not None and not path.exists()):
            raise _missing_source("module" if missing else "file", source) from error
        text = " ".join(str(error).split())
        raise SplitError(f"'{source}' cannot be imported: {type(error).__name__}: {text}{_line_of(error)}") from error


def _line_of(error: BaseException) -> str:
    """Returns the last line of custom code in an error's traceback; empty for syntax errors, whose text contains it."""
    frames = [] if isinstance(error, SyntaxError) else traceback.extract_tb(error.__traceback__)
    frames = [
        one for one in frames if not one.filename.startswith("<") and not _is_in(one.filename, Path(__file__).parent)
    ]
    libraries = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    own = [one for one in frames if not any(_is_in(one.filename, Path(folder)) for folder in libraries)]
    last = [*frames[:1], *own][-1:]
    return "".join(f" ({one.filename}, line {one.lineno}: `{one.line}`)" for one in last)


def _is_in(file: str, folder: Path) -> bool:
    return folder.resolve() in Path(file).resolve().parents


def _run(path: Path) -> ModuleType:
    names = (path.stem, f"_imported_{path.stem}")
    for name in names:
        if getattr(sys.modules.get(name), "__file__", None) == str(path):
            return sys.modules[name]
    name = names[path.stem in sys.modules]
    spec: Any = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise ImportError("its name does not end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_defined_in(module: ModuleType, value: Any) -> bool:
    """Returns True for a function, or a class that Keras can save, defined in this module or package."""
    home = str(getattr(value, "__module__", None))
    inside = home == module.__name__ or home.startswith(f"{module.__name__}.")
    return inside and (hasattr(value, "from_config") if isinstance(value, type) else callable(value))
