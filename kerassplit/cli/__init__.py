"""The command `kerassplit`. Nothing here imports Keras before a command runs: `--help` need not wait for it."""

from kerassplit.cli import costs as _costs  # noqa: F401 (these add their commands)
from kerassplit.cli import engines as _engines  # noqa: F401
from kerassplit.cli import shipping as _shipping  # noqa: F401
from kerassplit.cli.commands import main

__all__ = ["main"]
