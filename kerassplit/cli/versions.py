"""Implements `kerassplit --version`: the versions to include in a bug report, found without imports."""

import os
import platform
from collections.abc import Iterator
from importlib import metadata

import click

import kerassplit as ks

_PACKAGES = ("keras", "tensorflow", "jax", "torch", "ray")


def show_versions(context: click.Context, _: click.Parameter, asked: bool) -> None:
    """Prints the versions and ends the command (a click callback)."""
    if asked and not context.resilient_parsing:
        click.echo(f"kerassplit, version {ks.__version__}")
        click.echo(f"{', '.join(_installed())}; Python {platform.python_version()}, {platform.system()}")
        if backend := os.environ.get("KERAS_BACKEND"):
            click.echo(f"KERAS_BACKEND={backend}")
        context.exit()


def _installed() -> Iterator[str]:
    for package in _PACKAGES:
        try:
            yield f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue
