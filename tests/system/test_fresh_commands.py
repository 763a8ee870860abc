"""Commands in processes of their own: terminals, pipes, and a Keras that cannot be imported."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from checkout import ROOT

from kerassplit.zoo.photos import shipped_photo


@pytest.fixture(scope="module")
def file(small, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.keras"
    small.save(path)
    return path


def fresh(*arguments: object, **options) -> subprocess.CompletedProcess:
    """Runs a command in a new process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "kerassplit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)


class TestFreshProcess:
    def test_a_terminal_that_knows_no_unicode(self, file):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
        command = [sys.executable, "-m", "kerassplit", "points", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        assert "block1_out" in done.stdout
        assert "8?8?4" in done.stdout

    def test_a_reader_that_goes_away(self, file):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "kerassplit", "points", str(file)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 141
        process.stderr.close()

    def test_nothing_but_the_table_is_written(self, file):
        environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
        command = [sys.executable, "-m", "kerassplit", "points", str(file)]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**environment, "PYTHONPATH": str(ROOT)}, check=True
        )
        assert done.stderr == ""
        assert done.stdout.strip().startswith("small: ")

    def test_split_and_verify_an_application_with_dropout(self, tmp_path):
        options = ["--weights", "random", "--seed", "3", "--input-shape", "64,64,3"]
        done = fresh("split", "MobileNetV3Small", "--at", "9", "-o", tmp_path / "out", *options, "--json")
        assert done.returncode == 0, done.stderr
        photo = tmp_path / "photo.jpg"
        photo.write_bytes(shipped_photo().read_bytes())
        arguments = ["--model", "MobileNetV3Small", "--input", photo, "--json"]
        done = fresh("verify", tmp_path / "out", *arguments, *options)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["receipt"]["identical"] is True

    @pytest.mark.parametrize(
        ("missing", "installed", "remedy"),
        [
            ("tensorflow", [], "It needs a backend: `pip install tensorflow`, for example."),
            (
                "tensorflow",
                ["torch"],
                "Its backend is set to tensorflow, but torch is installed. Set KERAS_BACKEND=torch to use it.",
            ),
            (
                "jax",
                ["jax", "tensorflow"],
                "Its backend is set to jax, but tensorflow is installed. Set KERAS_BACKEND=tensorflow to use it.",
            ),
        ],
        ids=["no backend", "the default", "one of their own"],
    )
    def test_keras_that_lacks_its_backend(self, missing, installed, remedy, tmp_path):
        message = f"No module named '{missing}'"
        (tmp_path / "keras.py").write_text(f"raise ModuleNotFoundError({message!r}, name={missing!r})\n")
        code = f"""
            import importlib.util
            importlib.util.find_spec = lambda name: name if name in {installed} else None
            from kerassplit.cli import main
            main(["points", "ResNet50"])
        """
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
        command = [sys.executable, "-c", textwrap.dedent(code)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 2
        assert done.stderr == f"Error: Keras cannot be imported: {message}. {remedy}\n"
