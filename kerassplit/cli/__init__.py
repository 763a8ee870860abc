"""Holds the command `kerassplit`; nothing here imports Keras before a command runs.

In reading order:

- `framework`: what all commands share: output, errors, Keras imported quietly.
- `options`: arguments and options of several commands.
- `device_options`: devices, links, and numbers with units.
- `completion`: what a shell completes.
- `tables`: what commands show, as tables and as JSON.
- `versions`: `kerassplit --version`.
- `demo`: `kerassplit demo`.
- `commands`: the command itself, and those that cut, check and draw.
- `planning`: commands that measure and plan.
- `run`: the command that runs saved stages.
- `export`: the command that exports them.
"""

from kerassplit.cli import (
    export as _export,  # noqa: F401
    planning as _planning,  # noqa: F401 (these add their commands)
    run as _run,  # noqa: F401
)
from kerassplit.cli.commands import main

__all__ = ["main"]
