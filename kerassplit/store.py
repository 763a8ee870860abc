"""A split on disk: one `.keras` file per stage, and `kerassplit.json` that says how they belong together.

A folder is written beside its place and renamed into it, so it is there whole or not at all. Where a split is
overwritten, the new files come first, under names of their own, and the manifest last, in one rename: until then the
folder is the old split, from then on the new one.

One stage at a time is written and read. A file is opened once: it is hashed, looked through and loaded through that.
"""

import os
import warnings
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import keras

from kerassplit import __version__
from kerassplit.archive import check_archive
from kerassplit.errors import StoreError
from kerassplit.folder import is_device_name, opened, sha256
from kerassplit.manifest import FORMAT_VERSION, MANIFEST, as_text, described, leaves, read_manifest, unknown_fields
from kerassplit.names import listed
from kerassplit.rebuild import MASKED, hands_masks_on, load_file
from kerassplit.scratch import check_place, placed
from kerassplit.sharing import shared_layers, tie
from kerassplit.stages import Split, Stage


def save(split: Split, directory: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Writes a split into a folder; see `Split.save`."""
    target = Path(directory).resolve()
    replaced = check_target(target, overwrite)
    _warn_of_shared_weights(split)
    with placed(target, MANIFEST, (lambda: _files_in(target)) if replaced else None) as folder:
        names = _file_names(split, target)
        for stage, name in zip(split, names, strict=True):
            _save_stage(stage, folder / name)
        (folder / MANIFEST).write_bytes(as_text(_manifest(split, folder, names)))


def load(
    directory: str | os.PathLike[str], stages: Sequence[int | str] | None = None, *, safe_mode: bool = True
) -> Split:
    """Loads a split, or some of its stages, from a folder that `Split.save` wrote.

    Neither the model nor the other stages are needed in order to load one. Nothing but `kerassplit.json` and the files
    of these stages is read, and none of them through a link.

    Args:
        directory: The folder.
        stages: Which stages to load, by number or name; by default all. A `Split` of some stages takes the tensors that
            they need and gives those that they make for others, by tensor name.
        safe_mode: Whether Keras refuses to run code that the files carry (such as Lambda layers), and kerassplit files
            with anything in them that `Split.save` never writes. Turn it off only for files that you trust.

    Returns:
        A `Split` whose `model` is the stages joined.

    Raises:
        StoreError: The folder, its manifest or a stage is missing, damaged or of a later version.

    Example:

    >>> ks.load("out", stages=["classifier"])[0].model.input.name
    'conv4_block6_out'
    """
    folder = Path(directory)
    manifest = read_manifest(folder)
    entries = manifest["stages"]
    chosen = [entries[place] for place in _places(entries, stages)]
    loaded = [_load_stage(folder, entry, safe_mode) for entry in chosen]
    try:
        return _assembled(manifest, chosen, loaded)
    except Exception as error:
        reason = str(error).rstrip(".")
        raise StoreError(
            f"The stages in '{folder}' do not go together as {MANIFEST} says: {reason}. Save the split again.",
            path=folder,
        ) from error


def _assembled(manifest: dict[str, Any], chosen: Sequence[dict[str, Any]], loaded: Sequence[Stage]) -> Split:
    entries = manifest["stages"]
    stages = tie(loaded, manifest.get("shared", []))
    unknown = {"": unknown_fields(manifest), **{entry["name"]: unknown_fields(entry) for entry in chosen}}
    unknown = {name: fields for name, fields in unknown.items() if fields}
    if len(loaded) == len(entries):
        unused = tuple(described(spec) for spec in manifest.get("unused_inputs", []))
        return Split(
            stages, manifest["inputs"], manifest["outputs"], manifest["model"], unused_inputs=unused, unknown=unknown
        )
    inputs, outputs = _open_ends(entries, chosen, manifest["outputs"])
    return Split(stages, inputs, outputs, "_".join([manifest["model"], *(one.name for one in stages)]), unknown=unknown)


def check_target(target: Path, overwrite: bool) -> bool:
    """Whether a folder holds a split that is to be replaced.

    Raises:
        StoreError: It is a file, or holds something else, or overwriting was not asked for.
    """
    return check_place(target, overwrite, MANIFEST, "a split", read_manifest)


def _files_in(folder: Path) -> list[str]:
    return [entry["file"] for entry in read_manifest(folder)["stages"]]


def _warn_of_shared_weights(split: Split) -> None:
    """In files of their own, the stages' copies of a shared layer no longer learn together."""
    shared = split.shared_variables
    if shared:
        warnings.warn(
            f"Several stages share {listed(shared)}. In the saved files each stage has its own copy: trained apart, "
            "they will no longer be equal. kerassplit.load ties those of shared layers again.",
            stacklevel=4,
        )


def _save_stage(stage: Stage, path: Path) -> None:
    try:
        stage.model.save(path)
    except OSError:
        raise
    except Exception as error:
        culprit = next((layer for layer in stage.model.layers if not _has_config(layer)), None)
        whose = (
            "" if culprit is None else f" The configuration of '{culprit.name}' ({type(culprit).__name__}) is at fault."
        )
        raise StoreError(
            f"Keras cannot save stage '{stage.name}': {type(error).__name__}: {error}.{whose} Mend `get_config` of "
            "that layer, or cut so that it stays inside a nested model which Keras can save whole.",
            path=path,
        ) from error


def _has_config(layer: keras.Layer) -> bool:
    try:
        keras.saving.serialize_keras_object(layer)
    except Exception:
        return False
    return True


def _file_names(split: Split, folder: Path) -> list[str]:
    """One file name per stage that is not yet taken in the folder."""
    names = []
    for stage in split:
        stem = f"_{stage.name}" if is_device_name(stage.name) else stage.name
        name, number = f"{stem}.keras", 1
        while os.path.lexists(folder / name) or name.lower() in map(str.lower, names):
            number += 1
            name = f"{stem}-{number}.keras"
        names.append(name)
    return names


def _manifest(split: Split, folder: Path, names: Sequence[str]) -> dict[str, Any]:
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
                "file": name,
                "bytes": (folder / name).stat().st_size,
                "sha256": _sha256(folder / name),
                "inputs": _specs(stage.inputs, stage.model.inputs),
                "outputs": _specs(stage.outputs, stage.model.outputs),
            }
            for stage, name in zip(split, names, strict=True)
        ],
        "shared": shared_layers(split),
        "versions": {"kerassplit": __version__, "keras": keras.__version__},
    }


