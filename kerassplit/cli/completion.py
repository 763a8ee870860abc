"""What a shell offers to complete: models, layer names, folders; Keras is not asked."""

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from kerassplit.cli.framework import GIVEN
from kerassplit.zoo.layer_names import layer_names
from kerassplit.zoo.names import FILE_SUFFIXES, architectures


def models(_context: click.Context, _parameter: click.Parameter, text: str) -> list[CompletionItem]:
    """Architectures, and model files of this folder; any path where no architecture begins so."""
    names = [name for name in architectures() if name.lower().startswith(text.lower())]
    if not names or "/" in text:
        return [CompletionItem(text, type="file")]
    files = sorted(path.name for path in Path().iterdir() if path.suffix in FILE_SUFFIXES)
    return [CompletionItem(name) for name in (*names, *(file for file in files if file.startswith(text)))]


def cuts(context: click.Context, _parameter: click.Parameter, text: str) -> list[CompletionItem]:
    """Tensors of the model, where that is a `.keras` file, after the last comma."""
    before, comma, begun = text.rpartition(",")
    file = next((word for word in context.meta[GIVEN] if word.endswith(".keras")), "")
    return [CompletionItem(before + comma + name) for name in layer_names(file) if name.startswith(begun)]


def weights(_context: click.Context, _parameter: click.Parameter, text: str) -> list[CompletionItem]:
    """Words for weights, or files."""
    words = [word for word in ("imagenet", "random") if word.startswith(text)]
    return [CompletionItem(word) for word in words] or [CompletionItem(text, type="file")]


def preprocessing(_context: click.Context, _parameter: click.Parameter, text: str) -> list[CompletionItem]:
    """Architectures and `none`."""
    return [CompletionItem(name) for name in (*architectures(), "none") if name.lower().startswith(text.lower())]


def folders(_context: click.Context, _parameter: click.Parameter, text: str) -> list[CompletionItem]:
    """Folders."""
    return [CompletionItem(text, type="dir")]
