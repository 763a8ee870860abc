"""The command that changes a model."""

import ast
import dataclasses
import difflib
import inspect
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

import kerassplit as ks
from kerassplit.cli import completion, option
from kerassplit.cli.commands import main
from kerassplit.cli.framework import Show, command, note, start_keras, working
from kerassplit.cli.option import PATH, ModelOptions, check_written
from kerassplit.display.file_formats import check_format
from kerassplit.display.rich_table import right
from kerassplit.display.table import FittedTable
from kerassplit.display.units import format_shape
from kerassplit.errors import SplitError
from kerassplit.files.atomic_file import TEMPORARY, reason
from kerassplit.text import listed

if TYPE_CHECKING:
    import keras

_WHERE_AND_WHAT = re.compile(r"(.+?)=(?P<kind>[A-Za-z]\w*)(?::(?P<arguments>.*))?", re.DOTALL)


@dataclass(frozen=True)
class LayerOption:
    """A value of `--insert` or `--replace`, such as `conv*_relu=Dropout:rate=0.1`.

    Attributes:
        names: A name or glob.
        kind: Name of a class in `keras.layers`.
        arguments: Its arguments.
    """

    names: str
    kind: str
    arguments: dict[str, Any]

    def layer(self) -> "keras.Layer":
        """Makes the layer.

        Raises:
            SplitError: There is no such class, or it does not take these arguments.
        """
        import keras

        kind = getattr(keras.layers, self.kind, None)
        if not (isinstance(kind, type) and issubclass(kind, keras.Layer)):
            kinds = [(name, one) for name, one in vars(keras.layers).items() if isinstance(one, type)]
            there = [name for name, one in kinds if issubclass(one, keras.Layer)]
            close = listed(difflib.get_close_matches(self.kind, there, n=3), "or")
            hint = f"Did you mean {close}?" if close else "Expected the name of a class, such as Dropout or Dense."
            raise SplitError(f"keras.layers has no layer '{self.kind}'. {hint}")
        try:
            return kind(**self.arguments)
        except Exception as error:
            takes = [name for name in inspect.signature(kind).parameters if name != "kwargs"]
            raise SplitError(f"{self.kind} cannot be made: {error}\nIt takes {', '.join(takes)}.") from error


