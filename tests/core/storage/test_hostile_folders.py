"""Hostile folders and files: each is refused with a `StoreError`, and nothing else happens.

Their author knows the format: hashes, sizes and checksums are correct. An audit hook watches what Python opens,
imports and runs.
"""

import contextlib
import json
import os
import shutil
import sys
import tracemalloc
import zipfile
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import checkout
import h5py
import keras
import numpy as np
import pytest
from applications import NEEDS_STRINGS
from folders import MANIFEST, accept, as_version_1, chain_split, change, content, read, seal
from forgetful import WholeModel
from fuzzing import altered, damaged, fuzzed
from hypothesis import given, settings, strategies as st

import kerassplit as ks
from kerassplit.storage.exports.manifest import EXPORT_MANIFEST, read_export
from kerassplit.storage.manifest import checksum, read_manifest
from kerassplit.zoo.model_file import check_archive
from kerassplit.zoo.models import load_model

DANGEROUS = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "socket.bind"}
CHANGING = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}
SOURCES = [
    str(Path(file).parent) for file in (__file__, checkout.__file__, ks.__file__)
]  # JAX reads them for its tracebacks
LIBRARIES = [sys.prefix, sys.base_prefix, "/proc", "/sys", "/usr", *SOURCES]
watched: list[tuple[str, tuple]] | None = None


@sys.addaudithook
def _note(event, arguments):
    if watched is not None and (event == "open" or event in DANGEROUS | CHANGING):
        watched.append((event, arguments))


