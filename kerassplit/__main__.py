"""Runs the `kerassplit` command as `python -m kerassplit`."""

from kerassplit.cli import main

main(prog_name="kerassplit")
