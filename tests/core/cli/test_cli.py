"""The commands as users run them: what they print, where, and with which exit code."""

import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from checkout import ROOT
from command_line import run

import kerassplit as ks
from kerassplit.cli import main
from kerassplit.cli.option import cut
from kerassplit.zoo.names import may_hold_with_imagenet
from kerassplit.zoo.photos import shipped_photo
from kerassplit.zoo.random_weights import randomize


@pytest.fixture(scope="module")
def model(small) -> keras.Model:
    model = keras.models.clone_model(small)
    model.name = "small"
    randomize(model, seed=1)
    return model


@pytest.fixture(scope="module")
def odd() -> keras.Model:
    """A chain of layers with names that mean something else on a command line."""
    x = inputs = keras.Input((4,), name="x")
    for name in ("c", "a,b", "-dash", "10", "k=v", "last"):
        x = keras.layers.Dense(4, name=name)(x)
    return keras.Model(inputs, x, name="odd")


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


@pytest.fixture(scope="module")
def twelve(tmp_path_factory) -> Path:
    """A model whose inputs have unknown dimensions but which only accepts 12 tokens."""
    tokens, mask = (keras.Input((None,), dtype="int32", name=name) for name in ("tokens", "mask"))
    x = keras.ops.add(keras.layers.Embedding(9, 4, name="table")(tokens), np.ones((12, 4), "float32"))
    x = keras.layers.Dense(4, name="a")(x)
    x = keras.layers.Multiply(name="masked")([x, keras.layers.Embedding(2, 4, name="kept")(mask)])
    path = tmp_path_factory.mktemp("twelve") / "twelve.keras"
    keras.Model([tokens, mask], keras.layers.Dense(2, name="b")(x), name="twelve").save(path)
    return path