@contextmanager
def nothing_happens(folder):
    """Checks that only Python's own files are opened outside the folder, and nothing is run, written or removed."""
    global watched
    before = content(folder.parent)
    watched = []
    try:
        yield
    finally:
        seen, watched = watched, None
    for event, arguments in seen:
        assert event == "open", (event, arguments)
        path, mode, flags = arguments
        if isinstance(path, int):
            continue
        place = Path(os.fsdecode(path)).absolute()
        assert not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT), (path, mode)
        library = any(place.is_relative_to(one) for one in LIBRARIES)
        assert place.parent == folder.absolute() or library, path
    assert content(folder.parent) == before


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder that loads."""
    folder = tmp_path_factory.mktemp("good") / "out"
    chain_split().save(folder)
    with nothing_happens(folder):  # and what loading imports is imported now
        ks.load(folder)
    return folder


@pytest.fixture
def folder(good, tmp_path):
    """A copy with the same files next to it, which a path that leads out of the folder would find."""
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    shutil.copytree(good, tmp_path / "out")
    return tmp_path / "out"


def refused(folder, message, **options):
    with nothing_happens(folder), pytest.raises(ks.StoreError, match=message) as error:
        ks.load(folder, **options)
    assert error.value.path
    return str(error.value)


OUTSIDE = [
    "../stage_0.keras",
    "..",
    ".",
    "",
    "./stage_0.keras",
    "../out/stage_0.keras",
    "sub/stage_0.keras",
    "sub\\stage_0.keras",
    "..\\stage_0.keras",
    "/etc/passwd",
    "\\\\server\\share\\stage_0.keras",
    "C:stage_0.keras",
    "C:\\stage_0.keras",
    "stage_0.keras:stream.keras",
    "stage_0.keras::$DATA",
    "stage_0.keras\0.keras",
    "stage_0\n.keras",
    "stage_0.keras.",
    "stage_0.keras ",
    " stage_0.keras",
    ".stage_0.keras",
    "stage_?.keras",
    "stage_*.keras",
    "CON.keras",
    "nul.keras",
    "com1.x.keras",
    "LPT¹.keras",
    "stage_0.h5",
    "kerassplit.json",
    "hf://someone/model",
    "gs://bucket/stage_0.keras",
    "x" * 300 + ".keras",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_file_is_a_name_in_the_folder_on_every_system(folder, name):
    change(folder, lambda manifest: manifest["stages"][0].update(file=name))
    refused(folder, "stage 'stage_0' names the file .* which is not a `.keras` file in the folder itself")


def _absolute(manifest, folder):
    manifest["stages"][0]["file"] = str(folder / "stage_0.keras")


def _both(field, value):
    def how(manifest):
        for stage in manifest["stages"]:
            for spec in (*stage["inputs"], *stage["outputs"]):
                spec[field] = value

    return how


NONSENSE = {
    "the same file for two stages": (
        lambda manifest: manifest["stages"][1].update(file="stage_0.keras"),
        "two stages name the file 'stage_0.keras'",
    ),
    "the same file but for its case": (
        lambda manifest: manifest["stages"][1].update(file="STAGE_0.keras"),
        "two stages name the file 'STAGE_0.keras'",
    ),
    "one name, composed and decomposed": (
        lambda manifest: [
            stage.update(file=name)
            for stage, name in zip(manifest["stages"][:2], ("\u00e9.keras", "e\u0301.keras"), strict=True)
        ],
        "two stages name the file",
    ),
    "a file that is a number": (lambda manifest: manifest["stages"][0].update(file=3), r"stages\[0\].file is 3"),
    "a hash that is none": (
        lambda manifest: manifest["stages"][0].update(sha256="0"),
        "the SHA-256 of .* is not valid",
    ),
    "a hash in capitals": (
        lambda manifest: manifest["stages"][0].update(sha256=manifest["stages"][0]["sha256"].upper()),
        "the SHA-256 of stage 'stage_0' is not valid",
    ),
    "a negative size": (lambda manifest: manifest["stages"][0].update(bytes=-5), r"stages\[0\].bytes is -5"),
    "no size": (lambda manifest: manifest["stages"][0].pop("bytes"), "does not say how many bytes"),
    "a size that is true": (lambda manifest: manifest["stages"][0].update(bytes=True), r"stages\[0\].bytes is True"),
    "a size of a googol": (lambda manifest: manifest["stages"][0].update(bytes=10**100), "a number has 101 digits"),
    "another size": (
        lambda manifest: manifest["stages"][0].update(bytes=10**9),
        "is cut off: it has .* bytes, and should have",
    ),
    "a huge side": (_both("shape", [None, 10**30]), "'x' is not described"),
    "a negative side": (_both("shape", [None, -4]), r"shape\[1\] is -4"),
    "a side that is a float": (_both("shape", [None, 4.0]), r"shape\[1\] is 4.0"),
    "a thousand sides": (_both("shape", [1] * 1000), "'x' is not described"),
    "a dtype that is none": (_both("dtype", "float99"), "'x' is not described"),
    "a dtype that is a path": (_both("dtype", "../float32"), "'x' is not described"),
    "a tensor of two shapes": (
        lambda manifest: manifest["stages"][1]["inputs"][0].update(shape=[None, 5]),
        "'a' has two shapes or dtypes",
    ),
    "a tensor that is a list": (_both("tensor", ["x"]), r"tensor is \['x'\]"),
    "a stage named like a path": (
        lambda manifest: manifest["stages"][0].update(name="a/b"),
        "'a/b' is not a valid stage name",
    ),
    "a stage of a long name": (
        lambda manifest: manifest["stages"][0].update(name="/" * 10_000),
        r"'/+\.\.\. is not a valid stage name",
    ),
    "a model named like a path": (lambda manifest: manifest.update(model="../m"), "'model' is not a name"),
    "a model without a name": (lambda manifest: manifest.update(model=""), "'model' is not a name"),
    "shared layers of a stage that is none": (
        lambda manifest: manifest.update(shared=[{"zzz": "a", "stage_0": "a"}]),
        "'shared' does not name layers",
    ),
    "shared layers that are none": (
        lambda manifest: manifest.update(shared=[{"stage_0": "zzz", "stage_1": "b"}]),
        "has no layer 'zzz'",
    ),
    "shared layers as a text": (lambda manifest: manifest.update(shared="abc"), "shared is 'abc'"),
    "a preprocessor as a list": (lambda manifest: manifest.update(preprocessor=["x"]), r"preprocessor is \['x'\]"),
    "unused inputs as numbers": (lambda manifest: manifest.update(unused_inputs=[1]), r"unused_inputs\[0\] is 1"),
    "inputs in one another": (
        lambda manifest: manifest.update(inputs=json.loads("[" * 200 + '"x"' + "]" * 200)),
        "nested too deeply",
    ),
    "a version that is text": (lambda manifest: manifest.update(format_version="2"), "has format version '2'"),
    "a version of many digits": (lambda manifest: manifest.update(format_version=10**4000), "a number has 4001 digits"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_in_the_manifest_is_refused(folder, case):
    how, message = NONSENSE[case]
    change(folder, how)
    assert len(refused(folder, message)) < 1000


TEXTS = {
    "nothing": (b"", "cannot be read"),
    "zeros": (b"\0" * 4096, "cannot be read"),
    "no UTF-8": (b'{"format_version": 2, "model": "\xff"}', "cannot be read: .* can't decode"),
    "a byte order mark": (b'\xef\xbb\xbf{"format_version": 2}', "cannot be read: .*BOM"),
    "UTF-16": ('{"format_version": 2}'.encode("utf-16"), "cannot be read"),
    "half a character": (b'{"format_version": 2, "model": "\\ud800"}', "cannot be read: .*surrogates not allowed"),
    "a field twice": (b'{"format_version": 1, "format_version": 2}', "cannot be read: it repeats a field"),
    "not a number": (b'{"format_version": NaN}', "cannot be read: NaN is not a JSON number"),
    "infinity": (b'{"format_version": 1e999}', "cannot be read: 1e999 is not a JSON number"),
    "a number of a million digits": (b'{"format_version": ' + b"9" * 1_000_000 + b"}", "cannot be read: .* digits"),
    "lists in one another": (b"[" * 1_000_000, "cannot be read: it is nested too deeply"),
    "dicts in one another": (b'{"a":' * 1_000_000, "cannot be read: it is nested too deeply"),
    "text behind it": (b'{"format_version": 2} x', "cannot be read: Extra data"),
    "no dict": (b'"kerassplit"', "is not a manifest: it has no format_version"),
    "nothing in it": (b"{}", "is not a manifest: it has no format_version"),
    "no checksum": (b'{"format_version": 2}', "its checksum differs"),
    "a checksum that is a list": (b'{"format_version": 2, "checksum": []}', "its checksum differs"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_manifest_that_is_no_text_of_a_manifest_is_refused(folder, case):
    text, message = TEXTS[case]
    (folder / MANIFEST).write_bytes(text)
    refused(folder, message)


def test_a_manifest_larger_than_it_can_be_is_not_read(folder):
    with (folder / MANIFEST).open("wb") as file:
        file.truncate(2**40)  # a hole of a terabyte
    with (
        nothing_happens_to_large_files(),
        pytest.raises(ks.StoreError, match="has more than 8,388,608 bytes, the limit"),
    ):
        ks.load(folder)


@contextmanager
def nothing_happens_to_large_files():
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_the_version_cannot_be_turned_back_to_one_without_a_checksum(folder):
    manifest = read(folder)
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format_version": 1}))
    refused(folder, "its checksum differs")


def test_in_the_first_version_files_are_checked_as_well(folder):
    as_version_1(folder)
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"stage_0.keras"', '"../stage_0.keras"'))
    refused(folder, "names the file '../stage_0.keras', which is no")
    (folder / MANIFEST).write_text(text)
    (folder / "stage_1.keras").write_bytes((folder / "stage_1.keras").read_bytes()[:-1])
    refused(folder, "stage_1.keras is damaged or not the file that was saved")


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
@pytest.mark.parametrize("name", [MANIFEST, "stage_1.keras"])
def test_links_pipes_and_folders_are_no_files_of_the_folder(folder, name):
    path, outside = folder / name, folder.parent / name
    path.unlink()
    path.symlink_to(outside)
    refused(folder, f"{name} is a link, and links are not followed")
    path.unlink()
    path.symlink_to(folder.parent / "nowhere")
    refused(folder, f"{name} is a link")
    path.unlink()
    os.mkfifo(path)
    refused(folder, f"{name} is not a regular file")
    path.unlink()
    path.mkdir()
    refused(folder, f"{name} is not a regular file")


@pytest.mark.skipif(os.name == "nt", reason="links and devices of POSIX")
def test_the_user_s_own_folder_may_be_a_link(folder):
    (folder.parent / "link").symlink_to(folder)
    assert len(ks.load(folder.parent / "link")) == 3
    with pytest.raises(ks.StoreError, match="holds no split|cannot be read"):
        ks.load("/dev/null")
    with pytest.raises(ks.StoreError, match="cannot be read"):
        ks.load("nul\0byte")


def test_only_the_stages_that_are_asked_for_are_opened(folder):
    for name in ("stage_0.keras", "stage_2.keras"):
        (folder / name).write_bytes(b"hostile")
    with nothing_happens(folder):
        assert [stage.name for stage in ks.load(folder, stages=[1])] == ["stage_1"]


# What follows is about the stages' files.


def members(folder):
    with zipfile.ZipFile(folder / "stage_1.keras") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(folder, made, **options):
    """Rewrites the file of stage_1 with members in order, and updates the manifest."""
    with zipfile.ZipFile(folder / "stage_1.keras", "w", **options) as archive:
        for member, data in made:
            archive.writestr(member, data)
    accept(folder)


MEMBERS = [
    "../evil.txt",
    "/tmp/kerassplit-evil.txt",
    "assets/../../evil.txt",
    "assets/..\\..\\evil.txt",
    "assets//evil.txt",
    "assets/C:evil.txt",
    "C:/evil.txt",
    "model.weights.npz",
    "model.weights.json",
    "Config.json",
    "evil/",
    "assets2/evil.txt",
]


@pytest.mark.parametrize("name", MEMBERS)
def test_a_stage_s_file_has_no_member_that_keras_does_not_write(folder, name):
    pack(folder, [*members(folder).items(), (name, b"evil")])
    refused(
        folder, r"stage_1.keras contains something that Split.save never writes: the member '.*pass safe_mode=False"
    )


@pytest.mark.parametrize("name", ["model.weights.h5", "config.json", "assets/words.txt"])
def test_a_stage_s_file_is_no_bomb(folder, name):
    made = members(folder)
    packed = zipfile.ZipInfo(name)
    packed.compress_type = zipfile.ZIP_DEFLATED
    made.pop(name, None)
    pack(folder, [*made.items(), (packed, b"\0" * 50_000_000)])
    assert (folder / "stage_1.keras").stat().st_size < 100_000
    refused(folder, f"never writes: the compressed member '{name}'")


def test_a_stage_s_file_hides_nothing(folder):
    made = members(folder)
    link = zipfile.ZipInfo("assets/link")
    link.external_attr = 0o120777 << 16
    pack(folder, [*made.items(), (link, b"/etc/passwd")])
    refused(folder, "never writes: the link 'assets/link'")
    with pytest.warns(UserWarning, match="Duplicate name"):
        pack(folder, [*made.items(), ("config.json", b"{}")])
    refused(folder, "never writes: several members with the same name")
    pack(folder, [("config.json", made["config.json"]), ("metadata.json", made["metadata.json"])])
    refused(folder, "was not written by Split.save: .*'model.weights.h5'")
    pack(folder, [("model.weights.h5", made["model.weights.h5"])])
    refused(folder, "was not written by Split.save: .*'config.json'")
    for data in (b"", b"PK\5\6" + b"\0" * 18, b"PK\3\4" * 1000, b"\x89HDF\r\n\x1a\n", os.urandom(5000)):
        (folder / "stage_1.keras").write_bytes(data)
        accept(folder)
        refused(folder, "was not written by Split.save")


def test_members_do_not_overlap(folder):
    made = members(folder)
    names = [f"assets/{number}" for number in range(200)]
    pack(folder, [*made.items(), *((name, b"") for name in names), ("assets/large", b"x" * 100_000)])
    data = bytearray((folder / "stage_1.keras").read_bytes())
    with zipfile.ZipFile(folder / "stage_1.keras") as archive:
        large = archive.getinfo("assets/large")
    for name in names:  # each entry of the directory at the end gets the size and the place of the large one
        entry = data.rindex(name.encode() + b"PK\1\2") - 46
        data[entry + 16 : entry + 28] = np.array([large.CRC, 100_000, 100_000], "<u4").tobytes()
        data[entry + 42 : entry + 46] = np.array([large.header_offset], "<u4").tobytes()
    (folder / "stage_1.keras").write_bytes(data)
    accept(folder)
    refused(folder, "never writes: members that overlap|was not written by Split.save")


def configure(folder, how):
    """Changes the config in the file of stage_1."""
    made = members(folder)
    config = json.loads(made["config.json"])
    made["config.json"] = json.dumps(how(config) or config).encode()
    pack(folder, made.items())


def layer(**fields):
    """Replaces the config of stage_1's first Dense layer."""

    def how(config):
        dense = next(one for one in config["config"]["layers"] if one["class_name"] == "Dense")
        dense.update(fields)

    return how


