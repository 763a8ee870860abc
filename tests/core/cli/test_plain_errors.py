"""Messages are plain text, even if they quote Keras, which prints parts of its errors in bold."""

import contextlib
import copy
import importlib
import multiprocessing
import pickle
import re
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers

import kerassplit as ks
from kerassplit.cli import main
from kerassplit.engines.serve.limits import Refused
from kerassplit.errors import RunError, SplitError, StoreError
from kerassplit.pictures.render import NoLayoutError
from kerassplit.storage.exports.reasons import reason
from kerassplit.text import printable, warn

BOLD = "\x1b[1mof one kind\x1b[0m, \x1b[38;5;208mof another\x1b[0m"
register = keras.saving.register_keras_serializable("test_plain_errors")


@register
class Picky(layers.Layer):
    """Accepts nothing; Keras prints its error in bold."""

    def call(self, x):
        raise ValueError("no such rows")

    def compute_output_shape(self, shape):
        return shape


@register
class Unsaveable(layers.Layer):
    def call(self, x):
        return x + 1

    def get_config(self):
        raise NotImplementedError(BOLD)


def model(layer: Any) -> keras.Model:
    inputs = keras.Input((3,), name="inputs")
    hidden = layers.Dense(4, name="hidden")(inputs)
    return keras.Model(inputs, layers.Dense(2, name="out")(layer(hidden)), name="model")


def through_pickle(protocol: int, value: Any) -> Any:
    return pickle.loads(pickle.dumps(value, protocol))


def whole(call: Any) -> SplitError:
    with pytest.raises(SplitError) as caught:
        call()
    return caught.value


def test_errors_of_layers_are_quoted_without_terminal_codes(tmp_path):
    picky, unsaveable = model(Picky(name="picky")), model(Unsaveable(name="unsaveable"))
    rows = np.random.default_rng(4).normal(size=(8, 3)).astype("float32")
    errors = [
        whole(lambda: ks.split(picky, "hidden").predict(rows)),
        whole(lambda: ks.split(picky, "hidden").verify()),
        whole(lambda: ks.profile(picky, measure=True)),
        whole(lambda: ks.build_submodel(unsaveable, end="unsaveable", copy_weights=True)),
        whole(lambda: ks.split(unsaveable, "hidden").save(tmp_path / "stages")),
    ]
    quoted = [str(error.__cause__) for error in errors]
    assert any("\x1b" in text for text in quoted)
    for error in errors:
        assert "\x1b" not in str(error), str(error)
        assert "no such rows" in str(error) or "of one kind, of another" in str(error), str(error)


def test_all_kinds_of_messages_are_plain_and_keep_what_else_they_hold():
    stage = RunError(f"It fails: {BOLD}", stage="stage_1", batch=2, rows=(64, 96))
    assert str(stage) == "It fails: of one kind, of another"
    assert (stage.stage, stage.batch, stage.rows) == ("stage_1", 2, (64, 96))
    assert str(StoreError(BOLD, path="here")) == "of one kind, of another"
    assert str(pickle.loads(pickle.dumps(SplitError(BOLD)))) == "of one kind, of another"
    assert str(SplitError(BOLD[:2] + " ...")) == " ..."  # where a message was cut off inside a code
    assert str(Refused(422, BOLD)) == "of one kind, of another"
    assert reason(ValueError(BOLD)) == "ValueError: of one kind, of another"


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own text")
def test_a_stage_that_fails_in_a_graph_says_what_went_wrong_and_no_list_of_files():
    numbers = keras.Input((3,), dtype="int32", name="numbers")
    known = keras.layers.Embedding(5, 4, name="known")(keras.layers.Identity(name="same")(numbers))
    split = ks.split(keras.Model(numbers, known), "same")
    with pytest.raises(ks.SplitError, match=r"\[0,0\] = 9 is not in \[0, 5\)") as error:
        split.predict(np.full((2, 3), 9, "int32"))
    assert 'File "' not in str(error.value) and "Graph execution error" not in str(error.value)


