"""Models that take strings: planned, cut, compared on a file, run; no random input is possible."""

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from applications import NEEDS_STRINGS
from click.testing import CliRunner
from comparing import same_bits
from keras import layers

import kerassplit as ks
from kerassplit.cli import main
from kerassplit.cutting.crossing import CrossingTensor

pytestmark = NEEDS_STRINGS

TEXTS = np.array(["the cat sat", "a cat", "sat", "the the"])
BEHIND = "Take the part behind them: build_submodel(model, start='ids')."


@pytest.fixture(scope="module")
def reader() -> keras.Model:
    text = keras.Input((), dtype="string", name="text")
    ids = layers.TextVectorization(vocabulary=["the", "cat", "sat"], output_sequence_length=5, name="ids")(text)
    x = layers.Flatten(name="flat")(layers.Embedding(6, 3, name="table")(ids))
    return keras.Model(text, layers.Dense(2, name="score")(layers.Dense(8, name="wide")(x)), name="reader")


@pytest.fixture(scope="module")
def files(reader, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    reader.save(folder / "reader.keras")
    np.save(folder / "texts.npy", TEXTS)
    return folder


def run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_looking_words_up_is_no_arithmetic_so_they_are_planned_by_flops(reader):
    costs = ks.profile(reader)
    assert (costs.unknown, costs.calls[0].flops, costs.flops) == ((), 0, 2 * (15 * 8 + 8 * 2) + 10)
    assert ks.split(reader, ks.plan(reader, 2)).verify(TEXTS).identical


@pytest.mark.parametrize("crossing", [1, "any"])
def test_they_are_planned_by_parameters_whatever_bytes_strings_have(crossing, reader):
    plan = ks.plan(reader, 2, balance="params", max_crossing=crossing)
    assert sorted(stage.work for stage in plan.stages) == [18, 146]
    assert ks.split(reader, plan).verify(TEXTS).identical


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda model: ks.plan(model, 2, balance="memory"), "The bytes of 'text' are not known: it holds strings."),
        (
            lambda model: ks.plan(
                model, [ks.Device(name, "1 GFLOPS") for name in "ab"], links=ks.Link("1 Mbit/s"), objective="latency"
            ),
            "The bytes of 'text' are not known: it holds strings.",
        ),
        (lambda model: ks.plan(model, 2, balance="time"), "'reader' cannot be measured."),
        (lambda model: ks.profile(model, measure=True), "'reader' cannot be measured."),
    ],
)
def test_where_bytes_or_seconds_are_asked_for_the_way_out_works(ask, message, reader):
    with pytest.raises(ks.SplitError, match=re.escape(f"{message} {BEHIND}")):
        ask(reader)
    ask(ks.build_submodel(reader, start="ids"))


def test_the_way_out_names_all_that_is_made_of_strings():
    word, number = keras.Input((3,), dtype="string", name="word"), keras.Input((3,), dtype="int64", name="number")
    found = [
        layers.StringLookup(vocabulary=["ape", "bear"], name="words")(word),
        layers.IntegerLookup(vocabulary=[3, 5], name="numbers")(number),
        layers.Hashing(4, name="hashed")(word),
    ]
    model = keras.Model([word, number], layers.Concatenate()([layers.Embedding(4, 2)(one) for one in found]))
    with pytest.raises(ks.SplitError, match=re.escape("start=['hashed', 'words']).")):
        ks.plan(model, 2, balance="memory")
    tail = ks.build_submodel(model, start=["hashed", "words"])
    assert len(ks.plan(tail, 2, balance="memory").stages) == 2


def test_flops_that_nobody_knows_are_balanced_by_parameters():
    text = keras.Input((1,), dtype="string", name="text")
    counts = layers.StringLookup(vocabulary=["a", "b"], output_mode="count", name="counts")(text)
    model = keras.Model(text, layers.Dense(2)(layers.Dense(3, name="wide")(counts)), name="counter")
    with pytest.raises(ks.SplitError) as caught:
        ks.plan(model, 2)
    assert str(caught.value).endswith("Balance something else: balance='params' (--balance params) counts weights.")
    assert len(ks.plan(model, 2, balance="params").stages) == 2


def test_the_split_command_compares_them_on_a_file(files, tmp_path):
    out = tmp_path / "out"
    arguments = ["split", files / "reader.keras", "--stages", 2, "-o", out, "--json"]
    result = run(*arguments, "--input", files / "texts.npy")
    data = json.loads(result.stdout)
    assert (result.exit_code, data["ok"], data["receipt"]["identical"]) == (0, True, True)
    assert data["input"] == str(files / "texts.npy")
    verified = run("verify", out, "--model", files / "reader.keras", "--input", files / "texts.npy")
    assert verified.exit_code == 0
    assert "bit for bit" in verified.stdout


