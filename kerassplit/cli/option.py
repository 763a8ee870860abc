"""Options used by several commands, and the checks that go with them."""

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kerassplit.cli import completion
from kerassplit.cli.framework import start_keras, working
from kerassplit.errors import SplitError
from kerassplit.files.atomic_file import refuse_same, status_of
from kerassplit.zoo.layer_names import check_names, check_opened
from kerassplit.zoo.names import check_model, is_file_name, may_hold_with_imagenet

if TYPE_CHECKING:
    import keras

    from kerassplit.graph.model_graph import Graph

PATH = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
UNSAFE = (
    "Open files that contain code. A model file can carry Python functions (in Lambda layers) that run with your "
    "permissions when it is opened, so do this only if you trust the source of the file."
)

import_code = click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="FILE|MODULE",
    help="Python file or module to import (and run) first, with custom layers and functions that the model needs "
    "(repeatable).",
)
"""Adds `--import`; `command` handles it."""


exif = click.option(
    "--exif/--no-exif", default=True, help="Rotate photos as their EXIF data says; Keras's own loader does not."
)


def input_file(use: str = "to compare on", default: str = " Default: random.") -> Callable[..., Any]:
    """Adds `--input`; `use` says what for, and `default` what is used without it."""
    text = f"Input {use}: a photo, a .npy file, or a .npz file with one array per input.{default}"
    return click.option("--input", "input_file", type=PATH, metavar="FILE", help=text)


def choice(name: str, choices: Sequence[str], text: str) -> Callable[..., Any]:
    """Adds an option with these values; the first is the default."""
    return click.option(name, type=click.Choice(choices), default=choices[0], help=text)