def setting(**fields):
    """Changes a setting of the Dense layer."""

    def how(config):
        dense = next(one for one in config["config"]["layers"] if one["class_name"] == "Dense")
        dense["config"].update(fields)

    return how


def units_at_the_end(units):
    """Changes the size of the last Dense layer, which no other layer follows."""
    return lambda config: config["config"]["layers"][-1]["config"].update(units=units)


def function(module, name):
    return {"class_name": "function", "module": module, "config": name, "registered_name": name}


MARK = "kerassplit-was-here"
CODE = f"open({MARK!r}, 'w')"
LAMBDA = {"class_name": "__lambda__", "config": {"value": ["4wAAAAA=", None, None]}}
CONFIGS = {
    "a Lambda layer": (
        layer(class_name="Lambda", config={"name": "b", "function": LAMBDA}, build_config=None),
        "contains code|safe_mode",
    ),
    "a lambda": (setting(activation=LAMBDA), "contains code"),
    "eval": (setting(activation=function("builtins", "eval")), "cannot load stage 'stage_1'"),
    "os.system": (setting(activation=function("os", "system")), "cannot load stage 'stage_1'"),
    "a class of subprocess": (
        layer(module="subprocess", class_name="Popen", config={"args": ["touch", MARK]}),
        "cannot load stage 'stage_1'",
    ),
    "a module that is not there": (layer(module="keras.src.nowhere", class_name="Dense2"), "cannot load stage"),
    "a module that is no layer": (layer(module="keras.src.saving.saving_lib", class_name="os"), "cannot load stage"),
    "turning safety off": (
        setting(activation=function("keras.config", "enable_unsafe_deserialization")),
        "the function 'enable_unsafe_deserialization' of 'keras.config' in its config",
    ),
    "a download": (
        setting(activation=function("keras.utils", "get_file")),
        "the function 'get_file' of 'keras.utils' in its config",
    ),
    "another file": (
        setting(kernel_initializer=function("keras.saving", "load_model")),
        "the function 'load_model' of 'keras.saving' in its config",
    ),
    "a module of torch": (
        layer(module="keras.layers", class_name="TorchModuleWrapper", config={"module": "gASVAAAA", "name": "b"}),
        "cannot load stage|contains code",
    ),
    "no model": (
        lambda config: config["config"]["layers"][0],
        "it contains not a model, but an object of type InputLayer",
    ),
    "a layer": (lambda config: config["config"]["layers"][1], "cannot load stage"),
    "a number": (lambda config: 5, "cannot load stage"),
    "a list": (lambda config: [1, 2], "cannot load stage"),
    "no layers": (lambda config: config["config"].update(layers=[]), "cannot load stage"),
    "layers that are numbers": (lambda config: config["config"].update(layers=[1, 2]), "was not written by Split"),
    "layers in a circle": (
        lambda config: config["config"]["layers"][1].update(
            inbound_nodes=config["config"]["layers"][2]["inbound_nodes"]
        ),
        "calls in its config that depend on each other in a cycle, or on missing calls",
    ),
    "a call of what is not there": (
        lambda config: config["config"]["layers"][1].update(name="z"),
        "calls in its config that depend on each other in a cycle, or on missing calls",
    ),
    "another size": (setting(units=5), "cannot load stage|differ from those described"),
    "a size that does not fit the next layer": (setting(units=2**62), "cannot load stage"),
    "a size beyond all numbers": (
        units_at_the_end(2**62),
        r"asks for 9[0-9,]+ bytes of variables, but the file has",
    ),
    "a size beyond all memory": (
        units_at_the_end(2**40),
        "asks for [0-9,]{17,} bytes of variables, but the file has",
    ),
    "a size beyond the file": (
        units_at_the_end(2**20),
        "asks for [0-9,]{9,} bytes of variables, but the file has",
    ),
    "a negative size": (setting(units=-4), "cannot load stage"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_stage_s_config_makes_a_model_and_does_nothing_else(folder, case, monkeypatch):
    monkeypatch.chdir(folder)
    how, message = CONFIGS[case]
    configure(folder, how)
    refused(folder, message)
    assert not Path(MARK).exists()


@pytest.fixture(scope="module")
def good_part(tmp_path_factory):
    """A folder that loads, of stages that are built from the config of the whole model."""
    folder = tmp_path_factory.mktemp("part") / "out"
    ks.split(WholeModel(blocks="ab", name="whole"), ["forget_a", "b"]).save(folder)
    with nothing_happens(folder):
        ks.load(folder)
    return folder


def whole(**fields):
    """Changes arguments of the whole model of which stage_1 is a part."""
    return lambda config: config["config"]["model"]["config"].update(fields)


def of_part(**fields):
    """Changes the description of the part."""
    return lambda config: config["config"].update(fields)


def nested(times):
    """Puts parts of models into one another."""

    def how(config):
        for _ in range(times):
            config["config"]["model"] = json.loads(json.dumps(config))

    return how


def chain_with(**fields):
    """Replaces the whole model by a chain of Dense layers, and a setting of the last one."""

    def how(config):
        model = keras.saving.serialize_keras_object(chain_split(size=4).model)
        model["config"]["layers"][-1].update(fields)
        config["config"].update(model=model, inputs=[0], outputs=[4], names=list("abcd"))

    return how


PARTS = {
    "a tensor that is not there": (of_part(outputs=[99]), "names tensors that the model does not have, which has 9"),
    "a tensor counted from the end": (of_part(outputs=[-1]), "names tensors that the model does not have"),
    "a tensor that is true": (of_part(inputs=[True]), "'inputs' of a part of a model must be a list of int"),
    "a tensor twice": (of_part(outputs=[6, 6]), "names tensors that the model does not have"),
    "no tensors": (of_part(inputs=[], outputs=[]), "needs inputs, outputs, and names"),
    "tensors in the wrong order": (of_part(inputs=[6], outputs=[5]), "is another one|cannot load stage"),
    "names that are numbers": (of_part(names=[1, 2]), "'names' of a part of a model must be a list of str"),
    "a name that is a path": (of_part(names=["../b"] * 4), "names without '/'"),
    "too many names": (of_part(names=["b", "c"]), "is another one"),
    "a list of a googol": (of_part(frozen=[10**100, {}]), "'frozen' of a part of a model must be a list of int"),
    "no model": (of_part(model=None), "cannot load stage"),
    "a layer for a model": (of_part(model={"class_name": "Dense", "module": "keras.layers"}), "cannot load stage"),
    "a class of subprocess": (
        of_part(model={"module": "subprocess", "class_name": "Popen", "config": {"args": ["touch", MARK]}}),
        "cannot load stage",
    ),
    "a Lambda layer": (
        chain_with(class_name="Lambda", config={"name": "d", "function": LAMBDA}, build_config=None),
        "contains code|safe_mode",
    ),
    "a download": (
        chain_with(config={"name": "d", "units": 4, "activation": function("keras.utils", "get_file")}),
        "the function 'get_file' of 'keras.utils' in its config",
    ),
    "a size beyond all memory": (whole(units=2**31), "asks for [0-9,]{17,} bytes of variables, but the file has"),
    "a size beyond the file": (whole(units=2**11), "asks for [0-9,]{8,} bytes of variables, but the file has"),
    "states beyond all memory": (whole(state=True), "cannot load stage"),
    "a layer with states": (
        chain_with(class_name="GRU", config={"name": "d", "units": 2**40, "stateful": True}),
        "keeps state between batches|cannot load stage",
    ),
    "parts in parts": (nested(5), "cannot load stage"),
    "more parts in parts": (nested(9), "cannot load stage|nested more than"),
}


@pytest.mark.parametrize("case", PARTS)
def test_a_part_of_a_model_is_built_and_nothing_else_happens(good_part, tmp_path, case, monkeypatch):
    folder = tmp_path / "out"
    shutil.copytree(good_part, folder)
    monkeypatch.chdir(folder)
    how, message = PARTS[case]
    configure(folder, how)
    refused(folder, message)
    assert not Path(MARK).exists()


def test_the_whole_model_of_a_part_may_be_larger_than_the_file(tmp_path):
    large = WholeModel(units=2**9, blocks="abcd", name="whole")  # 4 MB, and the limit for a stage is 3 MB
    ks.split(large, "forget_a").save(tmp_path / "out")
    assert ks.load(tmp_path / "out", stages=[0])[0].model.count_params() == 2**18 + 2**9


@pytest.mark.parametrize("units", [2**62, 2**20])
def test_what_was_refused_is_not_made_later(folder, units):
    configure(folder, units_at_the_end(units))
    refused(folder, "bytes of variables")
    with keras.StatelessScope():  # makes at its end what was put off
        layer = keras.layers.Dense(2, name="layer")
        layer.build((None, 3))
    assert layer.kernel.shape == (3, 2)


@keras.saving.register_keras_serializable("kerassplit_tests")
class Doubling(keras.layers.Layer):
    """Creates a variable from a value, as custom layers do."""

    def build(self, input_shape):
        self.factor = keras.Variable(np.float32(2), name="factor")
        self.built = True

    def call(self, x):
        return x * self.factor


def test_a_layer_of_the_user_s_own_that_makes_variables_at_once_is_loaded(tmp_path):
    numbers = keras.Input((3,), name="numbers")
    hidden = keras.layers.Dense(3, name="hidden")(numbers)
    ks.split(keras.Model(numbers, Doubling(name="doubling")(hidden)), "hidden").save(tmp_path / "out")
    loaded = ks.load(tmp_path / "out")
    x = np.ones((2, 3), "float32")
    assert np.array_equal(loaded.predict(x), 2 * loaded[0].model.predict(x, verbose=0))


def test_a_stage_s_config_is_json(folder):
    made = members(folder)
    for text in (b"", b"{", b"\xff", b"[" * 200_000, b'{"a":' * 5000 + b"1" + b"}" * 5000):
        pack(folder, {**made, "config.json": text}.items())
        refused(folder, "was not written by Split.save|nested more than 1000 levels deep")


@NEEDS_STRINGS
def test_layers_that_read_other_files_are_refused(folder, tmp_path):
    (tmp_path / "secret.txt").write_text("a\nb\n")
    for how in (
        layer(class_name="StringLookup", config={"name": "b", "vocabulary": str(tmp_path / "secret.txt")}),
        layer(class_name="TextVectorization", config={"name": "b", "vocabulary": str(tmp_path / "secret.txt")}),
        layer(class_name="TFSMLayer", config={"name": "b", "filepath": str(tmp_path)}),
    ):
        shutil.copy(tmp_path / "stage_1.keras", folder)
        configure(folder, how)
        refused(folder, "cannot load stage|contains code")


# Model files that anyone may have written are looked through, too.


def recurrent(samples=77):
    """A recurrent layer that keeps its states, in a wrapper and outside, with batches of 77."""
    inputs = x = keras.Input(batch_shape=(samples, 3, 2), name="x")
    for name in ("one", "two"):
        x = keras.layers.LSTM(3, stateful=True, return_sequences=True, name=name)(x)
    x = keras.layers.Bidirectional(keras.layers.GRU(2, stateful=True), name="both")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="end")(x), name="recurrent")


