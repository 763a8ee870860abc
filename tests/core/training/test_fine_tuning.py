"""A tail trained on cached features equals one trained with a frozen head, and the model has its weights."""

import keras
import numpy as np
import pytest
from comparing import copied, fingerprint
from training_models import CROSSENTROPY, fine_tuned, handwritten_digits, values

import kerassplit as ks
from kerassplit.zoo.random_weights import randomize

NEEDS_TENSORFLOW = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.data")


@pytest.fixture(scope="module")
def digits():
    return handwritten_digits()


def chain(seed=1, **compiled):
    """Convolutions and batch norms on both sides of `middle`."""
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((32, 32, 3), name="image")
    for name in ("first", "middle", "last"):
        x = keras.layers.Conv2D(4, 3, 2, name=f"{name}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"{name}_norm")(x)
        x = keras.layers.ReLU(name=name)(x)
    x = keras.layers.Flatten(name="flat")(x)
    model = keras.Model(inputs, keras.layers.Dense(10, "softmax", name="score")(x), name="chain")
    randomize(model, seed)
    model.compile(
        **{"optimizer": keras.optimizers.Adam(0.01), "loss": CROSSENTROPY, "metrics": ["accuracy"], **compiled}
    )
    return model


def test_it_is_training_the_whole_model_with_its_head_frozen_in_the_same_order(digits, tmp_path):
    images, labels = digits[0][:96], digits[1][:96]
    cached, whole = chain(), chain()
    history = fine_tuned(cached, "middle", (images, labels), tmp_path, epochs=3)
    order = ks.cache_features(
        ks.build_submodel(cached, end="middle"), (images, np.arange(96)), tmp_path / "order", seed=0
    )
    for layer in whole.layers[: whole.layers.index(whole.get_layer("middle")) + 1]:
        layer.trainable = False
    whole.compile(keras.optimizers.Adam(0.01), CROSSENTROPY, metrics=["accuracy"])
    losses = []
    for _ in range(3):
        rows = np.concatenate([numbers for _, numbers in order])
        losses += whole.fit(images[rows], labels[rows], shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(history.history["loss"], losses, rtol=1e-4)
    for ours, theirs in zip(cached.weights, whole.weights, strict=True):
        np.testing.assert_allclose(copied(ours), copied(theirs), rtol=1e-3, atol=1e-4, err_msg=ours.path)
    moved = [
        name
        for name in ("first", "middle", "last")
        if (copied(cached.get_layer(f"{name}_norm").gamma) != copied(chain().get_layer(f"{name}_norm").gamma)).any()
    ]
    assert moved == ["last"]


def test_a_new_classifier_is_trained_on_the_features_of_a_model(digits, tmp_path):
    images, labels = digits[0][:200], digits[1][:200]
    before = fingerprint(base := chain())
    head = ks.build_submodel(base, end="middle")
    tail = keras.Sequential(
        [
            keras.Input(head.output.shape[1:], name="in"),
            keras.layers.Flatten(name="flat2"),
            keras.layers.Dense(10, name="new"),
        ]
    )
    model = ks.join([head, tail])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    history = fine_tuned(model, "middle", (images, labels), tmp_path, epochs=5, validation_data=(images, labels))
    assert history.history["loss"][-1] < history.history["loss"][0]
    np.testing.assert_allclose(model.evaluate(images, labels, verbose=0)[0], history.history["val_loss"][-1], rtol=1e-4)
    del history, model, head
    after = fingerprint(base)
    assert after["values"] == before["values"]
    assert after["config"] == before["config"]


def test_the_caches_are_used_again_and_checked(digits, tmp_path, capsys):
    images, labels = digits[0][:64], digits[1][:64]
    data, held_out = (images, labels), (images[:32], labels[:32])
    model = chain()
    ks.fine_tune(model, "middle", data, tmp_path, validation_data=held_out, seed=0)
    said = capsys.readouterr()
    assert f"in '{tmp_path / 'training'}': 64 rows" in said.err
    assert f"in '{tmp_path / 'validation'}': 32 rows" in said.err
    assert "val_accuracy" in said.out
    place = np.int64([point.name for point in ks.split_points(model)].index("middle"))
    ks.fine_tune(model, place, data, tmp_path, validation_data=held_out, seed=0, verbose=False)  # a trained tail
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ks.StoreError, match="the head has other layers; the head has other weights; the head gave"):
        ks.fine_tune(model, "first", data, tmp_path, verbose=False)
    model.get_layer("first_conv").bias.assign(np.ones(4))
    with pytest.raises(
        ks.StoreError, match=r"training' holds features of something else: the head has other weights\."
    ):
        ks.fine_tune(model, "middle", data, tmp_path, verbose=False)
    fine_tuned(model, "middle", data, tmp_path, overwrite=True)
    generator = np.random.default_rng(0)

    def flipped(batch):
        return batch[:, :, ::-1] if generator.random() < 0.5 else batch

    history = fine_tuned(model, "middle", data, tmp_path / "more", repeats=3, preprocess=flipped, batch_size=16)
    assert history.params["steps"] == 3 * 4


def test_inputs_that_only_the_tail_takes_and_crossings_are_cached_too(small, tmp_path):
    generator = np.random.default_rng(0)
    x = [generator.normal(size=(40, 8, 8, 3)).astype("float32"), generator.normal(size=(40, 4))]
    y = {"score": generator.integers(0, 3, 40, "int32"), "pooled": generator.normal(size=(40, 4)).astype("float32")}
    losses = {"score": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "pooled": "mse"}
    for at in ("block1_out", ["block2_norm", "block1_out"]):
        model = ks.flatten(small, copy_weights=True)
        randomize(model, seed=1)  # that of `small` differ in each process; scores that tie would round either way
        model.compile("adam", losses, loss_weights={"score": 1.0, "pooled": 0.5}, metrics={"score": "accuracy"})
        place = tmp_path / str(len(at))
        history = fine_tuned(model, at, (x, y), place, validation_data=(x, y), epochs=2)
        result = model.evaluate(x, y, verbose=0, return_dict=True)
        for name, value in result.items():
            np.testing.assert_allclose(value, history.history[f"val_{name}"][-1], rtol=1e-4, err_msg=name)
        assert history.history["loss"][1] < history.history["loss"][0]
    early = ks.flatten(small, copy_weights=True)
    early.compile("adam", losses)
    with pytest.raises(
        ks.SplitError, match="The output 'pool' of 'small' is computed before the cut, so training the tail"
    ):
        fine_tuned(early, "pool", (x, y), tmp_path / "early")


def test_a_cut_inside_a_branch_says_how_to_cache_both_tensors(tmp_path):
    x = keras.Input((4,), name="x")
    stem = keras.layers.Dense(4, name="stem")(x)
    branch = keras.layers.Dense(4, "relu", name="branch")(stem)
    model = keras.Model(x, keras.layers.Dense(2, name="last")(keras.layers.Add(name="sum")([stem, branch])))
    model.compile("sgd", "mse")
    data = np.ones((4, 4), "float32"), np.zeros((4, 2), "float32")
    with pytest.raises(ks.InsideBranchError) as caught:
        fine_tuned(model, "branch", data, tmp_path)
    assert str(caught.value).endswith(
        "To cut here anyway and cache both tensors, name them in a list: at=['stem', 'branch']."
    )
    before = model.evaluate(*data, verbose=0)
    fine_tuned(model, ["stem", "branch"], data, tmp_path)
    after = model.evaluate(*data, verbose=0)
    assert after < before
    fine_tuned(model, 0, data, tmp_path / "index")  # of the split point 'stem': an index is no number of stages
    assert model.evaluate(*data, verbose=0) < after


def test_what_cannot_be_fine_tuned_is_refused_before_there_is_work(digits, tmp_path):
    data = digits[0][:32], digits[1][:32]

    class Own(keras.Model):
        def train_step(self, *arguments):
            return super().train_step(*arguments)

    def built(layers, **options):
        model = keras.Sequential([keras.Input((32, 32, 3), name="in"), *layers], name="made")
        model.compile("adam", CROSSENTROPY, **options)
        return model

    dense, flat = keras.layers.Dense(3, name="both"), keras.layers.Flatten(name="flat")
    shared = built([dense, keras.layers.ReLU(name="cut"), dense, flat])
    plain = chain()
    uncompiled = ks.flatten(plain, copy_weights=True)
    own = Own(plain.inputs, plain.outputs, name="own")
    own.compile("adam", CROSSENTROPY)
    for because, model, at, rows, options in [
        (
            r"'chain' is not compiled. Call `model.compile` with an optimizer and a loss first",
            uncompiled,
            "middle",
            data,
            {},
        ),
        (r"`model` must be a keras.Model; got str", "ResNet50", "middle", data, {}),
        (r"'own' \(Own\) has its own 'train_step', which its tail would not have", own, "middle", data, {}),
        (r"'both' is used before and after the cut: training the tail would change the head", shared, "cut", data, {}),
        (
            r"There is nothing to train after '(score.*|last)': the tail has no trainable weights",
            chain_with_frozen_end(),
            "last",
            data,
            {},
        ),
        (r"`at` names 3 cuts, and `fine_tune` cuts once", plain, "*_norm", data, {}),
        (r"The data has inputs only. Training needs targets", plain, "middle", data[0], {}),
        (r"`fine_tune` has no option 'shufle'. For `fit` it takes ", plain, "middle", data, {"shufle": True}),
        ("would train on the first rows only", plain, "middle", data, {"shuffle": False, "steps_per_epoch": 1}),
        (r"Did you mean|no tensor", plain, "midle", data, {}),
    ]:
        with pytest.raises(ks.SplitError, match=because):
            fine_tuned(model, at, rows, tmp_path / "cache", **options)
        assert not (tmp_path / "cache").exists()
    dense.trainable = False
    shared_but_frozen = built([dense, keras.layers.ReLU(name="cut"), dense, flat, keras.layers.Dense(10, name="new")])
    fine_tuned(shared_but_frozen, "cut", data, tmp_path / "cache")


def chain_with_frozen_end():
    model = chain()
    model.get_layer("score").trainable = False
    model.compile("adam", CROSSENTROPY)
    return model


def test_the_tail_is_compiled_as_the_model_is(digits, tmp_path):
    images, labels = digits[0][:64], digits[1][:64]

    def own_loss(truth, scores):
        return keras.losses.sparse_categorical_crossentropy(truth, scores)

    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    metric = keras.metrics.SparseTopKCategoricalAccuracy(2, name="in_two")
    compiled = {"loss": own_loss, "metrics": [metric, "accuracy"], "weighted_metrics": ["accuracy"]}
    model = chain(optimizer=keras.optimizers.SGD(schedule, momentum=0.9), **compiled)
    metric.update_state(np.array([0]), np.array([[1.0, 0.0, 0.0]], "float32"))
    optimizers = []
    watch = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: optimizers.append(watch.model.optimizer))
    history = fine_tuned(model, "middle", (images, labels, np.ones(64)), tmp_path, epochs=2, callbacks=[watch])
    assert {"in_two", "accuracy", "weighted_accuracy", "loss"} <= set(history.history)
    assert float(metric.result()) == 1.0
    (ours,) = optimizers
    assert ours is not model.optimizer
    assert ours.get_config() == model.optimizer.get_config()
    assert int(ours.iterations) == 4
    assert int(model.optimizer.iterations) == 0

    class Strange(keras.metrics.Metric):
        def __init__(self, needed):
            super().__init__(name="strange")

        def update_state(self, *arguments, **options):
            pass

        def result(self):
            return 0.0

    with pytest.raises(
        ks.UnsupportedModelError, match=r"The metric 'strange' \(Strange\) cannot be recreated from its"
    ):
        fine_tuned(chain(metrics=[Strange(1)]), "middle", (images, labels), tmp_path / "other")


