"""Where exported stages go: a folder that appears whole or not at all, and replaces nothing but another export.

It is written beside its place. Where an export is overwritten, the new files come first, under names of their own, and
the manifest last, in one rename: until then the folder is the old export, from then on the new one.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from kerassplit.errors import StoreError
from kerassplit.exporting.manifest import EXPORT_MANIFEST, read_export


def check_export_target(target: Path, overwrite: bool) -> bool:
    """Whether a folder holds an export that is to be replaced.

    Raises:
        StoreError: It is a file, or holds something else, or overwriting was not asked for.
    """
    try:
        occupied = any(target.iterdir()) if target.is_dir() else target.exists()
    except (OSError, ValueError) as error:
        raise StoreError(f"Cannot write '{target}': {error}.", path=target) from error
    if occupied and not target.is_dir():
        raise StoreError(f"'{target}' is a file; expected a folder to write or one that does not exist.", path=target)
    if not occupied:
        return False
    if not (target / EXPORT_MANIFEST).is_file():
        raise StoreError(
            f"'{target}' is not empty and holds no exported stages, so it is never overwritten. Name another folder.",
            path=target,
        )
    if not overwrite:
        raise StoreError(
            f"'{target}' already holds exported stages. Name another folder, or pass overwrite=True to replace them.",
            path=target,
        )
    read_export(target)
    return True


@contextlib.contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """A folder beside the target; it is gone afterwards, unless the process is killed."""
    folder = target.with_name(f".kerassplit.{uuid.uuid4().hex}")
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        raise StoreError(f"Cannot write '{target}': {error}. What was there is as it was.", path=target) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_name(stem: str, suffix: str, taken_in: Path) -> str:
    """A name for a stage that is not yet taken in the folder."""
    name, number = f"{stem}{suffix}", 1
    while name == EXPORT_MANIFEST or (taken_in / name).exists():
        number += 1
        name = f"{stem}-{number}{suffix}"
    return name


def move_in(folder: Path, target: Path, replaced: bool) -> None:
    """Puts a complete export into its place."""
    old = _top_names(target) if replaced else []
    if not replaced and target != Path.cwd():  # a folder put in the place of this one would be another one
        os.replace(folder, target)
        return
    moved = []
    try:
        for path in sorted(folder.iterdir()):
            if path.name != EXPORT_MANIFEST:
                os.replace(path, target / path.name)
                moved.append(target / path.name)
        os.replace(folder / EXPORT_MANIFEST, target / EXPORT_MANIFEST)
    except OSError:
        _remove(moved)
        raise
    _remove([target / name for name in old])


def _top_names(target: Path) -> list[str]:
    """Files and folders of an export, without its manifest."""
    files = [file["path"] for stage in read_export(target)["stages"] for file in stage["files"]]
    return list(dict.fromkeys(path.split("/")[0] for path in files))


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
