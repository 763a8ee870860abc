"""`python -m kerassplit` is the command `kerassplit`."""

from kerassplit.cli import main

main(prog_name="kerassplit")
