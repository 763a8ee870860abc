"""Loads stages from a folder that `saving` wrote.

Stages are read one at a time. Each file is opened once; the bytes inspected and loaded are those hashed.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import keras

from kerassplit.cutting.sharing import tie
from kerassplit.cutting.stages import Stage, Stages
from kerassplit.errors import StoreError
from kerassplit.files.untrusted import hashed, opened, other_file
from kerassplit.graph.internals.loading import load_file
from kerassplit.graph.masks import MASKED, hands_masks_on
from kerassplit.graph.reading import read_graph
from kerassplit.storage.manifest import (
    COMPANION,
    MANIFEST,
    OWN_PREDICTION,
    described,
    preprocessor_of,
    read_manifest,
    unknown_fields,
)
from kerassplit.storage.structure import leaves
from kerassplit.text import listed
from kerassplit.zoo.model_file import check_archive
from kerassplit.zoo.user_code import import_what_the_parent_did, keras_reason, way_to_code

_OPENED_EARLY = 0 if os.name == "nt" else 100  # open files survive their removal; Windows would refuse to remove them
_ATTEMPTS = 10  # to load a folder that another process is overwriting
_REMEDY = "Copy it again from an intact one, or save the split again."
_LOAD = "call kerassplit.load inside `with keras.saving.custom_object_scope({objects}):`"


def load(
    directory: str | os.PathLike[str], stages: Sequence[int | str] | None = None, *, safe_mode: bool = True
) -> Stages:
    """Loads stages from a folder; see `kerassplit.load`.

    Raises:
        StoreError: See there; or the folder has a companion, which `load_with_companion` loads.
    """
    return _load(directory, stages, safe_mode, with_companion=False)[0]


def load_with_companion(
    directory: str | os.PathLike[str], stages: Sequence[int | str] | None = None, *, safe_mode: bool = True
) -> tuple[Stages, dict[str, Any], Any]:
    """Loads stages from a folder, its manifest, and the companion that was saved with them.

    Raises:
        StoreError: As for `load`; or there is no companion.
    """
    return _load(directory, stages, safe_mode, with_companion=True)


def _load(
    directory: str | os.PathLike[str], stages: Sequence[int | str] | None, safe_mode: bool, with_companion: bool
) -> tuple[Stages, dict[str, Any], Any]:
    import_what_the_parent_did()
    folder = Path(directory)
    for _ in range(_ATTEMPTS):
        manifest = read_manifest(folder)
        try:
            if with_companion != (COMPANION in manifest):
                raise _other_kind(folder, with_companion)
            companion = _read_companion(folder, manifest[COMPANION], safe_mode) if with_companion else None
            return _loaded(folder, manifest, stages, safe_mode), manifest, companion
        except StoreError:
            if read_manifest(folder) == manifest:
                raise
    raise StoreError(
        f"'{folder}' was overwritten {_ATTEMPTS} times while it was loaded. Load it again once nothing writes to it.",
        path=folder,
    )


def _other_kind(folder: Path, expected: bool) -> StoreError:
    if expected:
        text = f"'{folder}' holds no language model, but a split. Load it with `kerassplit.load(directory)`."
    else:
        text = f"'{folder}' holds a language model. Load it with `kerassplit.load_generation(directory)`."
    return StoreError(text, path=folder)


def _loaded(folder: Path, manifest: dict[str, Any], stages: Sequence[int | str] | None, safe_mode: bool) -> Stages:
    entries = manifest["stages"]
    chosen = [entries[place] for place in _places(entries, stages)]
    loaded = _load_stages(folder, chosen, safe_mode)
    try:
        return _assembled(manifest, chosen, loaded)
    except Exception as error:
        reason = str(error).rstrip(".")
        raise StoreError(
            f"The stages in '{folder}' do not connect as described in {MANIFEST}: {reason}. Save the split again.",
            path=folder,
        ) from error


def load_stage(folder: Path, manifest: Mapping[str, Any], name: str, *, safe_mode: bool) -> Stage:
    """Loads one stage, as described by a manifest read earlier.

    Raises:
        StoreError: The file is missing, or differs from the manifest.
    """
    import_what_the_parent_did()
    [entry] = (entry for entry in manifest["stages"] if entry["name"] == name)
    return _load_stages(folder, [entry], safe_mode)[0]


def _assembled(manifest: dict[str, Any], chosen: Sequence[dict[str, Any]], loaded: Sequence[Stage]) -> Stages:
    entries = manifest["stages"]
    stages = tie(loaded, manifest.get("shared", []))
    unknown = {"": unknown_fields(manifest), **{entry["name"]: unknown_fields(entry) for entry in chosen}}
    unknown = {name: fields for name, fields in unknown.items() if fields}
    if len(loaded) == len(entries):
        unused = tuple(described(spec) for spec in manifest.get("unused_inputs", []))
        return Stages(
            stages,
            manifest["inputs"],
            manifest["outputs"],
            manifest["model"],
            unused_inputs=unused,
            unknown=unknown,
            own_prediction=tuple(manifest.get(OWN_PREDICTION, [])),
            preprocessor=preprocessor_of(manifest),
        )
    inputs, outputs = _open_ends(entries, chosen, manifest["outputs"])
    name = "_".join([manifest["model"], *(one.name for one in stages)])
    preprocessor = preprocessor_of(manifest, leaves(inputs))
    return Stages(stages, inputs, outputs, name, unknown=unknown, preprocessor=preprocessor)


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


def _load_stages(folder: Path, entries: Sequence[dict[str, Any]], safe_mode: bool) -> list[Stage]:
    """Loads the stages one by one. Opens their files first: a process that overwrites the folder may remove them."""
    with contextlib.ExitStack() as early:
        files = [early.enter_context(open_stage(folder, entry)) for entry in entries[:_OPENED_EARLY]]
        loaded = [_load_stage(folder, entry, safe_mode, file) for entry, file in zip(entries, files, strict=False)]
        for entry in entries[_OPENED_EARLY:]:
            with open_stage(folder, entry) as file:
                loaded.append(_load_stage(folder, entry, safe_mode, file))
    return loaded


@contextlib.contextmanager
def open_stage(folder: Path, entry: Mapping[str, Any]) -> Iterator[BufferedReader]:
    """Opens the file of a stage.

    Raises:
        StoreError: It is missing, not a regular file, or unreadable.
    """
    path = folder / entry["file"]
    try:
        with opened(folder, entry["file"]) as file:
            yield file
    except FileNotFoundError as error:
        raise StoreError(
            f"The file of stage '{entry['name']}' is missing: {path}. Copy it there, or save the split again.",
            path=path,
        ) from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error}.", path=path) from error


def _load_stage(folder: Path, entry: dict[str, Any], safe_mode: bool, file: BufferedReader) -> Stage:
    with _checked(folder, entry, safe_mode, file) as stream:
        return _read_stage(stream, folder / entry["file"], entry, safe_mode)


def _read_companion(folder: Path, entry: dict[str, Any], safe_mode: bool) -> Any:
    entry = {"name": COMPANION, **entry}
    with open_stage(folder, entry) as file, _checked(folder, entry, safe_mode, file) as stream:
        return _load_model(stream, folder / entry["file"], entry, safe_mode)


@contextlib.contextmanager
def _checked(folder: Path, entry: Mapping[str, Any], safe_mode: bool, file: BufferedReader) -> Iterator[BufferedReader]:
    """Yields the content of a file that is the one that was saved, and in safe mode has been looked through."""
    path = folder / entry["file"]
    _check_size(file, path, entry)
    with hashed(file, path) as (stream, whole):
        if whole.sha256 != entry["sha256"]:
            raise other_file(path, "saved", MANIFEST, _REMEDY)
        if safe_mode:
            check_archive(stream, path)
        yield stream


def _check_size(file: BufferedReader, path: Path, entry: Mapping[str, Any]) -> None:
    size, expected = os.fstat(file.fileno()).st_size, entry.get("bytes")
    if expected is not None and size != expected:
        what = "cut off" if size < expected else "not the file that was saved"
        sizes = f"it has {size:,} bytes, and should have {expected:,} according to {MANIFEST}"
        raise StoreError(f"{path} is {what}: {sizes}. {_REMEDY}", path=path)


def _load_model(file: BinaryIO, path: Path, entry: Mapping[str, Any], safe_mode: bool) -> keras.Model:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", f"Layer '.*{MASKED}' .* does not support masking")
            model = load_file(file, safe_mode)
        if not isinstance(model, keras.Model):
            raise TypeError(f"it contains not a model, but an object of type {type(model).__name__}")
        return model
    except Exception as error:
        if safe_mode and "safe_mode" in str(error):
            raise StoreError(
                f"{path} contains code (a Lambda layer, for example) that would run with your permissions. If you "
                "trust its source, pass safe_mode=False.",
                path=path,
            ) from error
        raise _unloadable(path, entry, error) from error


def _unloadable(path: Path, entry: Mapping[str, Any], error: Exception) -> StoreError:
    return StoreError(
        f"Keras {keras.__version__} cannot load stage '{entry['name']}' from {path} (saved with the versions in "
        f"{MANIFEST}): {keras_reason(error)}{way_to_code(error, _LOAD)}",
        path=path,
    )


def _read_stage(file: BinaryIO, path: Path, entry: dict[str, Any], safe_mode: bool) -> Stage:
    model = _load_model(file, path, entry, safe_mode)
    try:
        model = hands_masks_on(model)
        sides = {"inputs": [model.inputs], "outputs": [model.outputs, read_graph(model).output_symbols()]}
    except Exception as error:
        raise _unloadable(path, entry, error) from error
    ends: dict[str, tuple[str, ...]] = {}
    for side, symbols in sides.items():
        ends[side] = tuple(spec["tensor"] for spec in entry[side])
        wanted = [(spec["shape"], spec["dtype"]) for spec in entry[side]]
        if wanted not in [[(list(x.shape), x.dtype) for x in some] for some in symbols]:
            raise StoreError(f"The {side} of {path} differ from those described in {MANIFEST}.", path=path)
    return Stage(entry["name"], model, ends["inputs"], ends["outputs"])


def _open_ends(
    entries: Sequence[dict[str, Any]], chosen: Sequence[dict[str, Any]], results: Any
) -> tuple[str | dict[str, str], str | dict[str, str]]:
    """Returns the inputs that some stages need from outside, and their outputs used elsewhere; dicts if several."""

    def names(some: Sequence[dict[str, Any]], side: str) -> list[str]:
        return list(dict.fromkeys(spec["tensor"] for entry in some for spec in entry[side]))

    others = [entry for entry in entries if entry not in chosen]
    wanted = {*names(others, "inputs"), *leaves(results)}
    made = names(chosen, "outputs")
    taken = [name for name in names(chosen, "inputs") if name not in made]
    given = [name for name in made if name in wanted]
    inputs, outputs = (some[0] if len(some) == 1 else {name: name for name in some} for some in (taken, given))
    return inputs, outputs