def _layer_option(text: str) -> LayerOption:
    found = _WHERE_AND_WHAT.fullmatch(text)
    if found is None:
        raise SplitError(f"'{text}' does not say where and what. Expected NAME=LAYER, such as conv1=Dropout:rate=0.1.")
    try:
        call = ast.parse(f"_({found['arguments'] or ''})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError
        arguments = [(str(one.arg), ast.literal_eval(one.value)) for one in call.keywords if one.arg]
        if len(dict(arguments)) < len(call.keywords):
            raise ValueError
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise SplitError(
            f"'{found['arguments']}' are no arguments for {found['kind']}. Expected KEY=VALUE, with commas between, "
            "each key once, text in quotes: \"filters=8,kernel_size=(3,3),activation='relu'\"."
        ) from error
    return LayerOption(found[1], found["kind"], dict(arguments))


def _layer_options(_context: click.Context, _parameter: click.Parameter, texts: Sequence[str]) -> list[LayerOption]:
    try:
        return [_layer_option(text) for text in texts]
    except SplitError as error:
        raise click.BadParameter(str(error)) from error


@dataclass(frozen=True)
class _Edits:
    """What to do, in this order."""

    shape: Any
    resize: str | None
    remove: tuple[str, ...]
    replace: list[LayerOption]
    insert: list[LayerOption]

    def check(self, options: ModelOptions, model: str) -> None:
        """Refuses what can be refused without Keras."""
        if not (self.shape or self.remove or self.replace or self.insert):
            raise SplitError("Say what to change: --insert, --replace, --remove or --input-shape.")
        if self.resize and not self.shape:
            raise SplitError("--resize is for the position embeddings of a model on another input: use --input-shape.")
        twice = [one.names for one in self.replace]
        if twice := [name for name in dict.fromkeys(twice) if twice.count(name) > 1]:
            raise SplitError(f"--replace names {listed(twice)} twice. Name it once.")
        names = [
            one for one in (self.remove, *([one.names for one in each] for each in (self.replace, self.insert))) if one
        ]
        # An edit can open nested models and bring new names, which later ones may use.
        options.check(model, tensors=names[0] if len(names) == 1 and not self.shape else ())

    def tried(self, structure: "keras.Model") -> None:
        """Refuses what only the model shows, on one that may have no weights yet."""
        from kerassplit.graph.internals.process_state import names_kept

        with names_kept():
            _quietly(lambda: self.edited(structure))

    def edited(self, model: "keras.Model") -> tuple["keras.Model", list[str]]:
        """Returns the edited model, and the names of the calls that were removed."""
        from kerassplit.graph.reading import read_graph
        from kerassplit.graph.references import resolve_calls

        removed = []
        if self.shape:
            model = ks.with_input_shape(model, self.shape, resize=self.resize)
        if self.remove:
            removed = [item.name for item in resolve_calls(read_graph(model), list(self.remove))]
            model = ks.remove(model, list(self.remove))
        if self.replace:
            model = ks.replace(model, {one.names: lambda _, one=one: one.layer() for one in self.replace})
        for one in self.insert:
            model = ks.insert(model, one.names, lambda _, one=one: one.layer())
        return model, removed


@main.command(short_help="Insert, replace or remove layers, or change the input; save the result.")
@click.argument("model", shell_complete=completion.models)
@click.option(
    "--remove", multiple=True, metavar="GLOB", shell_complete=completion.cuts, help="Layers to bypass (repeatable)."
)
@click.option(
    "--replace",
    multiple=True,
    callback=_layer_options,
    metavar="GLOB=LAYER",
    help="Layers to replace, and by what: \"*relu=Activation:activation='gelu'\" (repeatable).",
)
@click.option(
    "--insert",
    multiple=True,
    callback=_layer_options,
    metavar="GLOB=LAYER",
    help='Tensors after which to insert a layer: "conv*_out=SpatialDropout2D:rate=0.1" (repeatable).',
)
@click.option(
    "--resize",
    type=click.Choice(["bilinear", "bicubic", "nearest", "lanczos3", "lanczos5"]),
    help="With --input-shape: how to interpolate position embeddings.",
)
@click.option("-o", "--output", type=PATH, required=True, metavar="FILE", help="The .keras file to write.")
@option.overwrite
@option.of_edited_model
@command
def edit(
    show: Show,
    model: str,
    remove: tuple[str, ...],
    replace: list[LayerOption],
    insert: list[LayerOption],
    resize: str | None,
    output: Path,
    overwrite: bool,
    options: ModelOptions,
) -> dict[str, Any]:
    """Change MODEL and save the result; all else in it stays as it is, weights included.

    A LAYER is a class of keras.layers, with arguments if it needs any: Dense:units=5,activation='softmax'. First comes
    --input-shape, then --remove, --replace and --insert, whatever their order on the command line.
    """
    edits = _Edits(options.input_shape, resize, remove, replace, insert)
    options = dataclasses.replace(options, input_shape=None)
    check_format(output, ("keras",), "Models")
    edits.check(options, model)
    check_written([output], options.files(model), overwrite=overwrite)
    start_keras()
    from kerassplit.graph.internals.process_state import names_kept

    with names_kept():  # a trial, so that errors come before weights are loaded
        for one in (*replace, *insert):
            one.layer()
    built = options.load(model, check=edits.tried)
    with working("Editing"):
        (made, removed), told = _quietly(lambda: edits.edited(built))
    changed = _changed(made)
    show(_table(built, made))
    for what, names in (("Removed", removed), *((how.capitalize(), names) for how, names in changed.items())):
        if names:
            show(Text(f"{what} {len(names)}: {listed(names)}."))
    for text in told:
        note(f"Warning: {text}")
    with working(f"Writing {output}"):
        _save(made, output)
    show(Text(f"Saved {output}."))
    sides = {"before": _sides(built), "after": _sides(made)}
    return {"model": built.name, **sides, "removed": removed, **changed, "warnings": told, "file": str(output)}


def _quietly(do: Callable[[], Any]) -> tuple[Any, list[str]]:
    """Returns the result of a function, and its warnings."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = do()
    return result, [str(one.message) for one in told if issubclass(one.category, UserWarning)]


def _changed(model: "keras.Model") -> dict[str, list[str]]:
    """Returns the names of the layers that were replaced and inserted."""
    from kerassplit.editing.marks import mark_of
    from kerassplit.graph.reading import read_graph

    operations = dict.fromkeys(call.operation for call in read_graph(model).calls)
    return {how: [one.name for one in operations if mark_of(one) == how] for how in ("replaced", "inserted")}


def _sides(model: "keras.Model") -> dict[str, Any]:
    from kerassplit.graph.reading import read_graph

    graph = read_graph(model)
    inputs, outputs = (
        [{"name": graph.tensors[one].name, "shape": list(graph.tensors[one].symbol.shape)} for one in side]
        for side in (graph.flat_inputs(), graph.flat_outputs())
    )
    return {"inputs": inputs, "outputs": outputs, "layers": _layers(model), "params": model.count_params()}


def _layers(model: "keras.Model") -> int:
    """Returns the number of layers, inputs not counted: a Sequential model does not list its own."""
    from keras.layers import InputLayer

    return sum(not isinstance(layer, InputLayer) for layer in model.layers)


def _table(before: "keras.Model", after: "keras.Model") -> FittedTable:
    table = FittedTable(f"{before.name}, edited", "", right("before"), right("after"), whole=3)
    for what in ("inputs", "outputs"):
        sides = ("\n".join(format_shape(one.shape) for one in getattr(model, what)) for model in (before, after))
        table.add_row(what, *sides)
    table.add_row("layers", *(f"{_layers(model):,}" for model in (before, after)))
    table.add_row("parameters", *(f"{model.count_params():,}" for model in (before, after)))
    return table


def _save(model: "keras.Model", path: Path) -> None:
    """Writes a model file completely or not at all."""
    try:
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=path.parent) as folder:
            model.save(Path(folder) / "model.keras")
            os.replace(Path(folder) / "model.keras", path)
    except OSError as error:
        raise SplitError(f"'{path}' cannot be written: {reason(error)}.") from error
