"""`with_input_shape` for vision transformers: position embeddings are refused by name, or interpolated."""

import keras
import numpy as np
import pytest
from comparing import copied, fingerprint, same_bits
from shape_models import random_input

import kerassplit as ks
from kerassplit.errors import UnsupportedModelError

layers, ops = keras.layers, keras.ops


@keras.saving.register_keras_serializable("positions")
class PatchEncoder(layers.Layer):
    """As in Keras's examples: the number of patches is a setting."""

    def __init__(self, num_patches, projection_dim, **options):
        super().__init__(**options)
        self.num_patches, self.projection_dim = num_patches, projection_dim
        self.projection = layers.Dense(projection_dim, name="projection")
        self.position_embedding = layers.Embedding(num_patches, projection_dim, name="positions")

    def build(self, shape):
        self.projection.build(shape)
        self.position_embedding.build((1, self.num_patches))

    def call(self, patches):
        positions = ops.expand_dims(ops.arange(self.num_patches), 0)
        return self.projection(patches) + self.position_embedding(positions)

    def get_config(self):
        return {**super().get_config(), "num_patches": self.num_patches, "projection_dim": self.projection_dim}

    @property
    def table(self):
        return self.position_embedding.embeddings


@keras.saving.register_keras_serializable("positions")
class ClassAndPosition(layers.Layer):
    """With a class token; the size of the image is a setting."""

    def __init__(self, image_size, patch_size, **options):
        super().__init__(**options)
        self.image_size, self.patch_size = image_size, patch_size

    def build(self, shape):
        sides = self.image_size if isinstance(self.image_size, (list, tuple)) else [self.image_size] * 2
        count = (sides[0] // self.patch_size) * (sides[1] // self.patch_size)
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="class_token")
        self.table = self.add_weight(shape=(1, count + 1, shape[-1]), name="position_embedding")

    def call(self, x):
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1]))
        return ops.concatenate([token, x], axis=1) + self.table

    def compute_output_shape(self, shape):
        return (shape[0], None if shape[1] is None else shape[1] + 1, shape[2])

    def get_config(self):
        return {**super().get_config(), "image_size": self.image_size, "patch_size": self.patch_size}


@keras.saving.register_keras_serializable("positions")
class Learned(layers.Layer):
    """Takes the size of its table, a row for each position or a grid of them, from its input."""

    def build(self, shape):
        self.table = self.add_weight(shape=(1, *shape[1:]), name="table")

    def call(self, x):
        return x + self.table

    def compute_output_shape(self, shape):
        return shape


def vit(shape, encoder, grid=False, dim=6):
    inputs = keras.Input(shape, name="image")
    x = layers.Conv2D(dim, 4, strides=4, name="patches")(inputs)
    x = encoder(x if grid else layers.Reshape((-1, dim), name="rows")(x))
    x = layers.Reshape((-1, dim), name="again")(x) if grid else x
    x = layers.Add(name="add")([x, layers.MultiHeadAttention(2, 3, name="attention")(x, x)])
    return keras.Model(inputs, layers.GlobalAveragePooling1D(name="average")(x), name="vit")


ENCODERS = {
    "num_patches": lambda rows, columns: PatchEncoder(rows * columns, 6, name="encoder"),
    "image_size": lambda rows, columns: ClassAndPosition((4 * rows, 4 * columns), 4, name="encoder"),
    "from its input": lambda rows, columns: Learned(name="encoder"),
    "grid": lambda rows, columns: Learned(name="encoder"),
}


def built(kind, rows, columns):
    model = vit((4 * rows, 4 * columns, 3), ENCODERS[kind](rows, columns), grid=kind == "grid")
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=one.shape) for one in model.weights])
    return model


def resized(kind, table, old, new, how):
    """The table resized by hand."""
    table = copied(table)
    first = table.reshape(-1, 6)[: kind == "image_size"]
    grid = ops.image.resize(table.reshape(-1, 6)[len(first) :].reshape(*old, 6), new, interpolation=how)
    rows = np.concatenate([first, copied(grid).reshape(-1, 6)])
    return rows.reshape(*table.shape[:-2], -1, 6) if kind != "grid" else rows.reshape(1, *new, 6)


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_embedding_is_refused_by_name_unless_a_way_to_resize_is_given(kind):
    model = built(kind, 4, 4)
    before = fingerprint(model)
    encoder = model.get_layer("encoder")
    name = {"num_patches": "embeddings", "image_size": "position_embedding"}.get(kind, "table")
    kind_ = type(encoder).__name__
    with pytest.raises(UnsupportedModelError) as caught:
        ks.with_input_shape(model, (24, 24, 3))
    wanted = {"num_patches": "(36, 6)", "image_size": "(1, 37, 6)", "grid": "(1, 6, 6, 6)"}.get(kind, "(1, 36, 6)")
    assert str(caught.value) == (
        f"'encoder' ({kind_}) has an embedding for each position, '{name}' of shape {tuple(encoder.table.shape)}, and "
        f"{wanted} are needed now. Pass resize='bilinear' to interpolate it."
    )
    with pytest.raises(UnsupportedModelError, match=rf"^Sides can be open .* 'encoder' \({kind_}\) takes"):
        ks.with_input_shape(model, (None, None, 3))
    assert fingerprint(model) == before


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize(
    "new, how", [((6, 6), "bilinear"), ((3, 5), "bicubic"), ((2, 2), "nearest"), ((4, 8), "bilinear")]
)
def test_it_is_interpolated_as_an_image_and_a_class_token_stays(kind, new, how):
    model = built(kind, 4, 4)
    result = ks.with_input_shape(model, (4 * new[0], 4 * new[1], 3), resize=how)
    table = result.get_layer("encoder").table
    expected = resized(kind, model.get_layer("encoder").table, (4, 4), new, how)
    np.testing.assert_allclose(copied(table), expected, rtol=1e-6, atol=1e-6)
    fresh = built(kind, *new)
    fresh.set_weights(result.get_weights())
    assert same_bits(result(random_input(result)), fresh(random_input(result)))
    others = [one for one in result.variables if not one.path.startswith("encoder")]
    assert {*map(id, others)} <= {*map(id, model.variables)}