@NEEDS_TENSORFLOW
def test_data_from_tf_data_with_class_weights_and_fewer_steps(digits, tmp_path):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((digits[0][:128], digits[1][:128])).batch(32)
    model = chain()
    history = fine_tuned(
        model,
        "middle",
        data,
        tmp_path,
        validation_data=data,
        epochs=3,
        steps_per_epoch=2,
        class_weight={number: 1.0 + number for number in range(10)},
        callbacks=[keras.callbacks.EarlyStopping("val_loss", patience=5, restore_best_weights=True)],
    )
    assert history.params["steps"] == 2
    best = min(history.history["val_loss"])
    np.testing.assert_allclose(model.evaluate(data, verbose=0)[0], best, rtol=1e-4)


def test_mixed_precision_scales_losses_as_the_model_does(digits, tmp_path):
    images, labels = digits[0][:64], digits[1][:64]
    keras.utils.set_random_seed(1)
    x = keras.Input((32, 32, 3), name="image")
    y = keras.layers.Conv2D(4, 3, 4, dtype="mixed_float16", name="conv")(x)
    y = keras.layers.Flatten(dtype="mixed_float16", name="flat")(y)
    model = keras.Model(x, keras.layers.Dense(10, "softmax", dtype="float32", name="score")(y), name="mixed")
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=64.0)
    model.compile(optimizer, CROSSENTROPY)
    history = fine_tuned(model, "conv", (images / 255, labels), tmp_path, epochs=4)
    assert history.history["loss"][-1] < history.history["loss"][0]


def test_what_the_optimiser_leaves_out_of_weight_decay_is_left_out_in_the_tail(digits, tmp_path):
    decaying = keras.optimizers.SGD(1e-4, weight_decay=5e3)  # halves what it is for, at every step
    decaying.exclude_from_weight_decay(var_names=["gamma"])
    model = chain(optimizer=decaying)
    left_out, halved = model.get_layer("last_norm").gamma, model.get_layer("last_conv").kernel
    before = values([left_out, halved])
    fine_tuned(model, "middle", (digits[0][:64], digits[1][:64]), tmp_path)
    np.testing.assert_allclose(copied(left_out), before[0], atol=0.05)
    np.testing.assert_allclose(copied(halved), before[1] / 4, atol=0.05)
