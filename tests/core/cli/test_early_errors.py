"""Errors that can be detected without Keras are reported before it is imported (checked in `sys.modules`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from checkout import ROOT

import kerassplit as ks
from kerassplit.graph.reading import read_graph
from kerassplit.storage.exports.manifest import EXPORT_MANIFEST
from kerassplit.zoo.layer_names import check_names, check_opened, layer_names
from kerassplit.zoo.names import architectures

IN_A_PROCESS_WITHOUT_KERAS = """
import importlib.util, json, sys
from click.testing import CliRunner
from kerassplit.cli import main
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in sys.argv[1:] else find_spec(name, *more)
for arguments in json.load(sys.stdin):
    result = CliRunner().invoke(main, arguments)
    print(json.dumps([result.exit_code, result.stderr, "keras" in sys.modules]))
"""


def told_without_keras(calls: list[list[str]], folder: Path, *missing: str) -> list[str]:
    """Runs failing commands in a folder, in one process without some packages; none imports Keras."""
    command = [sys.executable, "-c", IN_A_PROCESS_WITHOUT_KERAS, *missing]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, input=json.dumps(calls), capture_output=True, text=True, env=environment, cwd=folder, check=True
    )
    messages = []
    for call, line in zip(calls, done.stdout.splitlines(), strict=True):
        status, message, imported = json.loads(line)
        assert status == 2 and message, (call, message)
        assert not imported, (call, message)
        messages.append(message)
    return messages


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    small.save(folder / "small.keras")
    ks.split(small, "block1_out").save(folder / "split")
    x = keras.Input((4,), name="x")
    tower = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="deep")], name="tower")
    state = keras.layers.Bidirectional(keras.layers.LSTM(3, return_state=True, name="lstm"), name="both")(
        keras.ops.expand_dims(x + tower(tower(x)), 1)
    )
    keras.Model(x, keras.layers.Dense(2, name="end")(state[1]), name="nested").save(folder / "nested.keras")
    keras.Sequential([keras.Input((3,)), *(keras.layers.Dense(2, name=one) for one in ("first", "second"))]).save(
        folder / "chain.keras"
    )
    masking = [keras.layers.Embedding(10, 4, mask_zero=True, name="embedding"), keras.layers.LSTM(3, name="lstm")]
    keras.Sequential([keras.Input((6,)), *masking]).save(folder / "masked.keras")
    (folder / "exported").mkdir()
    for name in (f"exported/{EXPORT_MANIFEST}", "text.txt", "picture.svg", "y.npy", "damaged.keras"):
        (folder / name).write_text("{}")
    np.save(folder / "x.npy", np.ones((2, 3)))
    return folder


MISTAKES = {
    "points ResNet5O": "'ResNet5O' is neither an architecture of keras.applications nor a file. Did you mean",
    "points q": "There are 'ConvNeXtBase'",
    "points none.keras": "There is no file 'none.keras'.",
    "points split": "'split' is a folder; a model is a file.",
    "points text.txt": "'text.txt' is not a model file",
    "points damaged.keras": "'damaged.keras' is damaged or not a Keras model",
    "points ResNet50 --input-shape 8,8": "An input shape is three positive numbers",
    "points ResNet50 --input-shape eight": "'eight' is not a shape",
    "points ResNet50 --weights none.h5": "there is no file 'none.h5'",
    "points small.keras --input-shape 8,8,3": "An input shape can be given only for an architecture",
    "points small.keras --import none.py": "There is no file 'none.py' to import.",
    "points small.keras --max-tensors 0": "--max-tensors",
    "points small.keras --nonsense": "No such option",
    "points": "Missing argument 'MODEL'",
    "nonsense": "No such command",
    "explain small.keras block1_ou": "Model 'small' has no tensor 'block1_ou'. Did you mean 'block1_out'",
    "explain small.keras zzz": "Model 'small' has no tensor 'zzz'. `kerassplit points MODEL` lists the names.",
    "explain small.keras block*": "Model 'small' has no tensor 'block*'. Expected one name, not a glob.",
    "explain small.keras linear": "Model 'small' has no tensor 'linear'.",
    "explain nested.keras deep": "Model 'nested' has no tensor 'deep'. Did you mean 'tower@0/deep' or 'tower@1/deep'?",
    "explain nested.keras 3": "Model 'nested' has no tensor '3'.",
    "points small.keras --open foo": "'foo' in --open matches no composite layer that 'small' calls.",
    "points nested.keras --open towel/*": "'towel/*' in --open matches no composite layer that 'nested' calls. Did you",
    "split ResNet50 -o new": "Say where to cut in exactly one way",
    "split ResNet50 --at a": "Missing option '-o'",
    "split small.keras --at block1_ou -o new": "Did you mean 'block1_out'",
    "split small.keras --at stem,blok* -o new": "No tensor of model 'small' matches 'blok*'. `kerassplit points MODEL`",
    "split nested.keras --at d?ep -o new": "No tensor of model 'nested' matches 'd?ep'. Did you mean 'tower@0/d?ep'",
    "split nested.keras --at tower@1/dep -o new": "Model 'nested' has no tensor 'tower@1/dep'.",
    "split small.keras --at 99 -o new": "Model 'small' makes 14 calls, so it has no split point 99. `kerassplit points",
    "split small.keras --at +-99 -o new": "so it has no split point +-99.",
    "split small.keras --at score -o new": "'score' is an output of the model: nothing comes after it. Cut",
    "split chain.keras --at second -o new": "'second' is an output of the model",
    "plot small.keras --at stem --names a,b,c -o x.svg": "1 cut makes 2 stages; `names` has 3: 'a', 'b' and 'c'.",
    "plot small.keras --at score -o x.svg": "'score' is an output of the model",
    "split small.keras --at block1_out -o split": "'split' already holds a split. Name another folder",
    "split small.keras --at block1_out -o exported": "is not empty and holds no split",
    "split small.keras --at block1_out --names a -o new": "1 cut makes 2 stages; `names` has 1: 'a'.",
    "split small.keras --at block1_out --names a,a -o new": "The names of stages must differ",
    "split small.keras --at block1_out --input none.npy -o new": "There is no input file 'none.npy'.",
    "split small.keras --plan none.json -o new": "none.json",
    "split small.keras --stages 1 -o new": "--stages",
    "split small.keras --stages 2 --max-crossing few -o new": "1 or more, or 'any'; got 'few'",
    "verify nowhere": "'nowhere' holds no split",
    "verify small.keras": "is a file; expected a folder that `Split.save` or `kerassplit split -o` wrote.",
    "export small.keras --format onnx -o new": "'small.keras' is a file; expected a folder",
    "run small.keras --input x.npy -o new.npy": "'small.keras' is a file; expected a folder",
    "verify split --tolerance 1": "name it with --model",
    "verify split --model ResNet5O": "Did you mean 'ResNet50'",
    "verify split --model small.keras --input none.npy": "There is no input file 'none.npy'",
    "plot small.keras -o x.bmp": "Pictures are written as .svg, .png, .pdf, .dot, .mmd, .txt, .html; got 'x.bmp'.",
    "plot small.keras -o none/x.svg": "there is no folder 'none'",
    "plot small.keras -o picture.svg": "'picture.svg' exists already. Name another file, or pass --overwrite",
    "plot small.keras --at block1_ou -o x.svg": "Did you mean 'block1_out'",
    "plot ResNet5O -o x.svg": "Did you mean 'ResNet50'",
    "profile small.keras --plot x.gif": "Charts are written as .png, .svg, .pdf; got 'x.gif'.",
    "profile small.keras --plot picture.svg": "'picture.svg' exists already.",
    "profile small.keras --batch-size 0": "--batch-size",
    "plan ResNet50": "Say what to plan for",
    "plan ResNet50 --devices 2 --link 200": "has no unit",
    "plan ResNet50 --device a:fast": "is not a speed",
    "plan ResNet50 --device a:none.json": "'none.json' cannot be read",
    "plan ResNet50 --devices 2 --compression zip": "`compression` is 'zip'",
    "plan ResNet50 --devices 2 --largest-crossing 5": "has no unit",
    "plan ResNet50 --devices 2 --max-crossing 0": "got 0",
    "plan ResNet50 --devices 2 --profile none.json": "'none.json' cannot be read",
    "plan ResNet50 --devices 2 -o text.txt": "'text.txt' exists already.",
    "plan small.keras --devices 2 --must-cut block1_ou": "Did you mean 'block1_out'",
    "export nowhere --format onnx -o new": "'nowhere' holds no split",
    "export split --format onx -o new": "is not one of 'savedmodel', 'onnx', 'litert', 'openvino', 'tf_saved_model'.",
    "export split --format tf_saved_model -o split": "is not empty and holds no exported stages",
    "export split --format savedmodel -o split": "is not empty and holds no exported stages",
    "export split --format savedmodel -o exported": "already holds exported stages",
    "export split --format savedmodel --input none.npy -o new": "There is no input file 'none.npy'",
    "run nowhere --input x.npy -o new.npy": "'nowhere' holds no split",
    "run split --input none.npy -o new.npy": "There is no file or folder 'none.npy' to take input from.",
    "run split --input x.npy -o new.txt": "expected a name that ends in .npy",
    "run split --input x.npy -o new.npy --replicas 2": "--replicas needs a stage and a whole number",
    "edit small.keras -o new.keras": "Say what to change: --insert, --replace, --remove or --input-shape.",
    "edit small.keras --remove stem -o new.h5": "Models are written as .keras; got 'new.h5'.",
    "edit small.keras --remove block*_outt -o new.keras": "No tensor of model 'small' matches 'block*_outt'.",
    "edit small.keras --insert block1_oot=ReLU -o new.keras": "Did you mean 'block1_out'",
    "edit small.keras --replace pol=ReLU -o new.keras": "Model 'small' has no tensor 'pol'.",
    "edit small.keras --insert pool -o new.keras": "'pool' does not say where and what. Expected NAME=LAYER",
    "edit small.keras --insert pool=ReLU:1 -o new.keras": "'1' are no arguments for ReLU. Expected KEY=VALUE",
    "edit small.keras --insert pool=ReLU:a=b -o new.keras": "'a=b' are no arguments for ReLU.",
    "edit small.keras --insert pool=ReLU:a=1,a=2 -o new.keras": "'a=1,a=2' are no arguments for ReLU.",
    "edit small.keras --insert pool=ReLU:**{} -o new.keras": "'**{}' are no arguments for ReLU.",
    "edit small.keras --insert pool=ReLU:a=1)(b=1 -o new.keras": "'a=1)(b=1' are no arguments for ReLU.",
    "edit small.keras --replace pool=ReLU --replace pool=ELU -o new.keras": "--replace names 'pool' twice.",
    "edit small.keras --remove stem --resize bilinear -o new.keras": "use --input-shape",
    "edit small.keras --remove stem -o damaged.keras": "'damaged.keras' exists already.",
    "edit small.keras --remove stem -o none/new.keras": "there is no folder 'none'",
    "edit ResNet5O --remove stem -o new.keras": "Did you mean 'ResNet50'",
    "demo -o split": "'split' already holds a split. Name another folder, or pass --overwrite",
    "demo -o exported": "is not empty and holds no split",
}


def test_mistakes_are_told_without_keras(folder):
    before = sorted(folder.rglob("*"))
    told = told_without_keras([call.split() for call in MISTAKES], folder)
    for (call, expected), message in zip(MISTAKES.items(), told, strict=True):
        assert expected in message, call
    assert sorted(folder.rglob("*")) == before


def test_missing_extras_are_told_without_keras(folder):
    calls = {
        "export split --format onnx -o new": 'Install everything with `pip install "kerassplit[onnx]"`.',
        "profile small.keras --plot x.svg": "Charts need matplotlib: `pip install 'kerassplit[charts]'`.",
        "run split --input x.npy -o new.npy --engine ray": 'pip install "kerassplit[ray]"',
    }
    told = told_without_keras([call.split() for call in calls], folder, "onnxruntime", "matplotlib", "ray")
    for (call, expected), message in zip(calls.items(), told, strict=True):
        assert expected in message, call


def test_results_of_a_run_are_not_written_over(folder):
    split = ks.split(keras.Sequential([keras.Input((3,)), *(keras.layers.Dense(2, name=one) for one in "ab")]), "a")
    split.save(folder / "chain")
    (message,) = told_without_keras([["run", "chain", "--input", "x.npy", "-o", "y.npy"]], folder)
    assert "'y.npy' exists already. Name another file, or pass --overwrite." in message


def test_names_that_only_keras_can_judge_are_left_to_it(folder, small):
    names = layer_names(folder / "small.keras")
    assert set(names) == {tensor.name for tensor in read_graph(small).tensors} - {"image", "extra"}
    legal = ["3", "+2", "-1", "block*", "stem,block1_out", "block1_out@0", "extra"]
    check_names(folder / "small.keras", [*legal, *(name for name in names if name != "score")], names)
    check_names(folder / "small.keras", ["score,pool", "pool", "block1_out:0", "b*,sc*"], ["score", "p*", "extra"])
    inside = ["forward_lstm", "*lstm", "both/lstm"]
    operators = [name for name in layer_names(folder / "nested.keras") if name.startswith(("add", "expand_dims"))]
    assert len(operators) == 2
    legal = [*operators, "x", "tower", "tower@0", "tower@1/deep", "tower/*", "t*", "both:1", "both?1"]
    check_names(folder / "nested.keras", [*legal, "[x]", "tower@*", *inside, "+3"], legal)
    check_names(folder / "masked.keras", ["not_equal", "no*"])  # made by Keras, not in the config
    check_names(folder / "text.txt", ["anything"])
    check_opened(folder / "nested.keras", ["tower", "t*/deep", "both/forward_*"])
    check_opened(folder / "text.txt", ["anything"])
    with pytest.raises(ks.UnknownTensorError) as caught:
        check_names(folder / "small.keras", ["block1_oot"])
    assert (caught.value.name, caught.value.matches[0]) == ("block1_oot", "block1_out")


def test_the_list_of_architectures_is_that_of_keras():
    functions = {name for name in dir(keras.applications) if callable(getattr(keras.applications, name))}
    assert set(architectures()) == functions


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="terminals of Unix")
def test_a_terminal_is_told_that_keras_starts_before_it_does(tmp_path):
    (tmp_path / "keras.py").write_text(
        "import os\n"
        "os.write(os.open(os.environ['TERMINAL'], os.O_WRONLY), b'importing')\n"
        "raise ImportError('this is not Keras')\n"
    )
    master, slave = os.openpty()
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "TERMINAL": os.ttyname(slave)}
    environment |= {"TERM": "xterm", "COLUMNS": "80"}
    command = [sys.executable, "-m", "kerassplit", "points", "ResNet50"]
    done = subprocess.run(command, stdout=slave, stderr=slave, env=environment, cwd=tmp_path, check=False)
    os.close(slave)
    shown = os.read(master, 100_000).decode()
    os.close(master)
    assert done.returncode == 2
    assert -1 < shown.find("Starting Keras …") < shown.find("importing") < shown.find("this is not Keras")
