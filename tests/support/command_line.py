"""Runs the command line in this process."""

from click.testing import CliRunner

from kerassplit.cli import main


def run(*arguments: object, status: int = 0):
    """Runs a command in this process."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result