EVIL = "\x1b[31mred\x1b]0;title\x07\x9b2J\r\x08\u202eexe\u2066\u200b\u2028\x7f"
SHOWN = "red"
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff]")


@pytest.fixture(scope="module")
def evil() -> keras.Model:
    """A chain whose model, input and layer names contain terminal escape codes and markup."""
    x = inputs = keras.Input((4,), name=f"in{EVIL}")
    for number in range(3):
        x = layers.Dense(4, name=f"[bold]$\\frac{number}$ {number}{EVIL}")(x)
    return keras.Model(inputs, x, name=f"[b]model{EVIL}")


def assert_plain(text: str) -> None:
    assert SHOWN in text
    assert not ACTING.search(text), text
    assert "\\u202e" in text


def test_names_out_of_files_are_shown_with_their_controls_as_escapes(evil, tmp_path, capsys):
    points = ks.split_points(evil)
    split = ks.split(evil, points[0].name)
    phone = ks.Device(f"phone{EVIL}", "1 GFLOPS")
    plan = ks.plan(evil, [phone, ks.Device("server", "9 GFLOPS")], links=ks.Link("9 GB/s"), must_cut=points[0].name)
    sweep = ks.plan_sweep(evil, [phone, ks.Device("server", "9 GFLOPS")])
    profile = ks.profile(evil)
    tame = keras.Model(inputs := keras.Input((4,)), layers.Dense(2)(inputs), name="tame")
    features = ks.cache_features(tame, np.ones((3, 4)), tmp_path / EVIL)
    assert_plain(capsys.readouterr().err)
    shown = [
        *(str(one) for one in (split, plan, sweep, profile, split.verify(), ks.explain(evil, points[0].name))),
        *(repr(one) for one in (split, plan, sweep, profile, features, points[0], split.verify(), *split.crossings)),
        str(split.crossings[0]),
        split.verify().verdict(),
        *(str(ks.plot(one)) for one in (evil, split, split[0])),
        *(
            ks.plot(split, detail=detail).render(kind).decode()
            for detail in ("blocks", "layers")
            for kind in ("dot", "mmd")
        ),
        str(whole(lambda: ks.split(evil, f"[bold]{EVIL}"))),
        str(whole(lambda: split.predict(np.ones((2, 5))))),
        str(whole(lambda: ks.load(tmp_path / f"missing{EVIL}"))),
    ]
    for text in shown:
        assert_plain(text)


def test_charts_and_drawings_hold_no_controls(evil, tmp_path):
    pytest.importorskip("matplotlib")
    points = ks.split_points(evil)
    devices = [ks.Device(f"phone{EVIL}", "1 GFLOPS"), ks.Device("server", "9 GFLOPS")]
    plan = ks.plan(evil, devices, links=ks.Link("9 GB/s"), must_cut=points[0].name)
    pictures = [one.plot().render("svg").decode() for one in (plan, ks.profile(evil))]
    with contextlib.suppress(NoLayoutError):
        pictures.append(ks.plot(ks.split(evil, points[0].name)).render("svg").decode())
    for text in pictures:
        assert_plain(text)


def test_the_command_line_shows_no_controls(evil, tmp_path):
    evil.save(tmp_path / "evil.keras")
    split = ks.split(evil, ks.split_points(evil)[0].name)
    ks.plan(evil, [ks.Device(f"phone{EVIL}", "1 GFLOPS"), ks.Device("server", "9 GFLOPS")]).save(tmp_path / "plan.json")
    file = str(tmp_path / "evil.keras")
    runs = [
        ["points", file],
        ["explain", file, split.crossings[0].tensors[0].name],
        ["explain", file, f"nothing{EVIL}"],
        ["profile", file],
        ["plan", file, "--devices", "2"],
        ["split", file, "--at", "0", "-o", str(tmp_path / "out")],
    ]
    for arguments in runs:
        result = CliRunner().invoke(main, arguments)
        assert_plain(result.stdout + result.stderr)


