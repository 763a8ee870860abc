"""The command `kerassplit`. Nothing here imports Keras before a command runs: `--help` need not wait for it."""

from kerassplit.cli import costs as _costs  # noqa: F401 (adds its commands)
from kerassplit.cli import shipping as _shipping  # noqa: F401
from kerassplit.cli.commands import main

__all__ = ["main"]