def test_without_a_file_it_saves_them_and_says_that_they_were_not_compared(files, tmp_path):
    result = run("split", files / "reader.keras", "--at", "table", "-o", tmp_path / "out", "--json")
    data = json.loads(result.stdout)
    assert (result.exit_code, data["receipt"], data["directory"]) == (0, None, str(tmp_path / "out"))
    assert data["verdict"].startswith(
        "The stages were not compared with 'reader': 'text' takes strings, and random input has none. Compare them on "
        "some, with --input FILE here"
    )
    assert same_bits(ks.load(tmp_path / "out")(TEXTS), keras.saving.load_model(files / "reader.keras")(TEXTS))


def test_other_commands_work_or_name_the_option(files, tmp_path):
    model = files / "reader.keras"
    for arguments in (
        ["points", model],
        ["explain", model, "table"],
        ["profile", model],
        ["plan", model, "--devices", 2],
    ):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
    result = run("plan", model, "--devices", 2, "--balance", "params")
    assert result.exit_code == 0, result.output
    run("split", model, "--at", "table", "-o", tmp_path / "out")
    result = run("verify", tmp_path / "out", "--model", model)
    assert result.exit_code == 2
    assert "'text' takes strings: give one to compare on with --input FILE." in result.stderr


def test_saved_stages_run_on_a_file_of_strings(reader, files, tmp_path):
    ks.split(reader, "table").save(tmp_path / "stages")
    result = run(
        "run", tmp_path / "stages", "--input", files / "texts.npy", "-o", tmp_path / "y.npy", "--batch-size", 3
    )
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), reader(TEXTS), rtol=1e-5)
    np.save(tmp_path / "numbers.npy", np.arange(3))
    result = run("run", tmp_path / "stages", "--input", tmp_path / "numbers.npy", "-o", tmp_path / "z.npy")
    assert "holds values of type int64; 'text' takes string." in result.stderr


def test_results_of_strings_are_written_and_gone_on_with(reader, tmp_path):
    split, output = ks.split(reader, "table"), tmp_path / "y.npy"
    for texts in (TEXTS, TEXTS.astype(object)):
        written = split.predict(texts, output=output, overwrite=True)
        assert same_bits(split.predict(texts, output=output, resume=True), written)
    with pytest.raises(ks.SplitError, match="y.npy' exists already"):
        split.predict(TEXTS[::-1].astype(object), output=output, resume=True)


def test_open_sides_stand_for_how_many_words_are_made():
    text = keras.Input((), dtype="string", name="text")
    x = layers.TextVectorization(vocabulary=["the", "cat", "sat"], name="ids")(text)
    x = layers.Dense(8, name="wide")(layers.Embedding(6, 3, name="table")(x))
    model = keras.Model(text, layers.Dense(2, name="score")(x), name="open")
    with pytest.raises(
        ks.SplitError, match="The FLOPs of 'ids' in 'open' are not known.* 'ids' makes has open"
    ) as said:
        ks.plan(model, 2)
    assert "Say what stands for them, with open_sides=128 (--open-sides 128). Balance something else: " in str(
        said.value
    )
    assert "'wide'" not in str(said.value)
    costs = ks.profile(model, 4, open_sides=10)
    assert (costs.unknown, costs.flops) == ((), 4 * 10 * (2 * (3 * 8 + 8 * 2) + 10))
    assert ks.plan(model, 2, open_sides=128).at == ["wide"]
    assert ks.plan(model, 2, balance="params").at


def test_an_output_of_strings_is_refused_as_what_it_is_and_the_way_out_works(tmp_path):
    taken = keras.Input((3,), dtype="int64", name="numbers")
    words = layers.StringLookup(vocabulary=["a", "b"], invert=True, name="words")
    split = ks.split(keras.Model(taken, words(layers.Identity(name="same")(taken)), name="speller"), "same")
    split.save(tmp_path / "stages")
    numbers = tmp_path / "numbers.npy"
    np.save(numbers, np.ones((4, 3), "int64"))
    with pytest.raises(ks.SplitError, match="'words' gives strings, which .* row by row. Leave `output` out."):
        split.predict(numbers, output=tmp_path / "y.npy")
    result = run("run", tmp_path / "stages", "--input", numbers, "-o", tmp_path / "y.npy")
    told = (
        "'words' gives strings, which .npy files cannot hold row by row. In Python, `kerassplit.load(DIR).predict(x)`"
    )
    assert (result.exit_code, told in result.stderr, "`output`" in result.stderr) == (2, True, False)
    assert ks.load(tmp_path / "stages").predict(numbers).tolist() == [[b"a"] * 3] * 4