def test_ordinary_text_stays_as_it_is():
    for text in ("conv1_bn", "größe×2 – „Bild“ 東京 🙂", "a b\tc\nd", "non\u00a0breaking", "[bold]:heart:$x$"):
        assert printable(text) == text
    assert printable("a\tb\nc", kept="") == r"a\tb\nc"
    assert printable("\ud800\x00") == r"\ud800\x00"


def errors() -> list[SplitError]:
    """One error of each kind, with all its attributes."""
    receipt = ks.split(model(layers.ReLU(name="relu")), "hidden").verify()
    made = {
        "_NameError": {"name": "a"},
        "UnknownTensorError": {"name": "a", "matches": ["b"]},
        "AmbiguousTensorError": {"name": "a", "matches": ["a@0", "a@1"]},
        "InsideBranchError": {"name": "a", "crossing": ["b"], "before": None, "after": "c"},
        "NotConnectedError": {"name": "a"},
        "PlanError": {"binding": ["memory"], "enough": {"memory": 3.0}},
        "StoreError": {"path": "here"},
        "RunError": {"stage": "stage_0", "batch": 2, "rows": (4, 6)},
        "VerificationError": {"receipt": receipt},
    }
    kinds = [SplitError]
    for kind in kinds:
        kinds += [one for one in kind.__subclasses__() if one.__module__.startswith("kerassplit")]
    found = [kind(f"A {kind.__name__}.", **made.get(kind.__name__, {})) for kind in kinds]
    for error in found:
        error.add_note("A note.")
        error.__cause__ = KeyError("within")
    return [*found, Refused(422, "It is wrong.")]


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, *(partial(through_pickle, protocol) for protocol in range(6))]
)
def test_all_errors_survive_copies(copied):
    kinds = set()
    for error in errors():
        other = copied(error)
        kinds.add(type(other).__name__)
        assert (type(other), other.args, str(other)) == (type(error), error.args, str(error))
        assert vars(other) == vars(error)
        assert getattr(other, "__notes__", None) == getattr(error, "__notes__", None)
    assert kinds >= {name for name in ks.__all__ if name.endswith("Error")} | {"NoLayoutError", "Refused"}


def raise_one(module: str, kind: str) -> None:
    importlib.import_module(module)  # this process may not have imported it
    raise next(error for error in errors() if type(error).__name__ == kind) from None


def test_a_pool_of_processes_hands_every_error_on():
    expected = errors()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for error in expected:
            with pytest.raises(type(error)) as caught:
                pool.apply_async(raise_one, (type(error).__module__, type(error).__name__)).get(timeout=120)
            assert str(caught.value) == str(error)
            assert vars(caught.value).keys() == vars(error).keys()


def test_all_that_is_handed_out_survives_copies(tmp_path):
    whole_model = model(layers.ReLU(name="relu"))
    split = ks.split(whole_model, "hidden")
    devices = [ks.Device("phone", "1 GFLOPS"), ks.Device("server", "9 GFLOPS")]
    results = [
        ks.split_points(whole_model),
        ks.explain(whole_model, "relu"),
        ks.crossings(whole_model),
        split.crossings,
        split.verify(),
        ks.profile(whole_model),
        ks.profile(whole_model, measure=True, verbose=False),
        ks.plan(whole_model, devices, links=ks.Link("9 MB/s")),
        ks.plan_sweep(whole_model, devices),
        devices,
        ks.Link("9 MB/s"),
        ks.plot(split).picture,
    ]
    for result in results:
        for copied in (copy.copy, copy.deepcopy, partial(through_pickle, 2), partial(through_pickle, 5)):
            assert repr(copied(result)) == repr(result)


def test_warnings_show_names_as_escapes_and_point_at_the_callers_line():
    with pytest.warns(UserWarning, match=re.escape(r"'a\x1b[2J' keeps a state")) as caught:
        warn("'a\x1b[2J' keeps a state")
    assert caught[0].filename == __file__
    package = Path(ks.__file__).parent
    assert [path.name for path in package.rglob("*.py") if "warnings.warn(" in path.read_text()] == ["text.py"]
