"""Models that need user code: messages when it is missing, and that each suggested solution works."""

import contextlib
import json
import os
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers

import kerassplit as ks
from kerassplit.cli import main
from kerassplit.zoo.models import load_model
from kerassplit.zoo.user_code import VARIABLE, import_code

CODE = """
import keras
import beside

class Bare(keras.layers.Layer):
    def call(self, x):
        return x * beside.FACTOR

    def compute_output_shape(self, shape):
        return shape

@keras.saving.register_keras_serializable("mine")
class Registered(Bare):
    pass

class Holder(keras.layers.Layer):
    def __init__(self, inner=None, **options):
        super().__init__(**options)
        self.inner = inner or Bare()

    def call(self, x):
        return self.inner(x)

    def get_config(self):
        return {**super().get_config(), "inner": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "inner": keras.saving.deserialize_keras_object(config["inner"])})

def thrice(x):
    return x * beside.FACTOR

@keras.saving.register_keras_serializable("mine")
def registered(x):
    return x * beside.FACTOR

def relu(x):
    raise RuntimeError("Keras's own is meant")
"""

KINDS = {
    "a layer": lambda code: code.Bare(name="own"),
    "a registered layer": lambda code: code.Registered(name="own"),
    "a layer in a layer": lambda code: code.Holder(name="own"),
    "a layer in a nested model": lambda code: keras.Sequential([keras.Input((3,)), code.Bare()], name="inner"),
    "a layer in a wrapper": lambda code: (
        lambda x: layers.Flatten()(layers.TimeDistributed(code.Bare())(layers.Reshape((3, 1))(x)))
    ),
    "a function": lambda code: layers.Activation(code.thrice, name="own"),
    "a registered function": lambda code: layers.Activation(code.registered, name="own"),
    "a Lambda of a function": lambda code: layers.Lambda(code.thrice, output_shape=(3,), name="own"),
}


@contextlib.contextmanager
def forgotten():
    """Undoes the imports inside, as if they had happened in another process."""
    known = keras.saving.get_custom_objects()
    before = dict(known), list(sys.path), set(sys.modules), os.environ.pop(VARIABLE, None)
    try:
        yield
    finally:
        known.clear()
        known.update(before[0])
        sys.path[:] = before[1]
        for name in set(sys.modules) - before[2]:
            if name in ("own_code", "beside"):
                del sys.modules[name]
        os.environ.pop(VARIABLE, None)


@pytest.fixture(autouse=True)
def alone():
    with forgotten():
        yield


@pytest.fixture
def code(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "beside.py").write_text("FACTOR = 3.0\n")
    path = tmp_path / "code" / "own_code.py"
    path.write_text(CODE)
    return path


def saved(code, path, make):
    """Saves a model with user code, and returns its output for ones."""
    with forgotten():
        import_code([str(code)])
        x = inputs = keras.Input((4,), name="x")
        x = layers.Dense(3, activation="relu", name="first")(x)
        x = make(sys.modules["own_code"])(x)
        model = keras.Model(inputs, layers.Dense(2, name="last")(x), name="own_model")
        model.save(path)
        return keras.ops.convert_to_numpy(model(np.ones((1, 4), "float32")))


