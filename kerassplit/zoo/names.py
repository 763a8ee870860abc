"""Distinguishes and checks names of architectures and model files, without Keras, whose import takes seconds."""

import difflib
import fnmatch
import importlib.util
import re
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from kerassplit.errors import SplitError, UnknownTensorError
from kerassplit.files.atomic_file import check_regular, status_of
from kerassplit.text import listed

FILE_SUFFIXES = (".keras", ".h5", ".hdf5")
_BUILDER = re.compile(r"^from \S+\.(\w+) import[\s(]+\w+ as ([A-Z]\w*)", re.MULTILINE)


@cache
def _modules() -> dict[str, str]:
    """Maps the name of each architecture to its module, as listed in Keras's own package."""
    spec = importlib.util.find_spec("keras")  # Keras itself is not imported
    listing = Path(spec.origin or "").parent / "applications" / "__init__.py" if spec else None
    if listing is None or not listing.is_file():
        return {}
    return {name: module for module, name in _BUILDER.findall(listing.read_text(encoding="utf-8"))}


def architectures() -> tuple[str, ...]:
    """Returns the names of all architectures in `keras.applications`, in alphabetical order.

    >>> "ResNet50" in architectures()
    True
    """
    return tuple(sorted(_modules()))


def find_architecture(name: str) -> str | None:
    """Returns the architecture that `name` refers to, or `None`.

    Case and punctuation are ignored, so a model's own name (`Model.name`) is found as well.

    >>> find_architecture("efficientnetv2-b0"), find_architecture("mobilenet_1.00_224"), find_architecture("LeNet")
    ('EfficientNetV2B0', 'MobileNet', None)
    """
    plain = _plain(re.sub(r"_\d\.\d+_\d+$", "", name))  # MobileNet names include width and image size
    return next((one for one in architectures() if _plain(one) == plain), None)


def may_hold_with_imagenet(architecture: str, error: SplitError) -> bool:
    """Returns True if an error about names in an architecture may not arise with ImageNet weights.

    With these, the first EfficientNets have one more layer, `rescaling_1`, so split points have other numbers.
    """
    if not (find_architecture(architecture) or "").startswith("EfficientNetB"):
        return False
    return not isinstance(error, UnknownTensorError) or fnmatch.fnmatchcase("rescaling_1", error.name)


def is_file_name(name: str | Path) -> bool:
    """Returns True if this names a model file, not an architecture."""
    if isinstance(name, str) and len(name) > 200:  # longer than any architecture, perhaps than any file name
        return True
    if name in architectures():  # a folder of the same name is written ./ResNet50
        return False
    if isinstance(name, Path) or name.endswith(FILE_SUFFIXES) or "/" in name or "\\" in name:
        return True
    return status_of(name) is not None


def check_model(
    name_or_file: str | Path, weights: str | Path | None = None, input_shape: Sequence[int | None] | None = None
) -> None:
    """Refuses what `load_model` cannot open, as far as names and files show; it describes the arguments.

    Raises:
        SplitError: There is no such file or architecture, or the arguments contradict each other.
    """
    if is_file_name(name_or_file):
        _check_file(Path(name_or_file), weights, input_shape)
    elif architectures():  # otherwise Keras is missing, which its import reports
        _check_architecture(str(name_or_file), input_shape)
    if weights not in (None, "imagenet", "random"):
        check_regular(weights)
        if not Path(weights).is_file():
            raise SplitError(f"Weights must be 'imagenet', 'random' or a file; there is no file '{weights}'.")


def _check_file(path: Path, weights: str | Path | None, input_shape: Sequence[int | None] | None) -> None:
    check_regular(path)
    if path.is_dir():
        raise SplitError(
            f"'{path}' is a folder; a model is a file. To open the stages of a split, use `kerassplit.load(folder)` "
            "or the commands `verify` and `plot`."
        )
    if not path.exists():
        raise SplitError(f"There is no file '{path}'.")
    if path.suffix not in FILE_SUFFIXES:
        raise SplitError(f"'{path}' is not a model file: its name must end in {listed(FILE_SUFFIXES, 'or')}.")
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise SplitError(f"'{path}' is damaged or not a Keras model: a .keras file is a zip archive, and this is not.")
    if input_shape is not None:
        raise SplitError(f"An input shape can be given only for an architecture; '{path}' has its own.")
    if weights == "imagenet":
        raise SplitError(f"ImageNet weights are for architectures of keras.applications; '{path}' has its own.")


def _check_architecture(name: str, input_shape: Sequence[int | None] | None) -> None:
    if find_architecture(name) is None:
        plain = {_plain(one): one for one in architectures()}
        matches = [plain[match] for match in difflib.get_close_matches(_plain(name), plain, n=3, cutoff=0.6)]
        families = {module: one for one, module in reversed(_modules().items())}.values()  # one of each
        hint = f"Did you mean {listed(matches, 'or')}?" if matches else f"There are {listed(sorted(families))}."
        raise SplitError(
            f"'{name}' is neither an architecture of keras.applications nor a file. {hint} "
            f"A file's name ends in {listed(FILE_SUFFIXES, 'or')}."
        )
    sides = None if input_shape is None else tuple(input_shape)
    if sides is not None and (
        len(sides) != 3 or any(not isinstance(side, int) or side < 1 for side in sides if side is not None)
    ):
        raise SplitError(
            f"An input shape is three positive numbers, height, width and channels, such as (224, 224, 3); got {sides}."
        )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