def rewrite(path, how):
    """Changes the config in a model file."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = json.dumps(how(json.loads(file.attrs["model_config"])))
        return
    with zipfile.ZipFile(path) as archive:
        made = {name: archive.read(name) for name in archive.namelist()}
    made["config.json"] = json.dumps(how(json.loads(made["config.json"]))).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in made.items():
            archive.writestr(member, data)


def instead(old, new):
    """Replaces a number by another one wherever it occurs."""

    def how(value):
        if isinstance(value, dict):
            return {key: how(one) for key, one in value.items()}
        if isinstance(value, list):
            return [how(one) for one in value]
        return new if value == old and type(value) is int else value

    return how


BOTH = pytest.mark.parametrize("suffix", [".keras", ".h5"])


@BOTH
def test_the_states_of_recurrent_layers_are_counted_before_they_are_made(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"recurrent{suffix}"
    recurrent().save(path)
    assert load_model(path).name == "recurrent"
    rewrite(path, instead(77, 10**8))
    assert path.stat().st_size < 100_000
    wanted = f"{10**8 * (2 * 2 * 3 + 2 * 2) * 4:,}"
    with pytest.raises(ks.SplitError, match=f"asks for {wanted} bytes of states of recurrent layers, but the file"):
        load_model(path)
    rewrite(path, instead(10**8, 5 * 10**6))  # 320 MB, more than the 256 MiB that are made unasked
    with pytest.raises(ks.SplitError, match="set the environment variable KERASSPLIT_MOST_BYTES to that number"):
        load_model(path)
    monkeypatch.setenv("KERASSPLIT_MOST_BYTES", str(5 * 10**6 * 16 * 4))
    assert load_model(path).inputs[0].shape[0] == 5 * 10**6


@pytest.mark.filterwarnings("ignore:.*one batch of 77")
def test_the_states_of_a_stage_s_recurrent_layers_are_counted_before_they_are_made(tmp_path):
    ks.split(recurrent(), "two", names=["stage_0", "stage_1"]).save(tmp_path / "out")
    assert len(ks.load(tmp_path / "out")) == 2
    configure(tmp_path / "out", instead(77, 10**8))
    refused(tmp_path / "out", "asks for 1,600,000,000 bytes of states of recurrent layers, but the file has")


@BOTH
def test_a_model_file_asks_for_no_more_than_it_can_fill(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"model{suffix}"
    chain_split().model.save(path)
    assert [layer.name for layer in load_model(path).layers] == ["x", *"abcd"]

    def larger(config):
        config["config"]["layers"][-1]["config"]["units"] = 2**28
        return config

    rewrite(path, larger)
    with pytest.raises(ks.SplitError, match="cannot be opened .* asks for 5,368,709,[0-9]+ bytes of variables, but"):
        load_model(path)
    for text in ("many", "-1", "1e9", "9" * 40, ""):
        monkeypatch.setenv("KERASSPLIT_MOST_BYTES", text)
        with pytest.raises(ks.SplitError, match=r"variable KERASSPLIT_MOST_BYTES must be a whole number; got '"):
            load_model(path)


def doubled(times):
    """A model that calls a model twice, which calls a model twice, and so on, with the innermost calls."""
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, keras.layers.Dense(4, name="dense")(inputs), name="m0")
    for number in range(1, times + 1):
        inputs = keras.Input((4,), name="x")
        model = keras.Model(inputs, model(model(inputs)), name=f"m{number}")
    return model


def deeper(times):
    """Doubles the config of a model that was doubled twice more times."""

    def how(config):
        (at,) = (number for number, one in enumerate(config["config"]["layers"]) if one["class_name"] == "Functional")
        for number in range(times):
            config["name"], config["config"]["name"] = [f"m{number + 2}"] * 2
            outer = json.loads(json.dumps(config).replace("m1", "m" + str(number + 2)))
            outer["config"]["layers"][at] = {**outer["config"]["layers"][at], "config": config["config"]}
            config = outer
        return config

    return how


@BOTH
@pytest.mark.parametrize("times", [17, 100])
def test_nested_models_that_double_are_counted_before_they_are_opened(tmp_path, suffix, times):
    path = tmp_path / f"model{suffix}"
    doubled(2).save(path)
    assert load_model(path).name == "m2"
    rewrite(path, deeper(times))
    wanted = "524,288" if times == 17 else r"more than 10\*\*30"
    with pytest.raises(ks.SplitError, match=rf"a config of which it makes {wanted} calls, .* and the limit is 100,000"):
        load_model(path)


def test_the_nested_models_of_a_stage_are_counted_before_they_are_opened(tmp_path):
    inputs = keras.Input((4,), name="x")
    x = keras.layers.Dense(4, name="first")(inputs)
    ks.split(keras.Model(inputs, doubled(2)(x), name="whole"), "first", names=["stage_0", "stage_1"]).save(
        tmp_path / "out"
    )
    assert len(ks.load(tmp_path / "out")) == 2

    def how(config):
        (nest,) = (one for one in config["config"]["layers"] if one["class_name"] == "Functional")
        nest["config"] = deeper(17)({"name": "m2", "config": nest["config"]})["config"]

    configure(tmp_path / "out", how)
    refused(tmp_path / "out", "never writes: a config of which it makes 524,288 calls")


def test_nested_models_in_memory_are_counted_before_they_are_read(monkeypatch):
    model = doubled(7)
    assert len(ks.split_points(model)) == 127
    monkeypatch.setenv("KERASSPLIT_MOST_CALLS", "127")
    for work in (ks.split_points, ks.flatten, ks.profile, lambda model: ks.split(model, 3)):
        with pytest.raises(
            ks.UnsupportedModelError, match="'m7' cannot be read: it makes 128 calls, .*KERASSPLIT_MOST_C"
        ):
            work(model)
    monkeypatch.setenv("KERASSPLIT_MOST_CALLS", "128")
    assert len(ks.split_points(model)) == 127


@BOTH
def test_a_model_file_with_what_keras_never_writes_is_refused(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    chain_split().model.save(path)
    (tmp_path / "secret.h5").write_bytes(path.read_bytes())
    if suffix == ".h5":
        with h5py.File(path, "r+") as file:
            del file["model_weights/a"]
            file["model_weights/a"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "model_weights/a")
        message = "ExternalLink 'a' in its weights"
    else:
        with zipfile.ZipFile(path) as archive:
            made = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, data in made.items():
                archive.writestr(member, data)
        message = "the compressed member 'metadata.json'"
    with pytest.raises(
        ks.SplitError, match=f"contains something that Keras never writes: the .*{message[4:]}.*unsafe=True"
    ):
        load_model(path)
    if suffix == ".keras":
        assert load_model(path, unsafe=True).name == "chain"


def test_keras_s_safe_mode_is_on_whatever_the_process_has_told_keras(folder):
    configure(folder, setting(activation=LAMBDA))
    safe = keras.src.saving.serialization_lib.in_safe_mode()
    keras.config.enable_unsafe_deserialization()
    try:
        refused(folder, "contains code")
    finally:
        keras.src.backend.common.global_state.set_global_attribute("safe_mode_saving", safe)


def replaced(how):
    """Weights in which the kernel of the first Dense layer is replaced."""

    def apply(weights, folder):
        place = next(
            name for name in ("layers/dense/vars", "_layer_checkpoint_dependencies/dense/vars") if name in weights
        )
        del weights[place]["0"]
        how(weights[place], folder.parent)

    return apply


def _external(group, outside):
    (outside / "raw.bin").write_bytes(np.arange(16, dtype="float32").tobytes())
    group.create_dataset("0", (4, 4), "float32", external=[(str(outside / "raw.bin"), 0, 64)])


def _other_weights(outside):
    with h5py.File(outside / "other.h5", "w") as other:
        other["kernel"] = np.ones((4, 4), "float32")
    return outside / "other.h5"


def _external_link(group, outside):
    group["0"] = h5py.ExternalLink(str(_other_weights(outside)), "kernel")


def _virtual(group, outside):
    layout = h5py.VirtualLayout((4, 4), "float32")
    layout[:] = h5py.VirtualSource(str(_other_weights(outside)), "kernel", (4, 4))
    group.create_virtual_dataset("0", layout)


def _variable_length(group, outside):
    group.create_dataset("0", (4, 4), h5py.vlen_dtype(np.float32))


def _attribute(group, outside):
    group["0"] = np.ones((4, 4), "float32")
    group["0"].attrs["dtype"] = ["bfloat16"] * 100


WEIGHTS = {
    "an external file": (_external, "the external dataset"),
    "a link to another file": (_external_link, "the ExternalLink '0'"),
    "a link": (lambda group, _: group.__setitem__("0", h5py.SoftLink("/layers/dense/vars/1")), "the SoftLink '0'"),
    "a virtual dataset": (_virtual, "the virtual dataset"),
    "a compressed dataset": (
        lambda group, _: group.create_dataset("0", (4000, 4000), "float32", compression="gzip"),
        "the compressed dataset",
    ),
    "a shape beyond all memory": (
        lambda group, _: group.create_dataset("0", (2**20, 2**20), "float32", chunks=(4, 4), fillvalue=1),
        "the dataset that is larger than its stored data",
    ),
    "elements of variable length": (_variable_length, "the variable-length dataset"),
    "a type": (lambda group, _: group.__setitem__("0", np.dtype("float32")), "the type '.*/0'"),
    "a list in an attribute": (_attribute, "the list of values at"),
    "a group": (lambda group, _: group.create_group("0"), "cannot load stage"),
    "another shape": (lambda group, _: group.__setitem__("0", np.ones((4, 5), "float32")), "cannot load stage"),
    "nothing": (lambda group, _: None, "cannot load stage"),
}


def put(folder, how):
    """Changes the weights in the file of stage_1."""
    made = members(folder)
    stream = BytesIO(made["model.weights.h5"])
    with h5py.File(stream, "r+") as weights:
        how(weights, folder)
    made["model.weights.h5"] = stream.getvalue()
    pack(folder, made.items())


@pytest.mark.parametrize("case", WEIGHTS)
def test_a_stage_s_weights_are_numbers_in_its_own_file(folder, case):
    how, message = WEIGHTS[case]
    put(folder, replaced(how))
    refused(folder, message)


def test_groups_in_a_circle_are_walked_once(folder):
    put(folder, lambda weights, _: weights["layers"].__setitem__("round", weights["/"]))
    with nothing_happens(folder):
        assert len(ks.load(folder)) == 3


def test_files_that_are_trusted_are_not_looked_through(folder):
    made = members(folder)
    pack(folder, made.items(), compression=zipfile.ZIP_DEFLATED)
    refused(folder, "the compressed member")
    assert len(ks.load(folder, safe_mode=False)) == 3


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["x", "a", "c", "stage_0", "stage_0.keras", "../stage_0.keras", "float32", "/", "\0", 0, 2**64]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """Returns all places in nested lists and dicts."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*path, key)
        yield from places(one, (*path, key))


