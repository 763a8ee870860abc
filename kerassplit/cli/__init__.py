"""The command `kerassplit`. Nothing here imports Keras before a command runs: `--help` need not wait for it."""

from kerassplit.cli.commands import main

__all__ = ["main"]
