"""Shared by all commands: imports Keras quietly, separates output from notes, and turns errors into messages."""

import contextlib
import functools
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any

import click
from rich.console import RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from kerassplit.display.rich_table import SafeConsole
from kerassplit.errors import SplitError, without_terminal_codes
from kerassplit.files.native_output import quiet_native_code
from kerassplit.files.saved import plain
from kerassplit.text import printable
from kerassplit.zoo.user_code import check_sources, import_code

Show = Callable[[RenderableType], None]
"""Function that prints a table or a line of text on standard output, unless JSON was requested."""

GIVEN = f"{__name__}.given"
"""Key under which a context keeps all words after the command: when completing an option, click drops the rest."""
_BACKENDS = ("tensorflow", "jax", "torch")
_TRACEBACK = "KERASSPLIT_TRACEBACK"
_FAILED_VERIFICATION, _BROKEN_PIPE, _INTERRUPTED = 1, 128 + 13, 128 + 2
_IN_OPTIONS = {
    "weights=FILE, --weights FILE": "--weights FILE",
    "allow_crossing=True": "--allow-crossing",
    "leave_out=True, --leave-out": "--leave-out",
    "max_crossing=2, --max-crossing 2": "--max-crossing 2",
    "overwrite=True": "--overwrite",
    "`preprocess` (--preprocess)": "--preprocess",
    "give an input as `x` to compare on": "give one to compare on with --input FILE",
    "Give an input as `x` to compare on": "Give one to compare on with --input FILE",
    "a larger `tolerance` or verify=False": "a larger --tolerance or --no-verify",
    "verify=False": "--no-verify",
    "Leave `output` out.": "In Python, `kerassplit.load(DIR).predict(x)` gives it without a file.",
    "resize='bilinear'": "--resize bilinear",
    "safe_mode=False": "--unsafe",
    "`kerassplit.replace`": "--replace",
    "in `open` matches": "in --open matches",
    "Arguments that `split` does not take are those of `kerassplit.plan`: pass the plan as `at`.": (
        "Options that `split` does not take are those of `kerassplit plan`: pass what it writes with --plan."
    ),
    "`kerassplit.split_points(model)` lists": "`kerassplit points MODEL` lists",
}


class Command(click.Command):
    """A command that explains how to pass a name that begins with a dash."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = ctx.meta[GIVEN] = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            arguments = [one.make_metavar(ctx) for one in self.params if isinstance(one, click.Argument)]
            if error.possibilities or not arguments:
                raise
            name = next((one for one in given if one.startswith(error.option_name)), error.option_name)
            usage = " ".join([ctx.command_path, "[OPTIONS]", *arguments[:-1], "--", name])
            message = f"{error.message} If you mean it as {arguments[-1]}, put `--` before it: {usage}"
            raise click.NoSuchOption(error.option_name, message, ctx=ctx) from error


class Failure(click.ClickException):
    """An error message on standard error, with exit code 2."""

    exit_code = 2


def command(function: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """Turns a function into the body of a command.

    The function receives a `Show` and the command's arguments, and returns the data for `--json`. It checks everything
    that can be checked without Keras, and then calls `start_keras`. If the entry `"ok"` is false, the exit code is 1.
    Meanwhile, the output of Keras goes to standard error.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print only JSON on standard output.")
    @functools.wraps(function)
    def run(as_json: bool, imports: tuple[str, ...] = (), **arguments: Any) -> None:
        stdout = sys.stdout
        reconfigure = getattr(stdout, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal or pipe that cannot encode × still gets the rest
        show = functools.partial(_show, stdout)
        with _errors_as_messages(stdout):
            check_sources(imports)
            with contextlib.redirect_stdout(sys.stderr):
                data = function((lambda _: None) if as_json else show, **arguments)
            if as_json:
                stdout.write(json.dumps(plain(data), indent=2) + "\n")
                stdout.flush()
        if not data.get("ok", True):
            sys.exit(_FAILED_VERIFICATION)

    return run


def start_keras() -> None:
    """Imports Keras, and then the code named by `--import`."""
    if "keras" not in sys.modules:
        _import_keras()
    imports = click.get_current_context().params.get("imports")
    if imports:
        import_code(imports)


def _import_keras() -> None:
    """Imports Keras without the output of its backend, which is shown only if the import fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow: errors only
    try:
        with quiet_native_code() as terminal, working("Starting Keras", terminal):
            import keras  # noqa: F401
    except ImportError as error:
        raise SplitError(f"Keras cannot be imported: {error}.{_backend_advice(error)}") from error


def _backend_advice(error: ImportError) -> str:
    """Returns advice for an import error of the backend; empty for other errors."""
    if error.name not in _BACKENDS:
        return ""
    installed = [name for name in _BACKENDS if name != error.name and importlib.util.find_spec(name)]
    if not installed:
        return " It needs a backend: `pip install tensorflow`, for example."
    one = installed[0]
    return f" Its backend is set to {error.name}, but {one} is installed. Set KERAS_BACKEND={one} to use it."


@contextlib.contextmanager
def working(what: str, terminal: IO[str] | None = None) -> Iterator[None]:
    """Shows on a terminal (by default standard error) what is being done, until the block ends."""
    console = SafeConsole(stderr=True) if terminal is None else SafeConsole(file=terminal)
    with Live(Spinner("dots", Text(f"{what} …")), console=console, transient=True, refresh_per_second=12):
        yield


def note(text: str) -> None:
    """Prints a line on standard error."""
    click.echo(printable(_in_options(text)), err=True)


def _in_options(message: str) -> str:
    """Rewrites a message of the library with command-line options in place of Python arguments."""
    message = re.sub(r"\w+=[^\s()]+ \((--[^()]+)\)", r"\1", message)
    for python, option in _IN_OPTIONS.items():
        message = message.replace(python, option)
    return message


def _show(stdout: Any, renderable: RenderableType) -> None:
    console = SafeConsole(file=stdout, highlight=False)
    with console.capture() as captured:  # otherwise rich would hit a broken pipe first
        console.print(renderable)
    text = "\n".join(line.rstrip() for line in captured.get().split("\n"))
    stdout.write(text)
    stdout.flush()


@contextlib.contextmanager
def _errors_as_messages(stdout: Any) -> Iterator[None]:
    try:
        yield
    except SplitError as error:
        raise Failure(_in_options(str(error))) from error
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`). Python would report it again when closing standard output.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        sys.exit(_BROKEN_PIPE)
    except KeyboardInterrupt:
        note("Interrupted.")
        sys.exit(_INTERRUPTED)
    except (click.exceptions.Exit, click.ClickException):
        raise
    except Exception as error:
        if os.environ.get(_TRACEBACK):
            raise
        text = printable(" ".join(without_terminal_codes(str(error)).split()))
        short = f"{text[:500]} ..." if len(text) > 500 else text
        raise Failure(f"{type(error).__name__}: {short} (Set {_TRACEBACK}=1 for a traceback.)") from error