@st.composite
def manifests(draw, whole):
    """A manifest with one to three parts changed: removed, replaced, or copied from another place."""
    manifest = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(manifest)) or [()]))
        if not path:
            break
        *way, last = path
        around = manifest
        for key in way:
            around = around[key]
        what = draw(st.sampled_from(["other", "other", "copy", "none", "more"]))
        if what == "none":
            del around[last]
        elif what == "more" and isinstance(around, dict):
            around[draw(st.text(max_size=8))] = draw(JSON)
        elif what == "copy":
            other = manifest
            for key in draw(st.sampled_from(list(places(manifest)))):
                other = other[key]
            around[last] = json.loads(json.dumps(other))
        else:
            around[last] = draw(JSON)
    return manifest


def loads_or_is_refused(folder, **options):
    with nothing_happens(folder):
        try:
            split = ks.load(folder, **options)
        except ks.StoreError as error:
            assert len(str(error)) < 5000
        else:
            assert split.model.name == split.name


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_manifest_loads_or_is_refused(good, data):
    whole = read(good)
    try:
        seal(good, data.draw(manifests(whole)))
        loads_or_is_refused(good)
    finally:
        seal(good, whole)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=st.binary(max_size=200) | st.text(alphabet='{}[]":,0123456789enaulrtfs \\', max_size=200).map(str.encode))
