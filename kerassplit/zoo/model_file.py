"""Checks the file of a stage before Keras reads it, since Keras trusts it more than it should.

`Split.save` writes uncompressed zip files with a config, metadata, weights and assets. A file with anything else is not
from there: a compressed member can be a bomb, the name of a member can point outside the folder it is unpacked in, and
links and external or virtual datasets in the weights read other files. Not every version of Keras since 3.13 refuses
all of these. For the config (`model_config.py`), Keras's safe mode mostly decides what may be deserialized.
"""

import io
import math
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from kerassplit.errors import StoreError
from kerassplit.files.untrusted import PartOfFile
from kerassplit.zoo.model_config import wrong_config

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MEMBERS = {_CONFIG, _WEIGHTS, "metadata.json"}
_ASSETS = "assets/"
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: signature, lengths of the name and the extra field


def check_archive(file: BinaryIO, path: Path) -> None:
    """Checks the open file of a stage.

    Raises:
        StoreError: It contains something that `Split.save` never writes.
    """
    try:
        reason = find_problem(file)
    except Exception as error:  # zipfile, json and h5py raise unrelated errors for invalid files
        raise StoreError(
            f"{path} was not written by Split.save: {type(error).__name__}: {error}. Save the split again.", path=path
        ) from error
    if reason:
        raise StoreError(
            f"{path} contains something that Split.save never writes: {reason}. Nothing was loaded. If you trust its "
            "source anyway, pass safe_mode=False.",
            path=path,
        )


def find_problem(file: BinaryIO) -> str | None:
    """Finds content of an open `.keras` file that Keras never writes, or `None`. Raises any error for other files."""
    with zipfile.ZipFile(file) as archive:
        reason = (
            _wrong_members(archive, file.seek(0, io.SEEK_END))
            or wrong_config(archive.read(_CONFIG))
            or _wrong_weights(_Member(file, archive.getinfo(_WEIGHTS)))
        )
    file.seek(0)
    return reason


def find_problem_in_h5(file: BinaryIO) -> str | None:
    """Finds content of an open `.h5` file that Keras never writes, or `None`. Raises any error for other files."""
    with h5py.File(file, "r") as content:
        config = content.attrs.get("model_config")
    text = config.encode() if isinstance(config, str) else config
    return (wrong_config(text) if isinstance(text, bytes) else None) or _wrong_weights(file, lists=True)


def _wrong_members(archive: zipfile.ZipFile, size: int) -> str | None:
    members = archive.infolist()
    names = [member.filename for member in members]
    for member, name in zip(members, names, strict=True):
        inside = name in _MEMBERS or (name.startswith(_ASSETS) and _stays_inside(name))
        if not inside:
            return f"the member {name!r}"
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            return f"the compressed member {name!r}"
        if member.flag_bits & 1:
            return f"the encrypted member {name!r}"
        if stat.S_ISLNK(member.external_attr >> 16):
            return f"the link {name!r}"
    if len({name.casefold() for name in names}) < len(names):
        return "several members with the same name"
    if sum(member.file_size for member in members) > size:
        return "members that overlap"
    return None


def _stays_inside(name: str) -> bool:
    parts = name.removesuffix("/").split("/")
    return all(part not in ("", ".", "..") and not set(part) & set("\\:\0") for part in parts)


def _wrong_weights(stream: BinaryIO | io.RawIOBase, lists: bool = False) -> str | None:
    """Finds content other than numbers in HDF5, or `None`; `lists` allows layer names, as in the older format."""
    with h5py.File(stream, "r") as weights:
        groups, seen = [weights["/"]], set()
        while groups:
            group = groups.pop()
            address = h5py.h5o.get_info(group.id).addr
            if address in seen:
                continue
            seen.add(address)
            for name, link in _links(group):
                if link is not h5py.HardLink:
                    return f"the {link.__name__} {name!r} in its weights"
                one = group[name]
                reason = None if lists else _wrong_attributes(one)
                if isinstance(one, h5py.Group):
                    groups.append(one)
                else:
                    reason = reason or _wrong_dataset(one)
                if reason:
                    return f"{reason} {one.name!r} in its weights"
    return None


def _links(group: h5py.Group) -> Iterator[tuple[str, type]]:
    for name in group:
        yield name, group.get(name, getclass=True, getlink=True)


def _wrong_dataset(dataset: Any) -> str | None:
    if not isinstance(dataset, h5py.Dataset):
        return "the type"
    layout = dataset.id.get_create_plist()  # checked first: HDF5 reads the shape of a virtual dataset from other files
    if layout.get_layout() == h5py.h5d.VIRTUAL:
        return "the virtual dataset"
    if layout.get_external_count():
        return "the external dataset"
    if layout.get_nfilters():
        return "the compressed dataset"
    if dataset.dtype.hasobject:  # a bomb if all elements point to the same large value
        return "the variable-length dataset"
    if math.prod(dataset.shape or (0,)) * dataset.dtype.itemsize > dataset.id.get_storage_size():
        return "the dataset that is larger than its stored data,"
    return None


def _wrong_attributes(one: Any) -> str | None:
    for number in range(h5py.h5a.get_num_attrs(one.id)):
        if h5py.h5a.open(one.id, index=number).get_space().get_simple_extent_npoints() > 1:
            return "the list of values at"
    return None


class _Member(PartOfFile):
    """An uncompressed zip member as a file; `ZipExtFile` would read from the start again to seek backwards."""

    def __init__(self, file: BinaryIO, member: zipfile.ZipInfo):
        super().__init__(member.file_size)
        file.seek(member.header_offset)
        signature, *lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        if signature != b"PK\3\4":
            raise zipfile.BadZipFile(f"no member begins at {member.header_offset}")
        self._file = file
        self._start = member.header_offset + _LOCAL_HEADER.size + sum(lengths)

    def bytes_at(self, place: int, count: int) -> bytes:
        self._file.seek(self._start + place)
        return self._file.read(count)
