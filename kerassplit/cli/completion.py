"""Shell completion of models, layer names and folders, without Keras."""

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from kerassplit.cli.framework import GIVEN
from kerassplit.zoo.layer_names import layer_names
from kerassplit.zoo.names import FILE_SUFFIXES, architectures


def models(_context: click.Context, _parameter: click.Parameter, text: str) -> list[CompletionItem]:
    """Completes architectures and model files of this folder; any path if no architecture matches."""
    names = [name for name in architectures() if name.lower().startswith(text.lower())]
    if not names or "/" in text:
        return [CompletionItem(text, type="file")]
    files = sorted(path.name for path in Path().iterdir() if path.suffix in FILE_SUFFIXES)
    return [CompletionItem(name) for name in (*names, *(file for file in files if file.startswith(text)))]


def cuts(context: click.Context, _parameter: click.Parameter, text: str) -> list[CompletionItem]:
    """Completes tensors of the model after the last comma, if the model is a `.keras` file."""
    before, comma, begun = text.rpartition(",")
    file = next((word for word in context.meta[GIVEN] if word.endswith(".keras")), "")
    return [CompletionItem(before + comma + name) for name in layer_names(file) if name.startswith(begun)]


def weights(_context: click.Context, _parameter: click.Parameter, text: str) -> list[CompletionItem]:
    """Completes values of `--weights`: keywords or files."""
    words = [word for word in ("imagenet", "random") if word.startswith(text)]
    return [CompletionItem(word) for word in words] or [CompletionItem(text, type="file")]


def preprocessing(_context: click.Context, _parameter: click.Parameter, text: str) -> list[CompletionItem]:
    """Completes architectures and `none`."""
    return [CompletionItem(name) for name in (*architectures(), "none") if name.lower().startswith(text.lower())]


def folders(_context: click.Context, _parameter: click.Parameter, text: str) -> list[CompletionItem]:
    """Completes folders."""
    return [CompletionItem(text, type="dir")]