def run(*arguments, status=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, (result.output, result.exception)
    return result


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_what_is_missing_is_named_and_an_import_finds_it(code, tmp_path, kind, suffix):
    path = tmp_path / f"model{suffix}"
    expected = saved(code, path, KINDS[kind])
    message = run("points", path, status=2).stderr
    assert "config=" not in message
    assert "'config':" not in message
    first, second = message.splitlines()
    assert "cannot be opened as a Keras model: Could not locate " in first or "Unknown layer: " in first
    assert "is code of your own, which has to be imported first: with --import FILE or MODULE, which runs it" in second
    printed = run("points", path, "--import", code).stdout
    assert " first " in printed
    model = load_model(path)
    assert np.array_equal(keras.ops.convert_to_numpy(model(np.ones((1, 4), "float32"))), expected)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("kind", ["a layer", "a registered layer", "a function", "a registered function"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_the_way_out_in_python_works_as_it_is_written(code, tmp_path, kind, suffix):
    path = tmp_path / f"model{suffix}"
    expected = saved(code, path, KINDS[kind])
    with pytest.raises(ks.SplitError) as caught:
        load_model(path)
    written = str(caught.value).rpartition("in Python, ")[2].partition(" gives the model")[0]
    with forgotten():
        import_code([str(code)])
        own = vars(sys.modules["own_code"])
    model = eval(written, {"keras": keras, **own})
    assert np.array_equal(keras.ops.convert_to_numpy(model(np.ones((1, 4), "float32"))), expected)


def test_a_saved_split_says_the_same_and_every_command_takes_an_import(code, tmp_path):
    path, folder = tmp_path / "model.keras", tmp_path / "out"
    expected = saved(code, path, KINDS["a layer in a nested model"])
    option = ("--import", code)
    with forgotten():
        run("split", path, "--at", "first", "-o", folder, *option)
    message = run("verify", folder, status=2).stderr
    assert "Could not locate class 'Bare'." in message
    assert "with keras.saving.custom_object_scope({'Bare': Bare}):" in message
    with forgotten():
        import_code([str(code)])
        own = sys.modules["own_code"]
    with keras.saving.custom_object_scope({"Bare": own.Bare}):
        ks.load(folder)
    with forgotten():
        run("verify", folder, *option)
    with forgotten():
        run("plot", folder, "-o", tmp_path / "plot.txt", *option)
    np.save(tmp_path / "x.npy", np.ones((1, 4), "float32"))
    with forgotten():
        run("run", folder, "--input", tmp_path / "x.npy", "-o", tmp_path / "y.npy", "--quiet", *option)
    assert np.allclose(np.load(tmp_path / "y.npy"), expected)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports trace with TensorFlow")
def test_an_export_imports_it_in_its_own_processes_too(code, tmp_path):
    path, folder = tmp_path / "model.keras", tmp_path / "out"
    saved(code, path, KINDS["a layer"])
    option = ("--import", code)
    run("split", path, "--at", "first", "-o", folder, *option)
    assert (
        "Wrote 2 stages" in run("export", folder, "--format", "savedmodel", "-o", tmp_path / "exported", *option).stdout
    )


def test_a_layer_that_was_registered_since_is_found(code, tmp_path):
    path = tmp_path / "model.keras"
    saved(code, path, KINDS["a layer"])
    code.write_text(CODE.replace("class Bare", "@keras.saving.register_keras_serializable('mine')\nclass Bare"))
    assert " first " in run("points", path, "--import", code).stdout


def test_a_module_is_imported_by_its_name(code, tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    saved(code, path, KINDS["a layer"])
    monkeypatch.chdir(code.parent)
    assert " first " in run("points", path, "--import", "own_code").stdout


def test_an_import_that_fails_is_told_in_one_message(code, tmp_path):
    path = tmp_path / "model.keras"
    saved(code, path, KINDS["a layer"])
    for source, message in (
        ("nowhere.py", "There is no file 'nowhere.py' to import."),
        ("nowhere", "There is no module 'nowhere' to import."),
        ("nowhere.inside", "There is no module 'nowhere.inside' to import."),
    ):
        assert message in run("points", path, "--import", source, status=2).stderr
    for text, message in (
        ("import nowhere_at_all", "cannot be imported: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("if", "cannot be imported: SyntaxError: invalid syntax (wrong.py, line 1)\n"),
    ):
        (tmp_path / "wrong.py").write_text(text)
        assert message in run("points", path, "--import", tmp_path / "wrong.py", status=2).stderr


@pytest.mark.parametrize("text", ["raise SystemExit(3)", "1 / 0", "int('many')", "json.loads('no')"])
@pytest.mark.parametrize("place", ["file", "helper", "module"])
def test_an_import_that_fails_names_the_line_of_the_users_file(code, tmp_path, monkeypatch, text, place):
    path, name = tmp_path / "model.keras", f"line_{place}_{abs(hash(text))}"
    saved(code, path, KINDS["a layer"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{name}.py").write_text(f"import json\n\n{text}\n")
    (tmp_path / "user.py").write_text(f"import {name}\n")
    source = {"file": f"{name}.py", "helper": "user.py", "module": name}[place]
    told = run("points", path, "--import", source, status=2).stderr
    assert f"'{source}' cannot be imported: " in told
    assert told.endswith(f" ({tmp_path / name}.py, line 3: `{text}`)\n")


def test_the_help_says_that_an_import_runs_code():
    for command in ("points", "explain", "profile", "plan", "split", "verify", "plot", "export", "run"):
        text = " ".join(run(command, "--help").stdout.split())
        assert "--import FILE|MODULE Python code to import first, which runs it" in text


def test_a_file_of_another_keras_names_it(code, tmp_path):
    path = tmp_path / "model.keras"
    saved(code, path, KINDS["a layer"])
    assert "wrote it" not in run("points", path, status=2).stderr
    other = tmp_path / "other.keras"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content.replace(keras.__version__.encode(), b"3.99.0") if name[0] == "m" else content)
    here = f"and this is Keras {keras.__version__}."
    assert f"Keras 3.99.0 wrote it, {here}" in run("points", other, status=2).stderr
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["keras_version"] = "2.4.0"
        file.attrs["backend"] = "tensorflow"
        file.attrs["model_config"] = '{"class_name": "Functional", "config": {"layers": [{"class_name": "Gone"}]}}'
    message = run("points", tmp_path / "old.h5", status=2).stderr
    assert f"Keras 2.4.0 wrote it, {here} Load it with that, build the model with this one, and copy: " in message


@pytest.mark.parametrize("name", ["TFOpLambda", "CuDNNLSTM", "LocallyConnected1D"])
def test_what_only_an_old_keras_has_is_no_code_of_ones_own(name, tmp_path):
    x = {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 8, 3], "dtype": "float32", "name": "x"}}
    layers = [x, {"class_name": name, "config": {"name": "old", "units": 4}}]
    message = run("points", written_by("2.9.0", layers, tmp_path / "old.h5"), status=2).stderr
    assert f"'{name}' is a layer of Keras 2.9.0 itself, and Keras 3 does not have it." in message
    assert "Keras 2.9.0 wrote it, and this is Keras " in message
    assert "Load it with that, build the model with this one, and copy" in message
    assert ("load them into a model with LSTM first" in message) == (name == "CuDNNLSTM")
    assert "--import" not in message
    assert "custom_object_scope" not in message


def test_a_layer_of_ones_own_that_bears_an_old_name_can_be_imported(tmp_path):
    x = {"class_name": "InputLayer", "config": {"batch_shape": [None, 8, 3], "dtype": "float32", "name": "x"}}
    layers = [x, {"class_name": "LocallyConnected1D", "config": {"name": "mine"}}]
    message = run("points", written_by("3.5.0", layers, tmp_path / "new.h5"), status=2).stderr
    assert "'LocallyConnected1D' is code of your own, which has to be imported first: with --import" in message


def written_by(version, layers, path):
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"], file.attrs["backend"] = version, "tensorflow"
        config = {"name": "old", "layers": layers}
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": config})
    return path
