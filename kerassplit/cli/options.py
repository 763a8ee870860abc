"""Arguments and options that several commands take."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from kerassplit.cli.running import working

if TYPE_CHECKING:
    import keras

UNSAFE = (
    "Open files that bring code. A model file can carry Python functions (in Lambda layers), and opening it runs them "
    "with all your rights; so this is refused unless you say that you trust where the file comes from."
)


@dataclass(frozen=True)
class ModelOptions:
    """What the options of `model_options` were.

    Attributes:
        weights: `"imagenet"`, `"random"`, a file, or `None` where the option was left out.
        input_shape: Of one sample, or `None`.
        seed: For random weights and random input.
        unsafe: Whether files may bring code.
    """

    weights: str | None
    input_shape: tuple[int | None, ...] | None
    seed: int
    unsafe: bool

    def load(self, model: str, *, structure_only: bool = False) -> "keras.Model":
        """The model. Left out, the weights of an architecture are ImageNet's, unless only its structure is needed."""
        from kerassplit.zoo import is_file_name, load_model

        weights = self.weights
        if weights is None and not structure_only and not is_file_name(model):
            weights = "imagenet"
        arguments = {"weights": weights, "input_shape": self.input_shape, "seed": self.seed, "unsafe": self.unsafe}
        if weights == "imagenet":
            return load_model(model, **arguments)  # Keras shows the download
        with working(f"Building {model}"):
            return load_model(model, **arguments)


def model_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--weights`, `--input-shape`, `--seed` and `--unsafe`; the function gets them as `options: ModelOptions`."""

    @functools.wraps(function)
    def with_options(
        weights: str | None, input_shape: tuple[int | None, ...] | None, seed: int, unsafe: bool, **rest: Any
    ) -> Any:
        return function(options=ModelOptions(weights, input_shape, seed, unsafe), **rest)

    for option in (
        click.option("--unsafe", is_flag=True, help=UNSAFE),
        click.option(
            "--seed", type=click.IntRange(min=0), default=0, metavar="N", help="For all that is random; by default 0."
        ),
        click.option(
            "--input-shape",
            type=_Shape(),
            metavar="H,W,C",
            help="Input of an architecture, such as 160,160,3 or 160x160x3; '?' for an open side.",
        ),
        click.option(
            "--weights",
            metavar="imagenet|random|FILE",
            help="Weights of the model. By default a file's own; those of an architecture are ImageNet's, downloaded "
            "once, where numbers are computed, and none where only the structure matters.",
        ),
    ):
        option(with_options)
    return with_options


def cut(text: str) -> int | str | list[str]:
    """What `--at` means: a number among the split points, a tensor, or several with commas between them."""
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    names = [name.strip() for name in text.split(",")]
    return names[0] if len(names) == 1 else names


at_option = click.option(
    "--at",
    multiple=True,
    metavar="NAME",
    help="Where to cut: a tensor, or the number of a split point as `points` prints it. Give it once for each cut. "
    "Several tensors that cross together, and outputs to be computed before the cut: NAME,NAME.",
)
allow_crossing_option = click.option(
    "--allow-crossing", is_flag=True, help="Cut inside a branch, too, and carry all the tensors that cross there."
)


def names_of_stages(_context: click.Context, _parameter: click.Parameter, value: str | None) -> list[str] | None:
    """Reads `--names`."""
    return None if value is None else [name.strip() for name in value.split(",")]


names_option = click.option(
    "--names", callback=names_of_stages, metavar="A,B,...", help="Names of the stages, in order: one more than cuts."
)
open_sides_option = click.option(
    "--open-sides", type=click.IntRange(min=1), metavar="N", help="What stands for the sides that MODEL leaves open."
)


class _Shape(click.ParamType):
    name = "shape"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int | None, ...]:
        if not isinstance(value, str):
            return value
        sides = [side.strip() for side in re.split(r"[,x×]", value.strip().strip("()"))]
        if not all(side == "?" or side.isdecimal() for side in sides):
            self.fail(f"{value!r} is no shape; expected numbers such as 224,224,3.", param, ctx)
        return tuple(None if side == "?" else int(side) for side in sides)