def test_any_bytes_in_the_place_of_the_manifest_are_refused(good, text):
    whole = (good / MANIFEST).read_bytes()
    try:
        (good / MANIFEST).write_bytes(text)
        refused(good, MANIFEST)
    finally:
        (good / MANIFEST).write_bytes(whole)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(["model.weights.h5", "model.weights.h5", "config.json"]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=8),
)
def test_any_bytes_in_a_stage_s_weights_or_config_load_or_are_refused(good, name, changes):
    before = content(good)
    made = members(good)
    data = bytearray(made[name])
    for place, other in changes:
        start = int(place * len(data))
        data[start : start + len(other)] = other
    try:
        pack(good, {**made, name: bytes(data)}.items())
        loads_or_is_refused(good, stages=[1])
    finally:
        for one, whole in before.items():
            (good / one).write_bytes(whole)


# Each reader by itself, on many more inputs than can be loaded.

EXPORTED = {
    "format_version": 1,
    "format": "savedmodel",
    "model": "chain",
    "inputs": "x",
    "outputs": {"score": ["c", "d"]},
    "stages": [
        {
            "name": name,
            "path": name,
            "files": [
                {"path": f"{name}/{file}", "bytes": 7, "sha256": 64 * "a"}
                for file in ("saved_model.pb", "variables/variables.index")
            ],
            "inputs": [{"tensor": taken, "name": taken, "shape": [None, 4], "dtype": "float32"}],
            "outputs": [{"tensor": one, "name": one, "shape": [None, 4], "dtype": "float32"} for one in given],
        }
        for name, taken, given in (("head", "x", ["c"]), ("tail", "c", ["d"]))
    ],
    "versions": {"kerassplit": "0.1.0"},
}