@pytest.fixture(scope="module")
def fours(tmp_path_factory) -> Path:
    x = inputs = keras.Input(batch_shape=(4, 8), name="x")
    for name in ("a", "b"):
        x = keras.layers.Dense(8, name=name)(x)
    folder = tmp_path_factory.mktemp("fours")
    keras.Model(inputs, x, name="fours").save(folder / "fours.keras")
    for rows in (3, 10):
        np.save(folder / f"x{rows}.npy", np.random.default_rng(rows).normal(size=(rows, 8)).astype("float32"))
    return folder


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

    def test_the_version_names_what_a_report_of_a_fault_needs(self):
        printed = run("--version").stdout
        assert printed.startswith(f"kerassplit, version {ks.__version__}\n")
        assert f"keras {keras.__version__}" in printed
        assert f"Python {platform.python_version()}" in printed

    @pytest.mark.parametrize("command", ["", *main.commands])
    def test_it_fits_a_terminal_of_80_columns(self, command, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        lines = run(*command.split(), "--help").stdout.splitlines()
        assert [line for line in lines if len(line) > 80] == []

    def test_its_examples_run_and_cut(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        text = run("plan", "--help").stdout.replace("\\\n", " ")
        examples = [shlex.split(line) for line in text.splitlines() if line.startswith("  kerassplit ")]
        assert len(examples) == 2
        for words in examples:
            assert "Cut at " in run(*words[1:]).stdout

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
            *("index", "name", "layer", "shape", "dtype", "bytes", "after_merge", "params_before", "params_after"),
            *("flops_before", "flops_after", "also"),
        }

    def test_it_shows_the_share_of_flops_before_each_point(self, file, model, tmp_path):
        lines = {words[1]: words for line in run("points", file).stdout.splitlines() if len(words := line.split()) > 5}
        data = json.loads(run("points", file, "--json").stdout)
        for point, as_json in zip(ks.split_points(model), data["points"], strict=True):
            before, after = point.flops_before, point.flops_after
            assert f"{before / (before + after):.1%}" in lines[point.name]
            assert (as_json["flops_before"], as_json["flops_after"]) == (before, after)
        inputs = keras.Input((None, None, 3))
        outputs = keras.layers.Conv2D(2, 1, name="out")(keras.layers.Conv2D(4, 1, name="conv")(inputs))
        keras.Model(inputs, outputs).save(tmp_path / "open.keras")
        assert " ? " in run("points", tmp_path / "open.keras").stdout.splitlines()[-2]
        (point,) = json.loads(run("points", tmp_path / "open.keras", "--json").stdout)["points"]
        assert (point["flops_before"], point["flops_after"]) == (None, None)

    def test_an_architecture_by_name(self):
        data = json.loads(run("points", "resnet50", "--input-shape", "64x96x3", "--json").stdout)
        assert len(data["points"]) == 39
        assert data["points"][-2]["shape"] == [None, 2, 3, 2048]

    def test_cuts_of_several_tensors_are_written_as_at_takes_them(self, file, tmp_path):
        printed = run("points", file, "--max-tensors", "2").stdout
        assert "small: 11 cuts of up to 2 tensors" in printed
        (line,) = [line.split() for line in printed.splitlines() if "block1_out,block2_conv " in line]
        assert line == ["block1_out,block2_conv", "2.0", "KiB", "8×8×4,", "8×8×4"]
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
            "Error: Say where to cut in exactly one way: --at NAME (`kerassplit points MODEL` lists the names), --plan "
            "FILE (`kerassplit plan MODEL -o FILE` writes one), or --stages N.\n"
        )

    def test_stages_that_differ_are_not_saved(self, file, tmp_path, monkeypatch):
        monkeypatch.setattr(ks.Receipt, "ok", False)
        result = run("split", file, "--at", "block1_out", "-o", tmp_path / "out", status=1)
        assert "Error: the stages differ from the model, so they were not saved." in result.stderr
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("text", "meaning"),
        [
            *(("3", 3), ("-1", -1), ("+2", 2), ("conv", "conv"), ("a, b", ["a", "b"]), ("encoder@1:0", "encoder@1:0")),
            *(("a,b", "a,b"), ("a,b,c", ["a,b", "c"]), ("c,a,b,c", ["c", "a,b", "c"]), ("a,*", "a,*")),
            *(("x,y", ["x", "y"]), ("[1]0", "[1]0"), ("1", 1), ("+-1", -1)),
        ],
    )
    def test_what_at_means(self, odd, text, meaning):
        assert cut(text, odd) == meaning

    def test_a_name_that_may_be_a_number_is_refused_and_both_ways_out_work(self, odd):
        with pytest.raises(
            ks.SplitError, match=r"'10' is the name of a tensor, and could .*\n.* \[1\]0 for .* \+10 for"
        ) as caught:
            cut("10", odd)
        assert len(str(caught.value).splitlines()) == 2
        assert ks.split(odd, cut("[1]0", odd))[0].outputs == ("10",)
        assert cut("+10", odd) == 10

    def test_a_name_that_may_be_a_number_from_the_end_has_both_ways_out_too(self):
        x = inputs = keras.Input((4,), name="x")
        for name in ("-1", "b", "c", "d"):
            x = keras.layers.Dense(4, name=name)(x)
        model = keras.Model(inputs, x, name="counted")
        with pytest.raises(ks.SplitError, match=r"\[-\]1 for the name, and \+-1 for the number"):
            cut("-1", model)
        assert ks.split(model, cut("[-]1", model))[0].outputs == ("-1",)
        assert ks.split(model, cut("+-1", model))[0].outputs == ("c",)

    def test_names_with_commas_signs_and_dashes_are_cut_explained_and_planned(self, odd, tmp_path):
        odd.save(tmp_path / "odd.keras")
        file = tmp_path / "odd.keras"
        for name, user in (("a,b", "-dash"), ("-dash", "10"), ("k=v", "last")):
            data = json.loads(run("split", file, "--at", name, "-o", tmp_path / "out", "--overwrite", "--json").stdout)
            assert data["stages"][0]["outputs"] == [name]
            assert f"'{name}' is a split point" in run("explain", file, "--", name).stdout
            data = json.loads(run("plan", file, "--devices", 2, "--must-cut", name, "--json").stdout)
            assert data["at"] == [name]
            data = json.loads(run("plan", file, "--devices", 2, "--must-not-cut", name, "--json").stdout)
            assert data["at"] != [name]
            data = json.loads(run("plan", file, "--devices", 2, "--first-to", name, "--json").stdout)
            assert name in data["stages"][0]["calls"]
            data = json.loads(run("plan", file, "--devices", 2, "--last-from", name, "--json").stdout)
            assert user in data["stages"][-1]["calls"]
        assert run("plot", file, "--at", "a,b", "-o", tmp_path / "odd.txt").stdout.endswith("odd.txt.\n")


