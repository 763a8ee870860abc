"""Saves a split as one `.keras` file per stage, and `kerassplit.json`, which describes how they connect.

A folder is written next to its destination and then renamed, so it appears complete or not at all. When a split is
overwritten, the new files are moved in first, under unused names, and the manifest last, in one rename: until then the
folder is the old split, from then on the new one.

A stage whose layers cannot be built again from their configs is saved by the config of the model that was cut
(`kerassplit.cutting.part_of_model`).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import keras

from kerassplit._version import __version__
from kerassplit.cutting.part_of_model import config_of, part_of_model, reads_back
from kerassplit.cutting.sharing import shared_layers
from kerassplit.cutting.stages import Stage, Stages
from kerassplit.errors import StoreError, UnsupportedModelError
from kerassplit.files.atomic_folder import placed, resolved
from kerassplit.files.untrusted import is_device_name, sha256
from kerassplit.graph.internals.layers import replaced_calls
from kerassplit.storage.manifest import (
    COMPANION,
    FORMAT_VERSION,
    MANIFEST,
    OWN_PREDICTION,
    as_text,
    check_target,
    read_manifest,
)
from kerassplit.storage.structure import described_ends, free_name
from kerassplit.text import listed, warn


def save(
    split: Stages,
    directory: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    tells_of_shared: bool = True,
    companion: keras.Model | None = None,
) -> None:
    """Writes a split into a folder; see `Split.save`.

    Args:
        split: The split.
        directory: The folder.
        overwrite: Allows replacing a folder that contains a split.
        tells_of_shared: Warns about weights shared by several stages, whose copies in separate files are no longer
            trained together.
        companion: A model to save beside the stages, which `load_with_companion` loads.
    """
    target = resolved(directory)
    replaced = check_target(target, overwrite)
    if tells_of_shared and (shared := split.shared_variables):
        warn(
            f"Several stages share {listed(shared)}. In the saved files each stage has its own copy: trained "
            "separately, they diverge. kerassplit.load ties the weights of shared layers again."
        )
    old = (lambda: _files_in(read_manifest(target))) if replaced else None
    config = cache(lambda: config_of(split.original))  # of the whole model, built once to compare it
    with placed(target, MANIFEST, old) as folder:
        names = _file_names(split, target)
        for stage, name in zip(split, names, strict=True):
            _save_stage(stage, folder / name, split.original, config)
        manifest = _manifest(split, folder, names)
        if companion is not None:
            name = free_name("task", ".keras", target, {name.lower() for name in names})
            companion.save(folder / name)
            manifest[COMPANION] = _described_file(folder, name)
        (folder / MANIFEST).write_bytes(as_text(manifest))


def _files_in(manifest: Mapping[str, Any]) -> list[str]:
    return [entry["file"] for entry in (*manifest["stages"], *filter(None, [manifest.get(COMPANION)]))]


def _save_stage(stage: Stage, path: Path, original: keras.Model | None, config: Callable[[], Any]) -> None:
    replaced = replaced_calls(stage.model)
    if replaced:
        raise StoreError(
            f"Stage '{stage.name}' cannot be saved: the `call` of {listed(replaced)} has been replaced, and a "
            "loaded file would use the one of its class. Define a layer class with that `call` instead.",
            path=path,
        )
    model, whole = stage.model, ""
    if original is not None and not reads_back(model):
        try:
            model = part_of_model(original, stage, config())
        except UnsupportedModelError as error:  # Keras may still be able to save it
            whole = f" Nor can it be built from the config of '{original.name}': {error}."
    try:
        model.save(path)
    except OSError:
        raise
    except Exception as error:
        culprit = next((layer for layer in stage.model.layers if not _has_config(layer)), None)
        whose = (
            "" if culprit is None else f" The configuration of '{culprit.name}' ({type(culprit).__name__}) is at fault."
        )
        raise StoreError(
            f"Keras cannot save stage '{stage.name}': {type(error).__name__}: {error}.{whose}{whole} Fix `get_config` "
            "of that layer, or cut so that it stays inside a nested model that Keras can save whole.",
            path=path,
        ) from error


def _has_config(layer: keras.Layer) -> bool:
    try:
        keras.saving.serialize_keras_object(layer)
    except Exception:
        return False
    return True


def _file_names(split: Stages, folder: Path) -> list[str]:
    """Returns one file name per stage, each unused in the folder."""
    names: list[str] = []
    for stage in split:
        stem = f"_{stage.name}" if is_device_name(stage.name) else stage.name
        names.append(free_name(stem, ".keras", folder, {name.lower() for name in names}))
    return names


def _manifest(split: Stages, folder: Path, names: Sequence[str]) -> dict[str, Any]:
    return {
        **split.unknown.get("", {}),
        "format_version": FORMAT_VERSION,
        "model": split.name,
        "inputs": split.inputs,
        "outputs": split.outputs,
        "unused_inputs": [{"tensor": one.name, "shape": one.shape, "dtype": one.dtype} for one in split.unused_inputs],
        "stages": [
            {
                **split.unknown.get(stage.name, {}),
                "name": stage.name,
                **_described_file(folder, name),
                "inputs": described_ends(stage.inputs, stage.model.inputs),
                "outputs": described_ends(stage.outputs, stage.model.outputs),
            }
            for stage, name in zip(split, names, strict=True)
        ],
        "shared": shared_layers(split),
        **({OWN_PREDICTION: own} if (own := split.own_methods_of_prediction()) else {}),
        **({} if split.preprocessor is None else {"preprocessor": split.preprocessor}),
        "versions": {"kerassplit": __version__, "keras": keras.__version__},
    }


def _described_file(folder: Path, name: str) -> dict[str, Any]:
    return {"file": name, "bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