def text_of(content):
    return json.dumps(content).encode("utf-8", "surrogatepass")


def read_or_refused(folder, name, text, reader):
    """Returns what a reader reads from a file, or `None` if it is refused in the promised way."""
    (folder / name).write_bytes(text)
    try:
        return reader(folder)
    except ks.StoreError as error:
        assert name in str(error)
        assert len(str(error)) < 5000
        return None


def in_the_folder(path):
    return (
        bool(path) and not Path(path).is_absolute() and not {"", ".", ".."} & set(path.split("/")) and "\\" not in path
    )


@fuzzed
@given(data=st.data(), sealed=st.booleans())
def test_any_manifest_is_read_or_refused(good, tmp_path_factory, data, sealed):
    manifest = data.draw(altered(read(good), {**read(good), "format_version": 1}))
    if sealed and isinstance(manifest, dict):
        manifest["checksum"] = checksum(manifest)
    found = read_or_refused(tmp_path_factory.getbasetemp(), MANIFEST, text_of(manifest), read_manifest)
    assert found is None or all(in_the_folder(stage["file"]) for stage in found["stages"])


@fuzzed
@given(data=st.data())
def test_any_damage_to_a_manifest_is_found(good, tmp_path_factory, data):
    whole = (good / MANIFEST).read_bytes()
    found = read_or_refused(tmp_path_factory.getbasetemp(), MANIFEST, data.draw(damaged(whole)), read_manifest)
    assert found in (None, read(good))  # only its layout is another one


