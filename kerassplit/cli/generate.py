"""The command that generates text with a saved language model."""

from pathlib import Path
from typing import Any

import click
from rich.text import Text

import kerassplit as ks
from kerassplit.cli import completion, option
from kerassplit.cli.commands import main
from kerassplit.cli.framework import Show, command, start_keras
from kerassplit.cli.option import PATH
from kerassplit.storage.manifest import read_manifest


@main.command(short_help="Generate text with a language model saved in stages.")
@click.argument("directory", type=PATH, metavar="DIR", shell_complete=completion.folders)
@click.option(
    "--prompt", "prompts", multiple=True, required=True, metavar="TEXT", help="Text to continue (repeatable)."
)
@click.option(
    "--max-length",
    type=click.IntRange(min=1),
    metavar="N",
    help="Largest number of tokens, the prompt included. Default: the model's sequence length.",
)
@option.unsafe
@option.import_code
@command
def generate(
    show: Show, directory: Path, prompts: tuple[str, ...], max_length: int | None, unsafe: bool
) -> dict[str, Any]:
    """Generate text with the language model in DIR, which `Generation.save` wrote.

    All stages run in this process, with the preprocessor and the sampler that were saved.
    """
    read_manifest(directory)
    start_keras()
    texts = ks.load_generation(directory, safe_mode=not unsafe).generate(list(prompts), max_length=max_length)
    for text in texts:
        show(Text(text))
    return {"prompts": list(prompts), "texts": list(texts)}