class TestOpenSides:
    @pytest.mark.parametrize("cuts", [("--stages", 2), ("--at", "masked")])
    def test_they_stand_in_random_input_too(self, twelve, cuts, tmp_path):
        assert "bit for bit" in run("split", twelve, *cuts, "--open-sides", 12, "-o", tmp_path / "out").stdout
        verified = run("verify", tmp_path / "out", "--model", twelve, "--open-sides", 12)
        assert "bit for bit" in verified.stdout

    def test_random_input_that_does_not_go_through_leads_to_them(self, twelve, tmp_path):
        result = run("split", twelve, "--at", "masked", "-o", tmp_path / "out", status=2)
        assert "Random input, with 32 for open dimensions, does not go through 'twelve'" in result.stderr
        assert "Say what stands for them, with --open-sides N. Or give one to compare on with --input" in result.stderr

    def test_where_input_is_given_they_do_not_count(self, twelve, tmp_path):
        np.savez(tmp_path / "x.npz", tokens=np.ones((2, 12), "int32"), mask=np.ones((2, 12), "int32"))
        given = ("--input", tmp_path / "x.npz", "--open-sides", 12)
        result = run("split", twelve, "--at", "masked", *given, "-o", tmp_path / "out", status=2)
        assert "to random input. Leave it out with --input." in result.stderr


class TestFixedBatches:
    def test_costs_are_of_the_batch_that_the_model_takes(self, fours, tmp_path):
        costs = json.loads(run("profile", fours / "fours.keras", "--json").stdout)
        plan = json.loads(run("plan", fours / "fours.keras", "--devices", 2, "--json").stdout)
        assert (costs["batch_size"], sum(call["flops"] for call in costs["calls"]), plan["batch_size"]) == (
            4,
            2 * 4 * (2 * 8 * 8 + 8),
            4,
        )
        assert "bit for bit" in run("split", fours / "fours.keras", "--stages", 2, "-o", tmp_path / "out").stdout
        for command in (("plan", "--devices", 2), ("profile",)):
            refused = run(command[0], fours / "fours.keras", *command[1:], "--batch-size", 2, status=2)
            assert "'x' of 'fours' is built for batches of 4: pass --batch-size 4; got 2." in refused.stderr

    def test_the_first_whole_batch_of_a_file_is_compared(self, fours, tmp_path):
        given, out = ("--input", fours / "x10.npy"), tmp_path / "out"
        told = "Note: 'fours' takes batches of 4: of the 10 rows in '"
        split = run("split", fours / "fours.keras", "--at", "a", *given, "-o", out)
        verified = run("verify", out, "--model", fours / "fours.keras", *given)
        for result in (split, verified):
            assert told in result.stderr
            assert "the first 4 are used." in result.stderr
            assert "bit for bit" in result.stdout
        run("run", out, *given, "-o", tmp_path / "y.npy")
        assert np.load(tmp_path / "y.npy").shape == (10, 8)

    def test_fewer_rows_than_a_batch_are_no_batch(self, fours, tmp_path):
        given = ("--at", "a", "--input", fours / "x3.npy", "-o", tmp_path / "out")
        result = run("split", fours / "fours.keras", *given, status=2)
        assert "x3.npy' holds 3 rows, but 'fours' takes batches of 4. Pass that many." in result.stderr


