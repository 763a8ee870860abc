"""The command that exports saved stages for other runtimes."""

from pathlib import Path
from typing import Any

import click
from rich.text import Text

import kerassplit as ks
from kerassplit.cli import completion, option
from kerassplit.cli.commands import input_from, load_split, main
from kerassplit.cli.framework import Show, command, note
from kerassplit.cli.option import PATH, check_input
from kerassplit.files.atomic_file import refuse_same
from kerassplit.storage.exports.formats import FORMAT_NAMES
from kerassplit.storage.exports.manifest import EXPORT_MANIFEST, check_export, files_of
from kerassplit.storage.manifest import read_manifest


@main.command(short_help="Export the stages of a saved split for another runtime.")
@click.argument("directory", type=PATH, metavar="DIR", shell_complete=completion.folders)
@click.option("--format", "format_name", type=click.Choice(FORMAT_NAMES), required=True, help="Format to write.")
@click.option("-o", "--output", type=PATH, required=True, metavar="OUT", help="Folder for the exported stages.")
@option.input_file(default=" Default: a photo for an architecture of keras.applications, random for other models.")
@option.exif
@click.option("--no-verify", is_flag=True, help="Do not run the exported stages.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="X",
    help="Largest difference to allow, relative to the largest number of its tensor. Default for float32: 0.0001.",
)
@click.option("--overwrite", is_flag=True, help="Replace the exported stages in OUT; no other folder is ever replaced.")
@option.seed
@option.open_sides
@option.unsafe
@option.import_code
@command
def export(
    show: Show,
    directory: Path,
    format_name: str,
    output: Path,
    input_file: Path | None,
    exif: bool,
    no_verify: bool,
    overwrite: bool,
    unsafe: bool,
    **options: Any,
) -> dict[str, Any]:
    """Export every stage of the split in DIR for another runtime, run it there, and report the largest difference.

    Inputs and outputs keep the names of their tensors; kerassplit-export.json describes how the stages connect. If the
    numbers differ by more than the tolerance, nothing is written, and the exit code is 1.
    """
    read_manifest(directory)
    check_input(input_file)
    if check_export(output, format_name, verify=not no_verify, overwrite=overwrite, x=input_file):
        replaced = [EXPORT_MANIFEST, *files_of(output)]
        refuse_same([output / name for name in replaced], [directory, input_file])
    stages = load_split(directory, unsafe=unsafe)
    x = input_from(input_file, stages.model, None, exif=exif)
    options |= {"verify": not no_verify, "overwrite": overwrite}
    try:
        receipt = stages.export(output, format=format_name, x=x, **options)
    except ks.VerificationError as error:
        failed: Any = error.receipt
        show(failed.__rich__())
        note("Error: the exported stages differ from the stages in Keras, so nothing was written.")
        return {**failed.to_dict(), "directory": None}
    show(receipt.__rich__())
    show(Text(f"Wrote {len(stages)} stages in {output}."))
    return receipt.to_dict()
