"""Shell completion, requested as bash, zsh and fish do; Keras is not imported for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

import kerassplit as ks

IN_A_PROCESS = """
import sys
from kerassplit.cli import main
try:
    main(prog_name="kerassplit")
finally:
    assert "keras" not in sys.modules and "numpy" not in sys.modules
"""


def completed(line: str, folder: Path, shell: str = "bash") -> list[str]:
    """Returns a shell's suggestions for the last word of a line, as kind and value."""
    words = line.split(" ")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "_KERASSPLIT_COMPLETE": f"{shell}_complete"}
    environment |= {"COMP_WORDS": line, "COMP_CWORD": words[-1] if shell == "fish" else str(len(words) - 1)}
    command = [sys.executable, "-c", IN_A_PROCESS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=True)
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("completed")
    small.save(folder / "small.keras")
    small.save(folder / "respected.keras")
    ks.split(small, "block1_out").save(folder / "split")
    return folder


def test_architectures_and_model_files(folder):
    offered = completed("kerassplit points res", folder)
    assert "plain,ResNet50" in offered and "plain,respected.keras" in offered
    assert not [one for one in offered if "VGG16" in one or "small" in one]
    assert "plain,small.keras" in completed("kerassplit split ", folder)
    assert completed("kerassplit points ./sm", folder) == ["file,./sm"]
    assert "plain,ResNet50" in completed("kerassplit verify split --model ResNet5", folder)
    assert "plain\nResNet50V2" in "\n".join(completed("kerassplit points ResNet50V", folder, "zsh"))
    assert "plain,ResNet50V2" in completed("kerassplit points ResNet50V", folder, "fish")


def test_layer_names_of_a_file(folder):
    names = ["plain,block2_conv", "plain,block2_norm", "plain,block2_add", "plain,block2_out"]
    assert completed("kerassplit split small.keras --at block2", folder) == names
    assert completed("kerassplit explain small.keras block2", folder) == names
    assert completed("kerassplit plan small.keras --must-cut block2_o", folder) == ["plain,block2_out"]
    assert completed("kerassplit edit small.keras --remove block2_o", folder) == ["plain,block2_out"]
    assert completed("kerassplit plot small.keras --at stem,block2_o", folder) == ["plain,stem,block2_out"]
    assert completed("kerassplit split missing.keras --at b", folder) == [""]


def test_choices_folders_and_options(folder):
    assert completed("kerassplit export split --format o", folder) == ["plain,onnx", "plain,openvino"]
    assert completed("kerassplit export split --format tf", folder) == ["plain,tf_saved_model"]
    assert completed("kerassplit verify s", folder) == ["dir,s"]
    assert completed("kerassplit points ResNet50 --weights r", folder) == ["plain,random"]
    assert completed("kerassplit run split --preprocess n", folder) == [
        "plain,NASNetLarge",
        "plain,NASNetMobile",
        "plain,none",
    ]
    assert "plain,--objective" in [one.split("\t")[0] for one in completed("kerassplit plan ResNet50 --obj", folder)]
    assert "plain,points" in completed("kerassplit po", folder)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_its_script(shell):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "_KERASSPLIT_COMPLETE": f"{shell}_source"}
    command = [sys.executable, "-m", "kerassplit"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if shell == "bash" and "Couldn't detect Bash version" in done.stderr:
        pytest.skip("there is no bash")
    assert f"_KERASSPLIT_COMPLETE={shell}_complete" in done.stdout
