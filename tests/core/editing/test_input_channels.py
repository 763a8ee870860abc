"""`with_input_shape` for other channels: only the first convolution, and normalizations before it, change."""

import keras
import numpy as np
import pytest
from comparing import copied, fingerprint, same_bits
from shape_models import IMAGES, convolutional, is_as_fresh, layers_of, random_input, randomized, run, with_backbone

import kerassplit as ks
from kerassplit.errors import UnsupportedModelError

layers = keras.layers
GREY = 1e-5  # the order of sums differs


def first_convolution(model):
    firsts = ("stem", "full", "conv", "first")
    return next(layer for layer in layers_of(model) if layer.name in firsts)


@pytest.mark.parametrize("make", IMAGES)
@pytest.mark.parametrize("before, channels", [(3, 1), (3, 4), (1, 3)])
def test_only_the_first_convolution_has_weights_of_its_own(make, before, channels):
    model = randomized(make, (16, 16, before))
    result = ks.with_input_shape(model, (16, 20, channels))
    assert result.input_shape == (None, 16, 20, channels)
    assert is_as_fresh(result, make((16, 20, channels)))
    new = [one for one in layers_of(result) if id(one) not in {*map(id, layers_of(model))}]
    assert [layer.name for layer in new] == [first_convolution(model).name]
    own = [one.path for one in result.variables if id(one) not in {*map(id, model.variables)}]
    assert len(own) == len(new[0].variables)


@pytest.mark.parametrize(
    "before, channels, places, factor", [(3, 4, (0, 1, 2, 0), 3 / 4), (3, 2, (0, 1), 3 / 2), (1, 3, (0, 0, 0), 1 / 3)]
)
def test_a_kernel_is_repeated_and_scaled(before, channels, places, factor):
    model = randomized(convolutional, (16, 16, before))
    result = ks.with_input_shape(model, (16, 16, channels))
    old, new = (copied(first_convolution(one).kernel) for one in (model, result))
    np.testing.assert_array_equal(new, (old[:, :, places, :] * factor).astype("float32"))
    assert same_bits(first_convolution(model).bias, first_convolution(result).bias)


@pytest.mark.parametrize("make", IMAGES)
def test_a_grey_image_gives_what_three_equal_channels_gave(make):
    model = randomized(make, (16, 16, 3))
    grey = ks.with_input_shape(model, (16, 16, 1))
    old, new = (copied(first_convolution(one).kernel) for one in (model, grey))
    np.testing.assert_array_equal(new, old.sum(axis=2, keepdims=True))
    x = random_input(grey)
    np.testing.assert_allclose(copied(run(grey, x)), copied(run(model, x.repeat(3, axis=-1))), rtol=GREY, atol=GREY)


def of_first(*before, filters=4, **options):
    """A model with layers before its first convolution."""
    inputs = x = keras.Input((8, 8, 3), name="image")
    for layer in before:
        x = layer(x)
    x = layers.Conv2D(filters, 3, name="conv", **options)(x)
    return keras.Model(inputs, layers.GlobalAveragePooling2D(name="average")(x), name="of_first")


def adapted():
    layer = layers.Normalization(name="norm")
    layer.adapt(np.random.default_rng(0).normal([1, 2, 3], [1, 2, 3], (50, 8, 8, 3)).astype("float32"))
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        layers.Rescaling(1 / 127.5, -1),
        layers.Rescaling(0.5),
        layers.ZeroPadding2D(((0, 1), (2, 0))),
        layers.RandomFlip("horizontal"),
        layers.RandomRotation(0.2),
        layers.RandomContrast(0.2),
        layers.Resizing(6, 7),
        layers.CenterCrop(6, 7),
        layers.Normalization(mean=0.5, variance=0.25),
        layers.GaussianNoise(0.1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_for_any_channels_before_the_convolution_stay(layer):
    model = of_first(layer)
    grey = ks.with_input_shape(model, (10, 12, 1))
    assert grey.layers[1] is layer or isinstance(layer, layers.Normalization)
    x = random_input(grey)
    same_size = ks.with_input_shape(model, (10, 12, 3))
    np.testing.assert_allclose(copied(run(grey, x)), copied(run(same_size, x.repeat(3, axis=-1))), rtol=GREY, atol=GREY)


@pytest.mark.parametrize(
    "make, names",
    [
        (lambda: layers.Normalization(mean=[1.0, 2.0, 6.0], variance=[1.0, 4.0, 1.0]), ("mean", "variance")),
        (adapted, ("mean", "variance")),
        (lambda: layers.Rescaling([1.0, 2.0, 6.0], np.array([1.0, 4.0, 1.0])), ("scale", "offset")),
        (layers.BatchNormalization, ("gamma", "beta", "moving_mean", "moving_variance")),
    ],
    ids=["given", "adapted", "rescaling", "batch"],
)
def test_normalizations_before_it_are_averaged_or_repeated(make, names):
    layer = make()
    model = of_first(layer)
    before = fingerprint(model)
    if isinstance(layer, layers.BatchNormalization):
        for place, weight in enumerate(layer.weights):
            weight.assign(np.arange(3) + place + 1)
        before = fingerprint(model)
    for channels, adapt in [(1, lambda x: [np.mean(x)]), (2, lambda x: x[:2]), (4, lambda x: [*x, x[0]])]:
        result = ks.with_input_shape(model, (8, 8, channels))
        for name in names:
            old, new = (np.ravel(copied(getattr(one.layers[1], name))) for one in (model, result))
            np.testing.assert_allclose(new, adapt(old), rtol=1e-6)
        assert result(random_input(result)).shape == (2, 4)
        assert result.layers[3] is model.layers[3]
        del result
    assert fingerprint(model) == before


def test_settings_of_the_convolution_are_kept():
    model = of_first(filters=6, use_bias=False, dilation_rate=2, kernel_regularizer="l2", dtype="mixed_bfloat16")
    model.get_layer("conv").trainable = False
    old, new = (one.get_layer("conv") for one in (model, ks.with_input_shape(model, (8, 8, 5))))
    assert new.get_config() == old.get_config() and not new.trainable and new.kernel.shape == (3, 3, 5, 6)


@pytest.mark.parametrize(
    "layer, shape",
    [(layers.Conv1D(4, 3, name="conv"), (12, 3)), (layers.Conv3D(4, 2, name="conv"), (6, 6, 6, 3))],
    ids=["1D", "3D"],
)
def test_convolutions_of_other_ranks_adapt_too(layer, shape):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer(inputs))
    grey = ks.with_input_shape(model, (*shape[:-1], 1))
    x = random_input(grey)
    np.testing.assert_allclose(copied(grey(x)), copied(model(x.repeat(3, axis=-1))), rtol=GREY, atol=GREY)