class TestVerify:
    def test_without_a_model_nothing_is_claimed_of_the_numbers(self, folder):
        said = "Files intact, stages load; not compared with the original."
        printed = run("verify", folder).stdout
        assert said in printed
        assert "bit for bit" not in printed
        data = json.loads(run("verify", folder, "--json").stdout)
        assert (data["verdict"], data["compared_with"], data["receipt"], data["ok"]) == (said, None, None, True)

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
        for option in (
            ["--weights", "random"],
            ["--input", "x.npy"],
            ["--tolerance", "0.1"],
            ["--open", "x"],
            ["--open-sides", "9"],
        ):
            message = run("verify", folder, *option, status=2).stderr
            assert message == (
                "Error: --weights, --input-shape, --open, --input, --tolerance and --open-sides need a model to "
                "compare with: name it with --model.\n"
            )

    def test_an_image_for_a_model_of_unknown_preprocessing(self, tmp_path):
        image = keras.Input((16, 16, 3), name="image")
        x = keras.layers.Conv2D(4, 3, name="conv")(image)
        model = keras.Model(image, keras.layers.GlobalAveragePooling2D(name="pool")(x), name="mine")
        ks.split(model, "conv").save(tmp_path / "out")
        model.save(tmp_path / "mine.keras")
        (tmp_path / "photo.jpg").write_bytes(shipped_photo().read_bytes())
        options = ["--model", tmp_path / "mine.keras", "--input", tmp_path / "photo.jpg"]
        result = run("verify", tmp_path / "out", *options)
        assert result.stderr == "Note: the preprocessing of 'mine' is unknown; it gets pixels from 0 to 255.\n"


class TestPlot:
    def test_a_model_a_model_that_is_cut_and_a_folder(self, file, folder, tmp_path):
        for number, arguments in enumerate([[file], [file, "--at", "block1_out", "--names", "head,tail"], [folder]]):
            path = tmp_path / f"{number}.txt"
            assert run("plot", *arguments, "-o", path).stdout == f"Wrote {path}.\n"
            assert path.stat().st_size > 0
        assert "head" in (tmp_path / "1.txt").read_text(encoding="utf-8")

    def test_a_file_that_exists_is_replaced_only_when_asked_for(self, file, tmp_path):
        path = tmp_path / "mine.txt"
        path.write_text("mine")
        for command in (["plot", file, "-o", path], ["plan", file, "--devices", "2", "-o", path]):
            error = run(*command, status=2).stderr
            assert error == f"Error: '{path}' exists already. Name another file, or pass --overwrite to replace it.\n"
            assert path.read_text() == "mine"
            run(*command, "--overwrite")
            assert path.read_text() != "mine"
            path.write_text("mine")

    def test_an_unknown_format_is_refused_with_the_list(self, file, tmp_path):
        message = run("plot", file, "-o", tmp_path / "x.bmp", status=2).stderr
        assert ".bmp" in message
        assert ".svg, .png, .pdf, .dot, .mmd, .txt" in message

    def test_what_does_not_go_together(self, file, folder, tmp_path):
        assert "is already split" in run("plot", folder, "--at", "1", "-o", tmp_path / "x.txt", status=2).stderr
        assert "--names needs cuts" in run("plot", file, "--names", "a", "-o", tmp_path / "x.txt", status=2).stderr
        assert list(tmp_path.iterdir()) == []


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["points", "ResNet5O"], "Error: 'ResNet5O' is neither an architecture of keras.applications nor a file."),
            (["points", "none.keras"], "Error: There is no file 'none.keras'."),
            (["explain", "ResNet50", "conv4_block6_ot"], "Error: Model 'resnet50' has no tensor 'conv4_block6_ot'."),
            (["points", "ResNet50", "--input-shape", "8x"], "'8x' is not a shape; expected numbers such as 224,224,3."),
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

    def test_a_name_that_begins_with_a_dash_stands_behind_two(self, odd, tmp_path):
        odd.save(tmp_path / "odd.keras")
        message = run("explain", tmp_path / "odd.keras", "-dash", status=2).stderr
        assert "No such option '-d'. If you mean it as NAME, put `--` before it: " in message
        assert message.endswith(" explain [OPTIONS] MODEL -- -dash\n")
        assert "If you mean it as DIR, put `--` before it" in run("verify", "-folder", status=2).stderr
        assert "mean it as" not in run("explain", tmp_path / "odd.keras", "c", "--jso", status=2).stderr

    def test_python_remedies_become_options(self, tmp_path):
        x = keras.Input((2,))
        keras.Model(x, keras.layers.Lambda(lambda t: t * 2)(x)).save(tmp_path / "code.keras")
        message = run("points", tmp_path / "code.keras", status=2).stderr
        assert message.endswith("If you trust its source, pass --unsafe.\n")
        run("points", tmp_path / "code.keras", "--unsafe")

    def test_an_interruption_is_no_failed_verification(self, file, monkeypatch):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("kerassplit.zoo.models.load_model", interrupted)
        assert run("points", file, status=130).stderr == "Interrupted.\n"


