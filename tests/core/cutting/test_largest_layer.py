"""Models with most work in one layer that no cut divides: users learn about it, and how to open it."""

import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from comparing import same_bits
from keras import layers

import kerassplit as ks
from kerassplit.cli import main

HINT = (
    "in '{name}' (Encoder), one call that no cut divides.\n"
    "To cut inside, open it: kerassplit.trace(model, open=['{name}']), or --open {name}."
)


@keras.saving.register_keras_serializable("tests")
class Encoder(layers.Layer):
    """A chain of layers in one layer."""

    def __init__(self, count=3, filters=0, **options):
        super().__init__(**options)
        self.count, self.filters = count, filters
        self.inner = [
            layers.Conv1D(filters, 3, padding="same", name=f"inner_{place}")
            if filters
            else layers.Dense(8, name=f"inner_{place}")
            for place in range(count)
        ]

    def build(self, shape):
        for layer in self.inner:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)

    def call(self, x):
        for layer in self.inner:
            x = layer(x)
        return x

    def get_config(self):
        return {**super().get_config(), "count": self.count, "filters": self.filters}


def model_of(*some, shape=(8,), name="chain"):
    x = inputs = keras.Input(shape, name="x")
    for layer in some:
        x = layer(x)
    return keras.Model(inputs, x, name=name)


@pytest.fixture
def chain() -> keras.Model:
    return model_of(layers.Dense(8, name="stem"), Encoder(name="encoder"), layers.Dense(2, name="head"))


def run(*arguments, status=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, (result.output, result.exception)
    return result


def test_points_plans_and_explanations_name_the_layer_and_how_to_open_it(chain, tmp_path):
    hint, file = HINT.format(name="encoder"), tmp_path / "chain.keras"
    chain.save(file)
    for name in ("encoder", "head"):
        assert f"\n71% of the parameters are {hint}" in f"{ks.explain(chain, name)}"
        assert hint in run("explain", file, name).stdout
    assert ks.explain(chain, "stem").advice is None
    assert f"parameters are {hint}" in run("points", file).stdout
    assert json.loads(run("points", file, "--json").stdout)["closed_layer"] == "encoder"
    plan = ks.plan(chain, 2)
    assert plan.hints == (f"71% of the parameters are {hint}",)
    assert hint in f"{plan}"
    assert hint in run("plan", file, "--devices", 2).stdout
    assert hint in run("split", file, "--stages", 2, "-o", tmp_path / "out").stderr
    assert ks.plan(chain, 1).hints == ()
    with pytest.raises(ks.PlanError) as caught:
        ks.plan(chain, 5)
    assert str(caught.value).endswith(hint)
    assert caught.value.binding == ("devices",)


@pytest.mark.parametrize("kind", ["plain", "nested", "called twice"])
def test_what_the_advice_says_opens_the_layer(kind):
    encoder = Encoder(name="encoder")
    some = [layers.Dense(8, name="stem"), encoder, layers.Dense(2, name="head")]
    if kind == "nested":
        some[1] = model_of(encoder, name="backbone")
    if kind == "called twice":
        some.insert(2, encoder)
    model = model_of(*some)
    path = "backbone/encoder" if kind == "nested" else "encoder"
    advice = ks.explain(model, "head").advice
    assert advice.endswith(HINT.format(name=path))
    opened = ks.trace(model, open=[path])
    inside = [point.name for point in ks.split_points(opened) if "inner_1" in point.name]
    assert len(inside) == (2 if kind == "called twice" else 1)
    assert ks.explain(opened, "head").advice is None
    assert ks.plan(opened, 2).hints == ()
    x = np.random.default_rng(0).normal(size=(2, 8)).astype("float32")
    assert same_bits(ks.split(opened, inside)(x), model(x))


def test_flops_count_where_they_are_known():
    model = model_of(
        *(Encoder(filters=3, name="encoder"), layers.Flatten(name="flat"), layers.Dense(8, name="head")),
        shape=(32, 3),
    )
    assert ks.explain(model, "head").advice is None
    (hint,) = ks.plan(model, 2).hints
    assert "% of the FLOPs are in 'encoder' (Encoder)" in hint


def test_a_model_that_can_be_cut_evenly_or_whose_layer_cannot_be_opened_gets_no_advice(small, resnet):
    even = model_of(Encoder(name="one"), Encoder(name="other"))
    own = model_of(layers.Bidirectional(layers.LSTM(16), name="both"), layers.Dense(2, name="head"), shape=(4, 8))
    for model, name in ((even, "other"), (own, "head"), (small, "score"), (resnet, "predictions")):
        assert ks.explain(model, name).advice is None
    assert ks.plan(even, 2).hints == ()


def test_commands_open_layers(chain, tmp_path):
    file, folder, option = tmp_path / "chain.keras", tmp_path / "out", ("--open", "enc*")
    chain.save(file)
    printed = run("points", file, *option).stdout
    assert " encoder/inner_1 " in printed
    assert "To cut inside" not in printed
    assert "is a split point" in run("explain", file, "encoder/inner_1", *option).stdout
    assert "encoder/inner_1" in run("profile", file, *option).stdout
    assert "encoder/inner_" in run("plan", file, "--devices", 2, "-o", tmp_path / "plan.json", *option).stdout
    data = json.loads(run("split", file, "--plan", tmp_path / "plan.json", "-o", folder, "--json", *option).stdout)
    assert data["stages"][0]["outputs"][0].startswith("encoder/inner_")
    assert data["ok"]
    assert "bit for bit" in run("verify", folder, "--model", file, *option).stdout
    run("plot", file, "--at", "encoder/inner_1", "-o", tmp_path / "chain.txt", *option)
    assert "name it with --model" in run("verify", folder, *option, status=2).stderr
    assert "is already split; --open is for a model." in run("plot", folder, "-o", "x.txt", *option, status=2).stderr
    message = run("points", file, "--open", "encodr", status=2).stderr
    assert "'encodr' in --open matches no composite layer that 'chain' calls. Did you mean 'encoder'?" in message


def test_a_plan_without_hints_is_read(chain, tmp_path):
    file = tmp_path / "plan.json"
    ks.plan(chain, 2).save(file)
    data = json.loads(file.read_text())
    assert ks.Plan.load(file).hints == tuple(data.pop("hints"))
    file.write_text(json.dumps(data))
    assert ks.Plan.load(file).hints == ()
    file.write_text(json.dumps({**data, "hints": [3]}))
    with pytest.raises(ks.SplitError, match="holds no plan"):
        ks.Plan.load(file)
