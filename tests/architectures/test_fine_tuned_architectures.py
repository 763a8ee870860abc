"""Tails of architectures learn from real images with their heads' features cached."""

import keras
import numpy as np
import pytest
from applications import application
from comparing import copied, fingerprint, same_bits
from training_models import CROSSENTROPY, fine_tuned, handwritten_digits, values

import kerassplit as ks
from kerassplit.zoo.random_weights import randomize


def classifier(seed=3):
    """A MobileNetV2 on images of 32 pixels with ten classes."""
    model = keras.applications.MobileNetV2(input_shape=(32, 32, 3), alpha=0.35, weights=None, classes=10)
    randomize(model, seed)
    return model


def test_mobilenet_on_digits_learns_and_its_head_and_flags_and_optimiser_stay_as_they_were(tmp_path):
    images, labels = handwritten_digits()
    training, held_out = (images[:320], labels[:320]), (images[600:700], labels[600:700])
    model = classifier()
    model.compile(keras.optimizers.Adam(3e-3), CROSSENTROPY, metrics=["accuracy"])
    before = fingerprint(model, weights=False)
    head = ks.build_submodel(model, end="block_12_add")
    frozen = values(head.weights)
    steps, flags = copied(model.optimizer.iterations), [layer.trainable for layer in model.layers]
    history = fine_tuned(
        model, "block_12_add", training, tmp_path, validation_data=held_out, epochs=4, preprocess="MobileNetV2"
    )
    prepared = keras.applications.mobilenet_v2.preprocess_input(held_out[0].copy())
    loss, accuracy = model.evaluate(prepared, held_out[1], verbose=0)
    np.testing.assert_allclose(loss, history.history["val_loss"][-1], rtol=1e-4)
    np.testing.assert_allclose(accuracy, history.history["val_accuracy"][-1], atol=1e-6)
    assert history.history["accuracy"][-1] > max(0.5, history.history["accuracy"][0])
    assert same_bits(values(head.weights), frozen)
    assert [layer.trainable for layer in model.layers] == flags
    assert copied(model.optimizer.iterations) == steps
    del history, head
    assert fingerprint(model, weights=False) == before


def test_resnet_tells_patches_of_two_photographs_apart(tmp_path):
    photos = pytest.importorskip("sklearn.datasets").load_sample_images().images
    corners = [(row, column) for row in range(0, 320, 64) for column in range(0, 576, 64)]
    patches = np.stack([photo[y : y + 64, x : x + 64] for photo in photos for y, x in corners])
    labels = np.repeat([0, 1], len(corners))
    resnet = application("ResNet50")
    head = ks.build_submodel(resnet, end="conv3_block1_out", copy_weights=True)
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")
    model = ks.join(
        [
            head,
            pooled,
            keras.layers.BatchNormalization(momentum=0.5, name="norm"),
            keras.layers.Dense(2, "softmax", name="which"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), CROSSENTROPY, metrics=["accuracy"])
    history = fine_tuned(
        model, "conv3_block1_out", (patches, labels), tmp_path, epochs=8, preprocess="ResNet50", storage="bfloat16"
    )
    assert history.history["accuracy"][-1] > 0.9
    prepared = keras.applications.resnet.preprocess_input(patches.astype("float32"))
    assert model.evaluate(prepared, labels, verbose=0)[1] > 0.9