def test_they_are_served():
    pytest.importorskip("PIL")
    from kerassplit.engines.serve.bodies import JSON, read, write
    from kerassplit.engines.serve.limits import Limits, Refused

    taken, limits = [CrossingTensor("text", (None,), "string", None)], Limits(1000, 1000)
    given = read(JSON, json.dumps({"text": ["a cat", "sät"]}).encode(), taken, limits, None)
    assert given["text"].tolist() == ["a cat", "sät"]
    assert json.loads(write({"y": np.array(["sät".encode(), b"a"], object)}, JSON)) == {"outputs": {"y": ["sät", "a"]}}
    with pytest.raises(Refused, match="'text' holds 'numbers'; expected 'text' \\(any\\) string."):
        read(JSON, b'{"text": [1, 2]}', taken, limits, None)


def words_and_numbers():
    word, number = keras.Input((3,), dtype="string", name="word"), keras.Input((2,), name="number")
    looked_up = layers.StringLookup(vocabulary=["ape", "bear"], name="words")(word)
    x = layers.Flatten(name="flat")(layers.Embedding(4, 2, name="table")(looked_up))
    return keras.Model([word, number], layers.Dense(1, name="top")(layers.Concatenate(name="both")([x, number])))


@pytest.mark.parametrize("tune", [True, False])
@pytest.mark.parametrize("mixed", [False, True])
def test_features_of_strings_are_refused_with_a_way_out_that_works(tune, mixed, tmp_path):
    if mixed:
        model, at, start = words_and_numbers(), "both", "words"
        texts = np.array([["ape", "bear", "cat"], ["bear", "bear", "ape"]])
        data = [texts, np.ones((2, 2), "float32")]
    else:
        text = keras.Input((), dtype="string", name="text")
        ids = layers.TextVectorization(vocabulary=["the", "cat", "sat"], output_sequence_length=5, name="ids")(text)
        x = layers.Flatten(name="flat")(layers.Embedding(6, 3, name="table")(ids))
        model, at, start, data = keras.Model(text, layers.Dense(1, name="score")(x)), "flat", "ids", TEXTS
        texts = data
    y = np.zeros((len(texts), 1), "float32")
    model.compile("sgd", "mse")
    head = model if tune else ks.build_submodel(model, end=at)
    with pytest.raises(ks.SplitError) as caught:
        ks.fine_tune(model, at, (data, y), tmp_path / "c") if tune else ks.cache_features(
            head, (data, y), tmp_path / "c"
        )
    taken = "word" if mixed else "text"
    then = "compile that as the model is and fine-tune it" if tune else "cache what that gives"
    assert str(caught.value) == (
        f"'{taken}' of '{head.name}' takes strings, and features are cached of data that is numbers. Take the part "
        f"behind them: `kerassplit.build_submodel(model, start='{start}')`; {then}, with what "
        f"`kerassplit.build_submodel(model, end='{start}')` makes of the texts in their place."
    )
    tail, reader = (eval(code, {"kerassplit": ks, "model": head}) for code in re.findall("`(.+?)`", str(caught.value)))
    numbers = reader(keras.ops.convert_to_tensor(texts))
    data = {start: numbers, "number": keras.ops.convert_to_tensor(data[1])} if mixed else numbers
    if tune:
        tail.compile("sgd", "mse")
        before = model.get_layer("top" if mixed else "score").get_weights()[0]
        assert len(ks.fine_tune(tail, at, (data, y), tmp_path / "c", verbose=False).history["loss"]) == 1
        assert not np.array_equal(model.get_layer("top" if mixed else "score").get_weights()[0], before)
    else:
        features = ks.cache_features(tail, (data, y), tmp_path / "c", shuffle=False, verbose=False)
        np.testing.assert_allclose(features[0][0], keras.ops.convert_to_numpy(tail(data)), rtol=1e-6)


def test_a_file_of_objects_is_refused_with_a_way_out_that_works(reader, files, tmp_path):
    reader_split = ks.split(reader, "table")
    reader_split.save(tmp_path / "stages")
    objects = np.array(TEXTS, object)
    np.save(tmp_path / "objects.npy", objects)
    np.savez(tmp_path / "objects.npz", text=objects)
    for name in ("objects.npy", "objects.npz"):
        for command in (
            ["verify", tmp_path / "stages", "--model", files / "reader.keras", "--input", tmp_path / name],
            ["run", tmp_path / "stages", "--input", tmp_path / name, "-o", tmp_path / "y.npy"],
        ):
            told = run(*command).stderr
            assert (
                f"'{tmp_path / name}' cannot be read as NumPy arrays: it holds Python objects, which are never "
                "unpickled. Save the array under a type of NumPy's own: strings with `array.astype(str)`, numbers with "
                "`array.astype('float32')`."
            ) in told
    np.save(tmp_path / "texts.npy", objects.astype(str))
    assert same_bits(reader_split.predict(tmp_path / "texts.npy"), reader_split.predict(TEXTS))