def _specs(names: Sequence[str], symbols: Sequence[keras.KerasTensor]) -> list[dict[str, Any]]:
    return [
        {"tensor": name, "shape": list(symbol.shape), "dtype": symbol.dtype}
        for name, symbol in zip(names, symbols, strict=True)
    ]


def _places(entries: Sequence[dict[str, Any]], stages: Sequence[int | str] | None) -> list[int]:
    if stages is None:
        return list(range(len(entries)))
    names = [entry["name"] for entry in entries]
    wanted = [stages] if isinstance(stages, (int, str)) else list(stages)
    places = []
    for one in wanted:
        if one in names:
            places.append(names.index(one))
        elif isinstance(one, int) and -len(names) <= one < len(names):
            places.append(one % len(names))
        else:
            raise StoreError(
                f"The folder has no stage {one!r}. Its stages: {listed(names)}, numbered 0 to {len(names) - 1}.",
                path="",
            )
    if not places or len(set(places)) < len(places):
        raise StoreError(f"`stages` must name at least one stage, and each once; got {wanted!r}.", path="")
    return sorted(places)


def _load_stage(folder: Path, entry: dict[str, Any], safe_mode: bool) -> Stage:
    path = folder / entry["file"]
    try:
        with opened(folder, entry["file"]) as file:
            _check_whole(file, path, entry)
            if safe_mode:
                check_archive(file, path)
            return _read_stage(file, path, entry, safe_mode)
    except FileNotFoundError as error:
        raise StoreError(
            f"The file of stage '{entry['name']}' is missing: {path}. Copy it there, or save the split again.",
            path=path,
        ) from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error}.", path=path) from error


def _check_whole(file: BufferedReader, path: Path, entry: dict[str, Any]) -> None:
    size, expected = os.fstat(file.fileno()).st_size, entry.get("bytes")
    mend = "Copy it again from where it is whole, or save the split again."
    if expected is not None and size != expected:
        what = "cut off" if size < expected else "not the file that was saved"
        raise StoreError(
            f"{path} is {what}: it has {size:,} bytes, and was saved with {expected:,} according to {MANIFEST}. {mend}",
            path=path,
        )
    if sha256(file) != entry["sha256"]:
        raise StoreError(
            f"{path} is damaged or not the file that was saved: its SHA-256 differs from the one in {MANIFEST}. {mend}",
            path=path,
        )


def _read_stage(file: BufferedReader, path: Path, entry: dict[str, Any], safe_mode: bool) -> Stage:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", f"Layer '.*{MASKED}' .* does not support masking")
            model = load_file(file, safe_mode)
        if not isinstance(model, keras.Model):
            raise TypeError(f"it holds no model, but what is of type {type(model).__name__}")
        model = hands_masks_on(model)
        sides = {"inputs": list(model.inputs), "outputs": list(model.outputs)}
    except Exception as error:
        if safe_mode and "safe_mode" in str(error):
            raise StoreError(
                f"{path} brings code of its own (in a Lambda layer, say) that would run with all your rights. If you "
                "trust where it comes from, pass safe_mode=False.",
                path=path,
            ) from error
        raise StoreError(
            f"Keras {keras.__version__} cannot load stage '{entry['name']}' from {path} (saved with the versions in "
            f"{MANIFEST}): {_without_configs(str(error))}",
            path=path,
        ) from error
    ends: dict[str, tuple[str, ...]] = {}
    for side, symbols in sides.items():
        ends[side] = tuple(spec["tensor"] for spec in entry[side])
        if [(spec["shape"], spec["dtype"]) for spec in entry[side]] != [(list(x.shape), x.dtype) for x in symbols]:
            raise StoreError(f"The {side} of {path} are not those that {MANIFEST} describes.", path=path)
    return Stage(entry["name"], model, ends["inputs"], ends["outputs"])


def _without_configs(message: str) -> str:
    """Keras's message without its middle, where it quotes the whole config of a model."""
    return message if len(message) <= 2000 else f"{message[:1200]} [...] {message[-800:]}"


def _open_ends(
    entries: Sequence[dict[str, Any]], chosen: Sequence[dict[str, Any]], results: Any
) -> tuple[str | dict[str, str], str | dict[str, str]]:
    """What some of the stages take from outside, and give to others or as the model's outputs; by name if several."""

    def names(some: Sequence[dict[str, Any]], side: str) -> list[str]:
        return list(dict.fromkeys(spec["tensor"] for entry in some for spec in entry[side]))

    others = [entry for entry in entries if entry not in chosen]
    wanted = {*names(others, "inputs"), *leaves(results)}
    made = names(chosen, "outputs")
    taken = [name for name in names(chosen, "inputs") if name not in made]
    given = [name for name in made if name in wanted]
    inputs, outputs = (some[0] if len(some) == 1 else {name: name for name in some} for some in (taken, given))
    return inputs, outputs


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return sha256(file)
