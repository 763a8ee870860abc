"""The commands as a user runs them: what they print, where, and with which exit status."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import kerassplit as ks
from kerassplit.cli import main
from kerassplit.cli.options import cut
from kerassplit.photo import shipped_photo
from kerassplit.random_weights import randomize

pytestmark = pytest.mark.plain

ROOT = Path(__file__).parents[1]


def run(*arguments: object, status: int = 0):
    """Runs a command in this process."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result


def fresh(*arguments: object, **options) -> subprocess.CompletedProcess:
    """Runs a command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "kerassplit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)


@pytest.fixture(scope="module")
def model(small) -> keras.Model:
    model = keras.models.clone_model(small)
    model.name = "small"
    randomize(model, seed=1)
    return model


@pytest.fixture(scope="module")
def file(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("split") / "out"
    ks.split(model, ["block1_out", "block2_out"]).save(path)
    return path


class TestHelp:
    @pytest.mark.parametrize("command", ["", "points", "explain", "split", "verify", "plot", "demo"])
    def test_every_command_has_one(self, command):
        assert "Usage: " in run(*command.split(), "--help").stdout

    @pytest.mark.parametrize("arguments", [["--help"], ["split", "--help"], ["--version"], ["points"], ["nonsense"]])
    def test_it_does_not_wait_for_keras(self, arguments):
        code = (
            "import sys\nfrom kerassplit.cli import main\n"
            f"try:\n    main({arguments!r})\n"
            "except SystemExit:\n"
            "    print([name for name in ('keras', 'tensorflow', 'numpy') if name in sys.modules])\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert done.stdout.splitlines()[-1] == "[]"

    def test_it_says_why_unsafe_is_unsafe(self):
        text = " ".join(run("points", "--help").stdout.split())
        assert "A model file can carry Python functions (in Lambda layers)" in text


class TestPoints:
    def test_the_table_names_every_split_point_in_full(self, file, model):
        printed = run("points", file).stdout
        for point in ks.split_points(model):
            assert f"  {point.name} " in printed
        assert "small: " in printed

    def test_json_is_alone_on_standard_output(self, file, model):
        data = json.loads(run("points", file, "--json").stdout)
        assert data["model"] == "small"
        assert [point["name"] for point in data["points"]] == [point.name for point in ks.split_points(model)]
        assert data["points"][0].keys() == {
            *("index", "name", "layer", "shape", "dtype", "bytes", "after_merge", "params_before", "params_after")
        }

    def test_an_architecture_by_name(self):
        data = json.loads(run("points", "resnet50", "--input-shape", "64x96x3", "--json").stdout)
        assert len(data["points"]) == 39
        assert data["points"][-2]["shape"] == [None, 2, 3, 2048]

    def test_cuts_of_several_tensors_are_written_as_at_takes_them(self, file, tmp_path):
        printed = run("points", file, "--max-tensors", "2").stdout
        assert "small: 11 cuts of up to 2 tensors" in printed
        (line,) = [line.split() for line in printed.splitlines() if "block1_out,block2_conv " in line]
        assert line == ["block1_out,block2_conv", "8×8×4,", "8×8×4", "2.0", "KiB"]
        data = json.loads(run("points", file, "--max-tensors", "2", "--json").stdout)
        crossing = [[one["name"] for one in crossing["tensors"]] for crossing in data["crossings"]]
        assert data["crossings"][crossing.index(["block1_out", "block2_conv"])]["bytes"] == 2 * 8 * 8 * 4 * 4
        out = tmp_path / "out"
        data = json.loads(run("split", file, "--at", "block1_out,block2_conv", "-o", out, "--json").stdout)
        assert [one["name"] for one in data["crossings"][0]["tensors"]] == ["block1_out", "block2_conv"]
        assert "--max-tensors" in run("points", file, "--max-tensors", "0", status=2).stderr


class TestExplain:
    def test_a_tensor_inside_a_branch(self):
        printed = run("explain", "ResNet50", "conv4_block6_2_relu").stdout
        assert printed == (
            "'conv4_block6_2_relu' is inside a branch: 'conv4_block5_out' crosses there too.\n"
            "Nearest split points: 'conv4_block5_out' before, 'conv4_block6_add' after.\n"
        )

    def test_json(self, file):
        data = json.loads(run("explain", file, "block1_out", "--json").stdout)
        assert data["is_split_point"] is True
        assert data["crossing"] == ["block1_out"]


class TestSplit:
    def test_it_verifies_and_saves(self, file, tmp_path):
        printed = run("split", file, "--at", "block1_out", "-o", tmp_path / "out", "--names", "head,tail").stdout
        assert "small in 2 stages" in printed
        assert "The stages compute what 'small' computes, bit for bit." in printed
        assert f"Saved 2 stages in {tmp_path / 'out'}." in printed
        assert [stage.name for stage in ks.load(tmp_path / "out")] == ["head", "tail"]

    def test_indices_and_json(self, file, model, tmp_path):
        points = ks.split_points(model)
        result = run("split", file, "--at", "1", "--at", points[-1].name, "-o", tmp_path / "out", "--json")
        data = json.loads(result.stdout)
        assert data["stages"][0]["outputs"] == [points[1].name]
        assert len(data["stages"]) == 3
        assert data["receipt"]["max_difference"] == 0.0
        assert data["ok"] is True
        assert data["directory"] == str(tmp_path / "out")

    def test_a_branch_is_cut_when_asked_for(self, file, tmp_path):
        arguments = ["split", file, "--at", "block2_conv", "-o", tmp_path / "out"]
        message = run(*arguments, status=2).stderr
        assert message.startswith("Error: 'block2_conv' is inside a branch: 'block1_out' crosses there too.\n")
        assert message.endswith("pass --allow-crossing.\n")
        assert list(tmp_path.iterdir()) == []
        data = json.loads(run(*arguments, "--allow-crossing", "--json").stdout)
        assert [one["name"] for one in data["crossings"][0]["tensors"]] == ["block1_out", "block2_conv"]

    def test_a_folder_is_replaced_only_when_asked_for(self, file, tmp_path):
        arguments = ["split", file, "--at", "block1_out", "-o", tmp_path / "out"]
        run(*arguments)
        assert "already holds a split" in (message := run(*arguments, status=2).stderr)
        assert "pass --overwrite" in message
        run(*arguments, "--overwrite")

    def test_without_a_cut(self, file, tmp_path):
        message = run("split", file, "-o", tmp_path / "out", status=2).stderr
        assert message == (
            "Error: Say where to cut, in one way: with --at NAME (`kerassplit points MODEL` lists the names), with "
            "--plan FILE (`kerassplit plan MODEL -o FILE` writes one), or with --stages N.\n"
        )

    def test_stages_that_differ_are_not_saved(self, file, tmp_path, monkeypatch):
        monkeypatch.setattr(ks.Receipt, "ok", False)
        result = run("split", file, "--at", "block1_out", "-o", tmp_path / "out", status=1)
        assert "Error: the stages differ from the model, so they were not saved." in result.stderr
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("text", "meaning"),
        [("3", 3), ("-1", -1), ("conv", "conv"), ("a, b", ["a", "b"]), ("encoder@1:0", "encoder@1:0")],
    )
    def test_what_at_means(self, text, meaning):
        assert cut(text) == meaning


class TestVerify:
    def test_the_stages_against_each_other(self, folder):
        assert "bit for bit" in run("verify", folder).stdout

    def test_against_the_model(self, folder, file):
        data = json.loads(run("verify", folder, "--model", file, "--json").stdout)
        assert data["ok"] is True
        assert data["compared_with"] == str(file)
        assert data["receipt"]["weights_shared"] == 0
        assert data["receipt"]["weights_equal"] > 0

    def test_on_given_input(self, folder, file, tmp_path):
        np.savez(tmp_path / "x.npz", image=np.ones((3, 8, 8, 3)), extra=np.ones((3, 4)))
        data = json.loads(run("verify", folder, "--model", file, "--input", tmp_path / "x.npz", "--json").stdout)
        assert {comparison["shape"][0] for comparison in data["receipt"]["comparisons"]} == {3}

    def test_another_model_fails_with_status_1(self, folder, model, tmp_path):
        other = keras.models.clone_model(model)
        randomize(other, seed=2)
        other.save(tmp_path / "other.keras")
        printed = run("verify", folder, "--model", tmp_path / "other.keras", status=1).stdout
        assert "is the first stage that differs" in " ".join(printed.split())
        result = run("verify", folder, "--model", tmp_path / "other.keras", "--json", status=1)
        assert json.loads(result.stdout)["ok"] is False

    def test_a_difference_within_the_tolerance_is_allowed(self, folder, model, tmp_path):
        other = keras.models.clone_model(model)
        other.set_weights([weight + np.float32(1e-6) for weight in model.get_weights()])
        other.save(tmp_path / "other.keras")
        data = json.loads(
            run("verify", folder, "--model", tmp_path / "other.keras", "--tolerance", "1", "--json", status=1).stdout
        )
        assert data["receipt"]["first_difference"] is None  # but the weights are not equal
        assert data["receipt"]["problems"]

    def test_a_damaged_file_is_named(self, folder, tmp_path):
        damaged = tmp_path / "out"
        damaged.mkdir()
        for path in folder.iterdir():
            (damaged / path.name).write_bytes(path.read_bytes())
        next(damaged.glob("stage_1*")).write_bytes(b"")
        assert "stage_1.keras" in run("verify", damaged, status=2).stderr

    def test_options_of_a_model_need_one(self, folder):
        message = run("verify", folder, "--weights", "random", status=2).stderr
        assert (
            message == "Error: --weights and --input-shape belong to a model to compare with: name it with --model.\n"
        )

    def test_an_image_for_a_model_of_unknown_preprocessing(self, tmp_path):
        image = keras.Input((16, 16, 3), name="image")
        x = keras.layers.Conv2D(4, 3, name="conv")(image)
        model = keras.Model(image, keras.layers.GlobalAveragePooling2D(name="pool")(x), name="mine")
        ks.split(model, "conv").save(tmp_path / "out")
        (tmp_path / "photo.jpg").write_bytes(shipped_photo().read_bytes())
        result = run("verify", tmp_path / "out", "--input", tmp_path / "photo.jpg")
        assert result.stderr == "Note: how 'mine' wants its images is not known; it gets pixels from 0 to 255.\n"


class TestPlot:
    def test_a_model_a_model_that_is_cut_and_a_folder(self, file, folder, tmp_path):
        for number, arguments in enumerate([[file], [file, "--at", "block1_out", "--names", "head,tail"], [folder]]):
            path = tmp_path / f"{number}.txt"
            assert run("plot", *arguments, "-o", path).stdout == f"Wrote {path}.\n"
            assert path.stat().st_size > 0
        assert "head" in (tmp_path / "1.txt").read_text(encoding="utf-8")

    def test_an_unknown_format_is_refused_with_the_list(self, file, tmp_path):
        message = run("plot", file, "-o", tmp_path / "x.bmp", status=2).stderr
        assert ".bmp" in message
        assert ".svg, .png, .pdf, .dot, .mmd, .txt" in message

    def test_what_does_not_go_together(self, file, folder, tmp_path):
        assert "is already split" in run("plot", folder, "--at", "1", "-o", tmp_path / "x.txt", status=2).stderr
        assert "--names belongs to cuts" in run("plot", file, "--names", "a", "-o", tmp_path / "x.txt", status=2).stderr
        assert list(tmp_path.iterdir()) == []


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["points", "ResNet5O"], "Error: 'ResNet5O' is neither an architecture of keras.applications nor a file."),
            (["points", "none.keras"], "Error: There is no file 'none.keras'."),
            (["explain", "ResNet50", "conv4_block6_ot"], "Error: Model 'resnet50' has no tensor 'conv4_block6_ot'."),
            (["points", "ResNet50", "--input-shape", "8x"], "'8x' is no shape; expected numbers such as 224,224,3."),
            (["points", "ResNet50", "--input-shape", "8,8"], "Error: An input shape is three positive numbers"),
            (["points", "ResNet50", "--weights", "x.h5"], "there is no file 'x.h5'."),
            (["verify", "nowhere"], "Error: "),
            (["points"], "Missing argument 'MODEL'"),
        ],
    )
    def test_one_message_on_standard_error_and_status_2(self, arguments, message):
        result = run(*arguments, status=2)
        assert message in result.stderr
        assert result.stdout == ""

    def test_python_remedies_become_options(self, tmp_path):
        x = keras.Input((2,))
        keras.Model(x, keras.layers.Lambda(lambda t: t * 2)(x)).save(tmp_path / "code.keras")
        message = run("points", tmp_path / "code.keras", status=2).stderr
        assert message.endswith("If you trust where the file comes from, pass --unsafe.\n")
        run("points", tmp_path / "code.keras", "--unsafe")

    def test_an_interruption_is_no_failed_verification(self, file, monkeypatch):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("kerassplit.zoo.load_model", interrupted)
        assert run("points", file, status=130).stderr == "Interrupted.\n"


class TestOddInput:
    def test_another_input_shape_is_told_apart_from_wrong_numbers(self, tmp_path):
        options = ["--weights", "random", "--input-shape", "32,32,3"]
        run("split", "ResNet50", *options, "--at", "conv4_block6_out", "-o", tmp_path / "out")
        message = run("verify", tmp_path / "out", "--model", "ResNet50", "--weights", "random", status=2).stderr
        assert "has the shape (None, 32, 32, 3) in stage 'stage_0' and (None, 224, 224, 3) in the model." in message

    def test_signs_of_markup_in_names_stay(self, tmp_path):
        x = keras.Input((4,), name="x")
        y = keras.layers.Dense(2, name="y")(keras.layers.Dense(4, name="[red]d1")(x))
        (tmp_path / "[").mkdir()
        keras.Model(x, y, name="rich[bold]").save(tmp_path / "[" / "x].keras")
        output = run("points", tmp_path / "[" / "x].keras").stdout
        assert "rich[bold]: 1 split points" in output
        assert "[red]d1" in output
        done = run("split", tmp_path / "[" / "x].keras", "--at", "[red]d1", "-o", tmp_path / "[/out]")
        assert "[red]d1" in done.stdout
        assert run("verify", tmp_path / "[/out]").stdout.count("[red]d1") == 1

    def test_a_folder_named_like_an_architecture_does_not_hide_it(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "ResNet50").mkdir()
        assert "resnet50: 39 split points" in run("points", "ResNet50").stdout

    def test_two_cuts_in_one_option_are_told_apart_from_a_crossing(self, file, tmp_path):
        message = run("split", file, "--at", "block1_out,block2_out", "-o", tmp_path / "out", status=2).stderr
        assert "'block1_out' does not cross where 'block2_out' does." in message

    def test_verifying_without_a_model_says_what_it_compared_with(self, folder):
        assert "Compared with the saved stages joined into one." in run("verify", folder).stdout

    def test_an_unexpected_error_is_no_failed_verification(self, file, monkeypatch):
        def broken(model):
            raise RuntimeError("something\nbroke")

        monkeypatch.setattr("kerassplit.points.split_points", broken)
        message = run("points", file, status=2).stderr
        assert message == "Error: RuntimeError: something broke (Set KERASSPLIT_TRACEBACK=1 to see where.)\n"

    def test_a_lambda_names_the_option(self, tmp_path):
        x = keras.Input((4,), name="x")
        y = keras.layers.Lambda(lambda t: t * 2, name="double")(keras.layers.Dense(4, name="a")(x))
        ks.split(keras.Model(x, y), "a").save(tmp_path / "out")
        message = run("verify", tmp_path / "out", status=2).stderr
        assert "brings code of its own" in message
        assert "pass --unsafe." in message
        run("verify", tmp_path / "out", "--unsafe")

    def test_samples_of_different_number(self, folder, tmp_path):
        np.savez(tmp_path / "x.npz", image=np.ones((2, 8, 8, 3), "float32"), extra=np.ones((3, 4), "float32"))
        message = run("verify", folder, "--input", tmp_path / "x.npz", status=2).stderr
        assert "different numbers of samples: (2, 8, 8, 3), (3, 4)." in message


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

    @pytest.mark.slow
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
            ("tensorflow", [], "It needs a backend; `pip install tensorflow` brings one."),
            (
                "tensorflow",
                ["torch"],
                "Its backend is set to tensorflow; torch is installed: set KERAS_BACKEND=torch to take it.",
            ),
            (
                "jax",
                ["jax", "tensorflow"],
                "Its backend is set to jax; tensorflow is installed: set KERAS_BACKEND=tensorflow to take it.",
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