def channels_first(shape):
    inputs = keras.Input(shape, name="image")
    norm = layers.BatchNormalization(axis=1, name="norm")
    options = {"data_format": "channels_first"}
    x = layers.ReLU()(norm(layers.Conv2D(4, 3, name="conv", **options)(inputs)))
    return keras.Model(inputs, layers.GlobalAveragePooling2D(name="average", **options)(x), name="first")


def test_channels_may_come_first():
    model = channels_first((3, 8, 8))
    for shape in [(3, 10, 12), (1, 8, 8), (4, 9, 3), (1, None, None)]:
        result = ks.with_input_shape(model, shape)
        assert result.input_shape == (None, *shape)
        assert result.get_layer("norm") is model.get_layer("norm")
        assert result.get_layer("conv").kernel.shape == (3, 3, shape[0], 4)
        if keras.backend.backend() != "tensorflow":  # which has no such convolution on CPUs
            assert is_as_fresh(result, channels_first(shape))


def test_channels_of_a_frozen_nested_model_adapt_where_the_convolution_is():
    model = randomized(with_backbone, (16, 16, 3))
    model.get_layer("backbone").trainable = False
    result = ks.with_input_shape(model, (16, 16, 1))
    assert [layer.name for layer in result.layers if layer.trainable and layer.weights] == ["head"]


OTHER_CHANNELS = (
    "Only the first convolution, and normalizations before it, adapt to other channels. A convolution with a 1x1 "
    "kernel as first layer brings inputs to the old channels."
)


def test_a_skip_of_the_input_itself_is_refused_by_name():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="down")(inputs)
    x = layers.Concatenate(name="skip")([x, inputs])
    model = keras.Model(inputs, layers.Conv2D(2, 3, name="last")(x), name="unet")
    assert ks.with_input_shape(model, (12, 9, 3)).output_shape == (None, 10, 7, 2)
    with pytest.raises(UnsupportedModelError) as caught:
        ks.with_input_shape(model, (8, 8, 1))
    assert str(caught.value) == (
        "'last' (Conv2D) takes (None, 8, 8, 7) in the model and would receive (None, 8, 8, 5), which it cannot take: "
        "expected axis -1 of input shape to have value 7, but received input with shape (None, 8, 8, 5). "
        + OTHER_CHANNELS
    )


@pytest.mark.parametrize(
    "layer",
    [
        layers.DepthwiseConv2D(3, name="first"),
        layers.SeparableConv2D(4, 3, name="first"),
        layers.Dense(4, name="first"),
        layers.Conv2D(3, 3, groups=3, name="first"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_other_first_layers_are_refused(layer):
    inputs = keras.Input((8, 8, 3))
    with pytest.raises(UnsupportedModelError, match=rf"^'first' \({type(layer).__name__}\) .*{OTHER_CHANNELS}$"):
        ks.with_input_shape(keras.Model(inputs, layer(inputs)), (8, 8, 6))


def test_channels_cannot_be_open():
    with pytest.raises(UnsupportedModelError, match=r"^Sides can be open if .* 'conv' \(Conv2D\) takes"):
        ks.with_input_shape(of_first(), (8, 8, None))