@fuzzed
@given(altered(EXPORTED).map(text_of) | damaged(text_of(EXPORTED)))
def test_any_manifest_of_exported_stages_is_read_or_refused(tmp_path_factory, text):
    found = read_or_refused(tmp_path_factory.getbasetemp(), EXPORT_MANIFEST, text, read_export)
    if found is not None:
        files = [file for stage in found["stages"] for file in stage["files"]]
        assert all(in_the_folder(file["path"]) and file["bytes"] >= 0 for file in files)
        assert len({file["path"] for file in files}) == len(files)


@fuzzed
@given(data=st.data())
def test_any_config_in_a_stage_s_file_is_looked_through(good, data):
    made = members(good)
    text = data.draw(altered(json.loads(made["config.json"])).map(text_of) | damaged(made["config.json"]))
    looked_through({**made, "config.json": text})


@fuzzed
@given(data=st.data())
def test_any_file_of_a_stage_is_looked_through(good, data):
    whole = [(good / f"stage_{number}.keras").read_bytes() for number in range(2)]
    with contextlib.suppress(ks.StoreError):
        check_archive(BytesIO(data.draw(damaged(*whole))), good / "stage_1.keras")


def looked_through(made):
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for member, data in made.items():
            archive.writestr(member, data)
    with contextlib.suppress(ks.StoreError):
        check_archive(content, Path("stage_1.keras"))
