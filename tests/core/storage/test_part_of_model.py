"""Stages whose layers Keras cannot save: they are saved by the config of the whole model, and load alone."""

import copy
import json
import pickle
import zipfile

import keras
import numpy as np
import pytest
from comparing import same_bits
from folders import chain_split
from forgetful import Forgetful, WholeModel

import kerassplit as ks
from kerassplit.cutting.part_of_model import PartOfModel, reads_back
from kerassplit.graph.internals.layers import all_layers

X = np.linspace(-2, 2, 12, dtype="float32").reshape(3, 4)
CUTS = ["forget_a", "b"]


@pytest.fixture
def model():
    return WholeModel(name="whole")


def config_in(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json"))


def test_stages_that_only_the_whole_model_s_config_describes_are_equal_bit_for_bit(model, tmp_path):
    ks.split(model, CUTS).save(tmp_path / "out")
    loaded = ks.load(tmp_path / "out")
    assert all(isinstance(stage.model, PartOfModel) for stage in loaded)
    assert ks.verify(model, loaded, X).check().identical
    assert same_bits(loaded.join()(X), model(X))


def test_a_stage_that_is_loaded_alone_holds_no_values_but_its_own(model, tmp_path):
    split = ks.split(model, CUTS)
    split.save(tmp_path / "out")
    for name in ("stage_0.keras", "stage_2.keras"):
        (tmp_path / "out" / name).unlink()
    (stage,) = ks.load(tmp_path / "out", stages=["stage_1"])
    assert [one.path for one in stage.model.weights] == [one.path for one in split[1].model.weights]
    x = keras.ops.convert_to_tensor(X)
    assert same_bits(stage.run({"forget_a": x})["b"], split[1].run({"forget_a": x})["b"])
    behind = {
        one.operation for layer in stage.model.layers for node in layer._inbound_nodes for one in node.parent_nodes
    }
    others = [layer for layer in behind if isinstance(layer, keras.Layer) and layer not in all_layers(stage.model)]
    assert all(variable._value is None for layer in others for variable in layer.variables)


def test_a_config_that_forgets_an_argument_is_noticed(model):
    assert not reads_back(keras.Sequential([keras.Input((4,)), Forgetful(3.0)]))
    assert reads_back(keras.Sequential([keras.Input((4,)), Forgetful(1.0)]))


def test_stages_that_keras_can_save_are_saved_as_it_does(tmp_path):
    chain_split().save(tmp_path / "out")
    assert config_in(tmp_path / "out" / "stage_0.keras")["class_name"] == "Functional"


def test_loaded_stages_are_saved_copied_and_pickled_again(tmp_path):
    model = WholeModel(blocks="ab")
    ks.split(model, "forget_a").save(tmp_path / "out")
    loaded = ks.load(tmp_path / "out")
    loaded.save(tmp_path / "again")
    again = ks.load(tmp_path / "again")
    for other in (again, copy.deepcopy(again), pickle.loads(pickle.dumps(again))):
        assert same_bits(other(X), model(X))


def test_names_and_frozen_layers_stay(model, tmp_path):
    model.get_layer("b").trainable = False
    split = ks.split(model, "forget_a")
    split.save(tmp_path / "out")
    keras.layers.ReLU()  # Keras counts on
    for stage, loaded in zip(split, ks.load(tmp_path / "out"), strict=True):
        assert [layer.name for layer in loaded.model.layers] == [layer.name for layer in stage.model.layers]
        assert [one.path for one in loaded.model.trainable_weights] == [
            one.path for one in stage.model.trainable_weights
        ]


def test_what_neither_config_describes_ends_in_an_error_with_both_reasons(tmp_path):
    whole = WholeModel(name="whole")
    whole._arguments["factor"] = 2.0
    own = WholeModel(name="state", state=True)
    for model, told in ((whole, "'forget_a' .Forgetful. has another `_factor`"), (own, "keeps state between batches")):
        with pytest.raises(ks.StoreError, match=rf"'price'.*Nor can it be built from the config of .*{told}"):
            ks.split(model, "forget_a").save(tmp_path / "out")
        assert not (tmp_path / "out").exists()