class TestOddInput:
    def test_another_input_shape_is_told_apart_from_wrong_numbers(self, tmp_path):
        options = ["--weights", "random", "--input-shape", "32,32,3"]
        run("split", "MobileNet", *options, "--at", "conv_pw_11_relu", "-o", tmp_path / "out")
        message = run("verify", tmp_path / "out", "--model", "MobileNet", "--weights", "random", status=2).stderr
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

    def test_an_unexpected_error_is_no_failed_verification(self, file, monkeypatch):
        def broken(model):
            raise RuntimeError("something\nbroke")

        monkeypatch.setattr(ks, "split_points", broken)
        message = run("points", file, status=2).stderr
        assert message == "Error: RuntimeError: something broke (Set KERASSPLIT_TRACEBACK=1 for a traceback.)\n"

    def test_a_lambda_names_the_option(self, tmp_path):
        x = keras.Input((4,), name="x")
        y = keras.layers.Lambda(lambda t: t * 2, name="double")(keras.layers.Dense(4, name="a")(x))
        ks.split(keras.Model(x, y), "a").save(tmp_path / "out")
        message = run("verify", tmp_path / "out", status=2).stderr
        assert "contains code" in message
        assert "pass --unsafe." in message
        run("verify", tmp_path / "out", "--unsafe")

    def test_samples_of_different_number(self, folder, file, tmp_path):
        np.savez(tmp_path / "x.npz", image=np.ones((2, 8, 8, 3), "float32"), extra=np.ones((3, 4), "float32"))
        message = run("verify", folder, "--model", file, "--input", tmp_path / "x.npz", status=2).stderr
        assert "along the first dimension; got 'image' (2, 8, 8, 3), 'extra' (3, 4)." in message


def test_names_are_checked_before_an_architecture_gets_its_weights(tmp_path, folder):
    (tmp_path / "bad.h5").write_bytes(b"no weights")
    other = ks.plan(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(2)]), 2)
    other.save(tmp_path / "plan.json")
    weights = ["--weights", tmp_path / "bad.h5"]
    out, picture = ["-o", tmp_path / "out"], ["-o", tmp_path / "x.svg"]
    assert "contains no weights for" in run("split", "MobileNet", "--at", "conv1", *out, *weights, status=2).stderr
    for call in (
        ["split", "MobileNet", "--at", "foo", *out],
        ["split", "EfficientNetB0", "--at", "foo", *out],
        ["split", "MobileNet", "--at", "foo", *out, *weights],
        ["explain", "MobileNet", "foo", *weights],
        ["plot", "MobileNet", "--at", "foo", *picture, *weights],
        ["plan", "MobileNet", "--devices", "2", "--must-cut", "foo", *weights],
        ["plan", "MobileNet", "--devices", "2", "--first-to", "foo", *weights],
    ):
        assert "has no tensor 'foo'" in run(*call, status=2).stderr, call
    assert "numbered 0 to" in run("split", "MobileNet", "--at", "999", *out, *weights, status=2).stderr
    assert "--open matches no" in run("verify", folder, "--model", "MobileNet", "--open", "foo", status=2).stderr
    planned = run("split", "MobileNet", "--plan", tmp_path / "plan.json", *out, status=2).stderr
    assert "The plan was made for" in planned
    assert not (tmp_path / "out").exists()


def test_what_only_imagenet_weights_add_is_not_refused_before():
    unknown = [ks.UnknownTensorError("", name=name) for name in ("rescaling_1", "resc*", "rescaling_2")]
    assert [may_hold_with_imagenet("efficientnetb0", error) for error in unknown] == [True, True, False]
    assert may_hold_with_imagenet("EfficientNetB7", ks.SplitError("number"))
    assert not may_hold_with_imagenet("EfficientNetV2B0", unknown[0])
