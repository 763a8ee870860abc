"""Defines the command `kerassplit`; nothing here imports Keras before a command runs.

In reading order:

- `framework`: shared by all commands: output, errors, quiet import of Keras.
- `option`: options used by several commands, such as `@option.exif`.
- `device_options`: devices, links, and numbers with units.
- `completion`: shell completion.
- `tables`: output of commands, as tables and as JSON.
- `versions`: `kerassplit --version`.
- `demo`: `kerassplit demo`.
- `commands`: the main command, and commands that cut, verify and draw.
- `compare`: the command that finds where two models part.
- `edit`: the command that changes a model.
- `planning`: commands that measure and plan.
- `run`: the command that runs saved stages.
- `export`: the command that exports saved stages.
- `generate`: the command that generates text.
"""

from kerassplit.cli import (
    compare as _compare,  # noqa: F401
    edit as _edit,  # noqa: F401
    export as _export,  # noqa: F401
    generate as _generate,  # noqa: F401
    planning as _planning,  # noqa: F401 (these add their commands)
    run as _run,  # noqa: F401
)
from kerassplit.cli.commands import main

__all__ = ["main"]
