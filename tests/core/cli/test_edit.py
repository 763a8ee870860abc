"""`kerassplit edit`: what can be said of an edit in a line."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from command_line import run

import kerassplit as ks
from kerassplit.cli import main
from kerassplit.editing.positions import INTERPOLATIONS

layers = keras.layers


def chain() -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.ReLU(name="conv_relu")(layers.Conv2D(4, 3, name="conv")(image))
    x = layers.Dropout(0.5, name="dropout")(layers.GlobalAveragePooling2D(name="pool")(x))
    return keras.Model(image, layers.Dense(2, name="score")(x), name="chain")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    chain().save(tmp_path / "chain.keras")
    return tmp_path / "chain.keras"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "edited.keras"


def kinds(file: Path) -> dict[str, str]:
    return {layer.name: type(layer).__name__ for layer in keras.models.load_model(file).layers[1:]}


def edit(file: Path, out: Path, *options: object, status: int = 0):
    return run("edit", file, *options, "-o", out, status=status)


def test_all_edits_together_in_the_order_that_help_tells(file, out):
    result = edit(
        *(
            file,
            out,
            "--insert",
            "conv_relu=SpatialDropout2D:rate=0.25,name='between'",
            "--insert",
            "pool=LayerNormalization:name='normed'",
        ),
        *("--replace", "*_relu=Activation:activation='gelu'", "--remove", "drop*", "--input-shape", "12,?,1"),
    )
    assert kinds(out) == {
        "conv": "Conv2D",
        "conv_relu": "Activation",
        "between": "SpatialDropout2D",
        "pool": "GlobalAveragePooling2D",
        "normed": "LayerNormalization",
        "score": "Dense",
    }
    edited = keras.models.load_model(out)
    assert edited.get_layer("conv_relu").activation is keras.activations.gelu
    assert (edited.get_layer("between").rate, edited.input_shape) == (0.25, (None, 12, None, 1))
    words = " ".join(result.stdout.split())
    assert "before after" in words
    assert "inputs 8×8×3 12×?×1 outputs 2 2 layers 5 6 parameters 122 58" in words
    assert "Removed 1: 'dropout'." in words
    assert "Replaced 2: 'conv' and 'conv_relu'." in words
    assert "Inserted 2: 'between' and 'normed'." in words
    assert words.endswith("Saved " + " ".join(str(out).split()) + ".")


def test_the_rest_computes_what_it_did(file, out):
    edit(file, out, "--insert", "conv_relu=Identity")
    assert ks.compare(keras.models.load_model(file), keras.models.load_model(out)).identical


def test_json_tells_the_same_and_nothing_else(file, out):
    data = json.loads(edit(file, out, "--replace", "score=Dense:units=5", "--remove", "dropout", "--json").stdout)
    assert data["before"] == {
        "inputs": [{"name": "image", "shape": [None, 8, 8, 3]}],
        "outputs": [{"name": "score", "shape": [None, 2]}],
        "layers": 5,
        "params": 122,
    }
    assert data["after"]["outputs"] == [{"name": "score", "shape": [None, 5]}]
    assert {key: data[key] for key in ("model", "removed", "replaced", "inserted", "file")} == {
        "model": "chain",
        "removed": ["dropout"],
        "replaced": ["score"],
        "inserted": [],
        "file": str(out),
    }
    assert data["warnings"] == [
        "Weights that new layers could not get from those that they replace: 'score/kernel (4, 5), which was (4, 2)' "
        "and 'score/bias (5,), which was (2,)'."
    ]


def test_weights_that_are_not_carried_over_are_told(file, out):
    assert edit(file, out, "--replace", "score=Dense:units=2").stderr == ""
    told = edit(file, out, "--replace", "score=Dense:units=5", "--overwrite").stderr
    assert told.startswith("Warning: Weights that new layers could not get from those that they replace: 'score/kernel")


def test_a_glob_gets_a_layer_of_its_own_for_each(file, out):
    edit(file, out, "--insert", "*o*=Activation:activation='tanh'")
    assert list(kinds(out).values()).count("Activation") == 5


def test_values_are_plain_literals(file, out):
    edit(file, out, "--insert", "conv_relu=Conv2D:filters=4,kernel_size=(1, 3),use_bias=False,name='a=b,c:d'")
    made = keras.models.load_model(out).get_layer("a=b,c:d")
    assert (made.kernel_size, made.use_bias) == ((1, 3), False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--insert", "conv_relu=Dropuot"], "keras.layers has no layer 'Dropuot'. Did you mean 'Dropout'"),
        (["--insert", "conv_relu=serialize"], "keras.layers has no layer 'serialize'."),
        (["--insert", "conv_relu=Dropout"], "Dropout cannot be made: Dropout.__init__() missing 1 required positional"),
        (["--insert", "conv_relu=ReLU:slope=1"], "It takes max_value, negative_slope, threshold."),
        (["--insert", "conv_rleu=ReLU"], "Did you mean 'conv_relu'?"),
        (["--insert", "pool=Conv2D:filters=4,kernel_size=1"], "inserted after 'pool', cannot be called on (None, 4)"),
        (["--remove", "pool"], "only a layer that returns what it takes"),
        (["--remove", "pool"], "--replace puts another layer in its place."),
        (
            ["--input-shape", "2,2,3"],
            "'conv' (Conv2D) takes (None, 8, 8, 3) in the model and would receive (None, 2, 2, 3)",
        ),
    ],
)
def test_mistakes_end_in_one_message_and_no_file(file, out, options, said):
    assert said in edit(file, out, *options, status=2).stderr
    assert list(out.parent.iterdir()) == [file]


def test_mistakes_in_an_architecture_are_told_before_its_weights_are_there(out, monkeypatch):
    monkeypatch.setattr(keras.utils, "get_file", lambda *_, **__: pytest.fail("weights are downloaded"))
    told = edit(Path("MobileNet"), out, "--remove", "conv1", status=2).stderr
    assert told.startswith("Error: 'conv1' (Conv2D) takes (None, 224, 224, 3) float32 and returns (None, 112, 112, 32)")


def test_nothing_is_written_over(file, out):
    out.write_bytes(b"mine")
    assert "exists already" in edit(file, out, "--remove", "dropout", status=2).stderr
    assert out.read_bytes() == b"mine"
    edit(file, out, "--remove", "dropout", "--overwrite")
    assert "dropout" not in kinds(out)
    assert "is also an input here" in edit(file, file, "--remove", "dropout", "--overwrite", status=2).stderr


def test_a_link_is_replaced_not_followed(file, out, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    out.symlink_to(target)
    edit(file, out, "--remove", "dropout", "--overwrite")
    assert target.read_bytes() == b"mine" and not out.is_symlink()


def test_position_embeddings_are_resized_on_request(tmp_path, out):
    @keras.saving.register_keras_serializable("edit")
    class Positions(layers.Layer):
        def __init__(self, rows, **more):
            super().__init__(**more)
            self.rows = rows

        def build(self, shape):
            self.table = self.add_weight(shape=(self.rows, shape[-1]), name="table")

        def call(self, x):
            return x + self.table

        def get_config(self):
            return {**super().get_config(), "rows": self.rows}

    image = keras.Input((8, 8, 3), name="image")
    x = Positions(4, name="positions")(layers.Reshape((-1, 4))(layers.Conv2D(4, 4, 4)(image)))
    keras.Model(image, x, name="vit").save(tmp_path / "vit.keras")
    told = edit(tmp_path / "vit.keras", out, "--input-shape", "16,16,3", status=2).stderr
    assert "Pass --resize bilinear to interpolate it." in told
    edit(tmp_path / "vit.keras", out, "--input-shape", "16,16,3", "--resize", "bilinear")
    assert keras.models.load_model(out)(np.zeros((1, 16, 16, 3))).shape == (1, 16, 4)


def test_every_interpolation_is_offered():
    (option,) = [one for one in main.commands["edit"].params if one.name == "resize"]
    assert tuple(option.type.choices) == INTERPOLATIONS


def test_shapes_of_several_inputs(tmp_path, out):
    tower = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 3, name="conv"), layers.GlobalMaxPooling2D()])
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
    keras.Model([left, right], layers.Add()([tower(left), tower(right)])).save(tmp_path / "siamese.keras")

    edit(tmp_path / "siamese.keras", out, "--input-shape", "left=12,10,3", "--input-shape", "right=12x10x3")
    assert keras.models.load_model(out).input_shape == [(None, 12, 10, 3), (None, 12, 10, 3)]
    for shapes in (["12,10,3", "12,10,3"], ["left=12,10,3", "left=12,10,3"], ["left=12,10,3", "12,10,3"]):
        options = [text for shape in shapes for text in ("--input-shape", shape)]
        result = edit(tmp_path / "siamese.keras", out, *options, "--overwrite", status=2)
        assert "Several shapes need names of inputs, each once: left=96,96,3." in result.stderr