@pytest.mark.parametrize("kind", ["num_patches", "from its input"])
def test_images_need_not_be_square(kind):
    model = built(kind, 2, 6)
    result = ks.with_input_shape(model, (16, 20, 3), resize="bilinear")
    expected = resized(kind, model.get_layer("encoder").table, (2, 6), (4, 5), "bilinear")
    np.testing.assert_allclose(copied(result.get_layer("encoder").table), expected, rtol=1e-6, atol=1e-6)


def test_as_many_positions_in_another_grid_keep_their_rows():
    """As in a fresh build: nothing in the layer tells that it holds positions."""
    model = built("from its input", 2, 6)
    assert ks.with_input_shape(model, (24, 8, 3)).get_layer("encoder") is model.get_layer("encoder")


def test_the_same_size_shares_the_embedding():
    model = built("image_size", 4, 4)
    result = ks.with_input_shape(model, keras.Input((16, 16, 3), batch_size=2), resize="bilinear")
    assert result.get_layer("encoder") is model.get_layer("encoder")


def test_the_result_saves_loads_and_is_resized_again(tmp_path):
    result = ks.with_input_shape(built("num_patches", 4, 4), (24, 20, 3), resize="bilinear")
    assert result.get_layer("encoder").num_patches == 30
    result.save(tmp_path / "vit.keras")
    loaded = keras.saving.load_model(tmp_path / "vit.keras")
    assert same_bits(loaded(random_input(result)), result(random_input(result)))
    again = ks.with_input_shape(loaded, (16, 16, 3), resize="bilinear")
    assert again.output_shape == (None, 6)


def test_a_setting_that_only_happens_to_equal_the_number_of_patches_is_kept():
    inputs = keras.Input((32, 32, 3))
    x = layers.Reshape((-1, 64), name="rows")(layers.Conv2D(64, 4, strides=4)(inputs))
    model = keras.Model(inputs, PatchEncoder(64, 64, name="encoder")(x))
    encoder = ks.with_input_shape(model, (64, 32, 3), resize="bilinear").get_layer("encoder")
    assert (encoder.num_patches, encoder.projection_dim) == (128, 64)
    expected = ops.image.resize(copied(model.get_layer("encoder").table).reshape(8, 8, 64), (16, 8))
    np.testing.assert_allclose(copied(encoder.table), copied(expected).reshape(128, 64), rtol=1e-6, atol=1e-6)


def test_a_sequence_is_interpolated_along_its_length():
    inputs = keras.Input((8, 5))
    model = keras.Model(inputs, Learned(name="encoder")(inputs))
    model.get_layer("encoder").table.assign(np.arange(40.0).reshape(1, 8, 5))
    result = ks.with_input_shape(model, (16, 5), resize="bilinear")
    expected = ops.image.resize(np.arange(40.0, dtype="float32").reshape(8, 1, 5), (16, 1))
    np.testing.assert_allclose(copied(result.get_layer("encoder").table)[0], copied(expected)[:, 0], rtol=1e-6)


class Head(layers.Layer):
    """No embedding: a kernel for one size."""

    def build(self, shape):
        self.dense = layers.Dense(2, name="dense")
        self.dense.build((None, shape[1] * shape[2]))

    def call(self, x):
        return self.dense(ops.reshape(x, (-1, x.shape[1] * x.shape[2])))


def test_kernels_are_never_interpolated():
    inputs = keras.Input((8, 4))
    model = keras.Model(inputs, Head(name="head")(inputs))
    for resize in (None, "bilinear"):
        with pytest.raises(UnsupportedModelError, match=r"'head' \(Head\) takes \(None, 8, 4\) .* Replace it in the"):
            ks.with_input_shape(model, (16, 4), resize=resize)


def test_positions_that_are_no_grid_are_refused():
    inputs = keras.Input((8, 8, 3))
    x = layers.Reshape((-1, 3), name="rows")(layers.Cropping2D(((0, 1), (0, 0)))(inputs))
    model = keras.Model(inputs, Learned(name="encoder")(x))
    with pytest.raises(UnsupportedModelError, match=r"The 56 positions of 'encoder' are no grid .*Replace the layer"):
        ks.with_input_shape(model, (16, 12, 3), resize="bilinear")