def parsed(parse: Callable[[Any], Any]) -> Callable[..., Any]:
    """Returns a callback that parses an option's value, if given; a `SplitError` becomes a usage error."""

    def callback(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        try:
            return None if value is None else parse(value)
        except SplitError as error:
            raise click.BadParameter(str(error)) from error

    return callback


overwrite = click.option("--overwrite", is_flag=True, help="Replace files that already exist.")
overwrite_split = click.option(
    "--overwrite", is_flag=True, help="Replace the split in DIR; no other folder is ever replaced."
)
unsafe = click.option("--unsafe", is_flag=True, help=UNSAFE)
seed = click.option("--seed", type=click.IntRange(min=0), default=0, metavar="N", help="Seed for all that is random.")


def check_written(paths: Iterable[Path], read: Iterable[Path | None], *, overwrite: bool) -> None:
    """Refuses to overwrite input files, or existing files unless `overwrite` is set.

    Raises:
        SplitError: A file is an input, already exists, or is in a folder that does not exist.
    """
    written = list(paths)
    refuse_same(written, read)
    for path in written:
        if not overwrite and status_of(path) is not None:
            raise SplitError(f"'{path}' exists already. Name another file, or pass --overwrite to replace it.")
        if not path.parent.is_dir():
            raise SplitError(f"'{path}' cannot be written: there is no folder '{path.parent}'. Create it first.")


def check_input(path: Path | None) -> None:
    """Checks that an input file exists.

    Raises:
        SplitError: It does not.
    """
    if path is not None and (status_of(path) is None or path.is_dir()):
        raise SplitError(f"There is no input file '{path}'.")


def gathered(kind: type, argument: str, *options: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a decorator that adds options to a command, and passes their values in one object.

    Args:
        kind: A dataclass with one field per option, of the same name.
        argument: Name of the command's parameter for the object.
        options: The options. `import_code` may be among them; `command` handles its value.
    """

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def with_options(**given: Any) -> Any:
            held = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
            return function(**{argument: held}, **given)

        for option in options:
            option(with_options)
        return with_options

    return decorated


@dataclass(frozen=True)
class ModelOptions:
    """Values of the options in `of_model`.

    Attributes:
        weights: `"imagenet"`, `"random"`, a file, or `None` if the option was omitted.
        input_shape: Shape of one sample, or those of inputs by name; or `None`.
        seed: Seed for random weights and random input.
        unsafe: Allows files to contain code.
        open: Composite layers to open, as for `trace`.
    """

    weights: str | None
    input_shape: Any
    seed: int
    unsafe: bool
    open: tuple[str, ...]

    def files(self, model: str) -> list[Path]:
        """Returns the files that `load` reads, which must not be overwritten."""
        return [Path(name) for name in (model, self.weights) if name is not None and is_file_name(name)]

    def check(self, model: str, cuts: Iterable[str] = (), tensors: Iterable[str] = (), *, globs: bool = True) -> None:
        """Refuses what `load`, or the use of these names, would refuse, as far as can be checked without Keras.

        Args:
            model: A file or an architecture.
            cuts: Values of `--at`.
            tensors: Names of single tensors.
            globs: Whether `tensors` may be globs.
        """
        check_model(model, self.weights, self.input_shape)
        if not model.endswith(".keras") or not is_file_name(model):
            return
        if self.open:  # adds names that are not in the file
            check_opened(model, self.open)
        else:
            check_names(model, cuts, tensors, globs=globs)

    def load(
        self, model: str, *, structure_only: bool = False, check: Callable[["keras.Model"], object] | None = None
    ) -> "keras.Model":
        """Loads the model; an architecture gets ImageNet weights unless only its structure is needed.

        Before an architecture gets weights, which may have to be downloaded, `check` is called with its structure.
        """
        start_keras()
        weights = self.weights
        if weights is None and not structure_only and not is_file_name(model):
            weights = "imagenet"
        if weights is not None and not is_file_name(model) and (check or self.open):
            try:
                structure = self._load(model, None)
                if check is not None:
                    check(structure)
            except SplitError as error:
                if weights != "imagenet" or not may_hold_with_imagenet(model, error):
                    raise
        return self._load(model, weights)

    def _load(self, model: str, weights: str | None) -> "keras.Model":
        from kerassplit.graph.tracing.trace import trace
        from kerassplit.zoo.models import load_model

        # Keras shows the download
        with contextlib.nullcontext() if weights == "imagenet" else working(f"Building {model}"):
            built = load_model(model, weights=weights, input_shape=self.input_shape, seed=self.seed, unsafe=self.unsafe)
        return trace(built, open=self.open) if self.open else built


def _shape(text: str) -> tuple[int | None, ...]:
    sides = [side.strip() for side in re.split(r"[,x×]", text.strip().strip("()"))]
    if not all(side == "?" or side.isdecimal() for side in sides):
        raise SplitError(f"{text!r} is not a shape; expected numbers such as 224,224,3.")
    return tuple(None if side == "?" else int(side) for side in sides)


def _shapes(texts: Sequence[str]) -> tuple[int | None, ...] | dict[str, tuple[int | None, ...]] | None:
    """Parses a shape, or those of named inputs, if there are any."""
    if not texts:
        return None
    named = [text.rpartition("=") for text in texts]
    names = [name for name, _, _ in named]
    if names == [""]:
        return _shape(texts[0])
    if "" in names or len({*names}) < len(names):
        raise SplitError("Several shapes need names of inputs, each once: left=96,96,3.")
    return {name: _shape(text) for name, _, text in named}


def _of_model(help_for_shape: str, several: bool = False) -> Callable[..., Any]:
    """Adds the options gathered in a `ModelOptions`, and `--import`; `several` inputs may get a shape."""
    return gathered(
        ModelOptions,
        "options",
        import_code,
        unsafe,
        seed,
        click.option(
            "--input-shape",
            multiple=several,
            callback=parsed(_shapes if several else _shape),
            metavar="[INPUT=]H,W,C" if several else "H,W,C",
            help=help_for_shape,
        ),
        click.option(
            "--open",
            multiple=True,
            metavar="GLOB",
            help="Open a composite layer first, so that it can be cut: encoder or encoder/block_* (repeatable).",
        ),
        click.option(
            "--weights",
            shell_complete=completion.weights,
            metavar="imagenet|random|FILE",
            help="Weights of the model. Default: a file's own; for an architecture, ImageNet weights (downloaded once) "
            "if numbers are computed, and none if only the structure matters.",
        ),
    )


_SHAPES = "such as 160,160,3 or 160x160x3; '?' for an unknown dimension"
of_model = _of_model(f"Input shape of an architecture, {_SHAPES}.")
of_edited_model = _of_model(
    f"Give the model another input shape, with the same weights, {_SHAPES}. Repeatable, for several inputs.", True
)


def cut(text: str, model: "keras.Model") -> int | str | list[str]:
    """Parses `--at`: the number of a split point, a tensor, or several separated by commas.

    Raises:
        SplitError: It is a number that is also the name of a tensor.
    """
    from kerassplit.graph.reading import read_graph

    graph = read_graph(model)
    if re.fullmatch(r"\+?-?\d+", text):
        if text[0] != "+" and _is_known(graph, text):
            raise SplitError(
                f"'{text}' is the name of a tensor, and could also be the number of a split point.\n"
                f"Write [{text[0]}]{text[1:]} for the name, and +{text} for the number."
            )
        return int(text.removeprefix("+"))
    names = _with_commas(graph, text.split(","))
    return names[0] if len(names) == 1 else names


def check_cuts(
    model: "keras.Model", at: Sequence[str], named: Iterable[str] = (), *, allow_crossing: bool = False
) -> None:
    """Refuses what `split` would refuse about the values of `--at`, and other names that the model does not know."""
    from kerassplit.cutting.cuts import resolve_cuts
    from kerassplit.graph.reading import read_graph
    from kerassplit.graph.references import resolve_glob
    from kerassplit.graph.sides import read_sides

    graph = read_graph(model)
    if at:
        resolve_cuts(read_sides(graph), [cut(one, model) for one in at], allow_crossing)
    for name in named:
        several = cut(name, model)
        for one in [several] if isinstance(several, str) else several if isinstance(several, list) else []:
            resolve_glob(graph, one)


def _with_commas(graph: "Graph", parts: Sequence[str]) -> list[str]:
    """Splits text into names the model knows; if names contain commas themselves, into the fewest."""
    best: list[list[str] | None] = [[]]  # of the first part, the first two, ...
    for end in range(1, len(parts) + 1):
        found = []
        for start, names in enumerate(best):
            name = ",".join(parts[start:end]).strip()
            if names is not None and _is_known(graph, name):
                found.append([*names, name])
        best.append(min(found, key=len, default=None))
    return best[-1] or [part.strip() for part in parts]


def _is_known(graph: "Graph", name: str) -> bool:
    from kerassplit.errors import AmbiguousTensorError, UnknownTensorError
    from kerassplit.graph.references import resolve_glob

    try:
        return bool(resolve_glob(graph, name))
    except AmbiguousTensorError:
        return True
    except UnknownTensorError:
        return False


at = click.option(
    "--at",
    shell_complete=completion.cuts,
    multiple=True,
    metavar="NAME",
    help="Where to cut: the name of a tensor, or the number of a split point from `points` (repeatable). "
    "Join tensors that cross together, or outputs to compute before the cut: NAME,NAME.",
)
allow_crossing = click.option(
    "--allow-crossing", is_flag=True, help="Allow cuts inside a branch, and pass on every tensor that crosses there."
)


names = click.option(
    "--names",
    callback=parsed(lambda text: [name.strip() for name in text.split(",")]),
    metavar="A,B,...",
    help="Stage names, in order: one more than the number of cuts.",
)
open_sides = click.option(
    "--open-sides",
    type=COUNT,
    metavar="N",
    help="Size to assume for unknown (None) dimensions of MODEL, in counts and in random input.",
)
