"""A training step through the stages is the whole model's: gradients, weights, statistics, optimizers."""

import keras
import numpy as np
import pytest
from comparing import copied, same_bits
from keras import ops
from samples import due
from training_models import IN_BLOCKS, LOSSES, batch, everything, of_model, put_back, twin, values_of

import kerassplit as ks
from kerassplit.graph.backends import backend
from kerassplit.training.steps.loss import OutputLoss
from kerassplit.training.steps.stage_trainer import StageTrainer
from kerassplit.training.steps.train_step import roles_of, split_gradients
from kerassplit.wire import pack, unpack
from kerassplit.zoo.random_weights import randomize

DICE = np.random.default_rng(11)


# Steps


CUTS = [["relu"], ["shared@0"], ["relu", "between"], ["norm", "pool", "frozen"]]


@IN_BLOCKS
@pytest.mark.parametrize("at", due(CUTS, 2), ids="-".join)
def test_steps_with_adam_leave_weights_statistics_seeds_and_optimisers_as_the_models_own_steps(at):
    model = everything()
    randomize(model, 3)
    whole = twin(model)
    whole.compile(keras.optimizers.Adam(0.01), LOSSES, run_eagerly=True)
    split = ks.split(model, at, allow_crossing=True)
    optimizers = ks.stage_optimizers(split, keras.optimizers.Adam(0.01))
    for seed in range(3):
        x, y = batch(6, seed)
        loss = ks.train_step(split, x, y, LOSSES, optimizers)
        expected = whole.train_on_batch(x, y, return_dict=True)["loss"] if seed == 0 else None
        if expected is None:
            whole.train_on_batch(x, y)
        else:
            np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for variable, one, other in zip(model.variables, values_of(model), values_of(whole), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6, err_msg=variable.path)
    states = [one for optimizer in optimizers.values() for one in optimizer.variables if "iteration" not in one.path]
    sizes = [sum(np.size(one) for one in some if np.ndim(one)) for some in (states, whole.optimizer.variables)]
    assert sizes[0] == sizes[1]  # no slot is there twice
    trained = {stage.name for stage, role in zip(split, roles_of(split), strict=True) if role.owned}
    assert {name: int(one.iterations) for name, one in optimizers.items()} == {
        stage.name: 3 if stage.name in trained else 0 for stage in split
    }


@IN_BLOCKS
def test_the_parts_of_one_loss_are_there_once_whoever_shares_a_layer():
    model = everything(activity="l2")  # Keras's own step on JAX loses the first of two calls' losses
    x, y = batch(4)
    whole = twin(model)
    whole.compile(loss=LOSSES)
    predicted = whole(x, training=True)
    assert len(whole.losses) == 4  # two calls of `shared`, two kernels
    expected = float(copied(ops.stop_gradient(whole.compute_loss(x, y, predicted))))
    for at in CUTS:
        split = ks.split(model, at, allow_crossing=True)
        before = values_of(model)
        found = split_gradients(split, x, y, LOSSES)
        put_back(model, before)
        np.testing.assert_allclose(found.loss, expected, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
def test_micro_batches_give_the_gradients_of_the_whole_batch(reduction):
    steps = keras.Input((5, 3), name="steps")
    x = keras.layers.Dense(4, use_bias=False, kernel_regularizer="l2", name="first")(steps)
    x = keras.layers.Dense(4, activation="tanh", name="second")(keras.layers.Masking(name="masking")(x))
    model = keras.Model(steps, keras.layers.Dense(3, activation="softmax", name="scores")(x))
    randomize(model, 2)
    x = DICE.normal(size=(8, 5, 3)).astype("float32")
    y, weights = DICE.integers(0, 3, (8, 5)), DICE.integers(1, 4, (8, 5))
    x[:4, 1:] = 0  # most of the first half is masked
    loss = keras.losses.SparseCategoricalCrossentropy(reduction=reduction)
    split = ks.split(model, "first")
    at_once, in_parts = (
        split_gradients(split, x, y, loss, sample_weight=weights.astype("float32"), micro_batches=count)
        for count in (1, 4)
    )
    np.testing.assert_allclose(in_parts.loss, at_once.loss, rtol=1e-5)
    for one, other in zip(of_model(in_parts, model), of_model(at_once, model), strict=True):
        np.testing.assert_allclose(copied(backend().dense(one)), copied(backend().dense(other)), rtol=1e-4, atol=1e-6)


def test_a_frozen_head_runs_in_its_mode_and_nothing_goes_back_into_it(small):
    model = twin(small)
    for layer in model.layers[: model.layers.index(model.get_layer("block1_out")) + 1]:
        layer.trainable = False
    split = ks.split(model, ["block1_out", "block2_out"])
    roles = roles_of(split)
    assert [role.goes_back for role in roles] == [False, True, True]
    assert [role.back_to for role in roles] == [(), (), ("block2_out",)]
    before = {variable.path: copied(variable) for variable in model.variables}
    x = [DICE.normal(size=(4, 8, 8, 3)), DICE.normal(size=(4, 4))]
    y = {"score": np.zeros((4, 3)), "pooled": np.zeros((4, 4))}
    optimizers = [None, keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.1)]
    ks.train_step(split, x, y, "mse", optimizers)
    changed = {variable.path for variable in model.variables if not same_bits(copied(variable), before[variable.path])}
    assert changed == {
        "block2_conv/kernel", "block2_conv/bias", "block2_norm/gamma", "block2_norm/beta", "block2_norm/moving_mean",
        "block2_norm/moving_variance", "score/kernel", "score/bias",
    }  # fmt: skip


def test_stages_that_know_nothing_of_each_other_but_bytes_take_the_same_step(small):
    """Client and server by hand: crossing tensors go over the wire, their gradients come back."""
    model, other = twin(small), twin(small)
    x = {"image": DICE.normal(size=(4, 8, 8, 3)), "extra": DICE.normal(size=(4, 4))}
    y = {"score": np.ones((4, 3)), "pooled": np.zeros((4, 4))}
    split, apart = (ks.split(one, "block1_out", names=["client", "server"]) for one in (model, other))
    expected = ks.train_step(split, x, y, "mse", [keras.optimizers.Adam(), keras.optimizers.Adam()])
    client = StageTrainer(apart[0], keras.optimizers.Adam(), back_to=())
    server = StageTrainer(apart[1], keras.optimizers.Adam(), judged=apart[1].outputs)
    sent = pack({name: copied(value) for name, value in client.forward({"image": x["image"]}).items()})
    made = server.forward({**unpack(sent), "extra": x["extra"]})
    loss, [gradients] = OutputLoss("mse", {"score": "score", "pooled": "pool"})([made], y)
    answer = pack({name: copied(value) for name, value in server.backward(gradients).items() if name == "block1_out"})
    assert client.backward(unpack(answer)) == {}
    client.apply()
    server.apply()
    assert loss == expected
    assert same_bits(values_of(model), values_of(other))


# Mistakes


def refused(message, split, *args, **options):
    before = [copied(weight) for weight in split.model.trainable_variables]
    with pytest.raises(ks.SplitError, match=message):
        ks.train_step(split, *args, **options)
    assert same_bits(split.model.trainable_variables, before)


@pytest.fixture
def pair():
    x = keras.Input((4,), name="x")
    first = keras.layers.Dense(4, name="first")(x)
    return ks.split(keras.Model(x, keras.layers.Dense(2, name="second")(first), name="pair"), "first", names=["a", "b"])


X, Y = np.ones((6, 4), "float32"), np.ones((6, 2), "float32")


def test_optimisers_that_do_not_fit_the_stages_are_refused(pair):
    def adam():
        return keras.optimizers.Adam()

    one = adam()
    refused("one optimizer for each stage, as a list or by name; got Adam.*ks.stage_optimizers", pair, X, Y, "mse", one)
    refused("got 'adam'.*as they hold their state", pair, X, Y, "mse", "adam")
    refused("3 optimizers for 2 stages, .a. and .b.", pair, X, Y, "mse", [adam(), adam(), adam()])
    refused("`optimizers` names .c.; the stages are .a. and .b.", pair, X, Y, "mse", {"a": adam(), "c": adam()})
    refused("Stage 'b' has trainable variables, but no optimizer. Add one", pair, X, Y, "mse", {"a": adam()})
    refused("Stages 'a' and 'b' have the same optimizer, but each needs its own", pair, X, Y, "mse", [one, one])
    refused("The optimizer of stage 'b' is 'adam', which keeps no state", pair, X, Y, "mse", [one, "adam"])
    scaled = keras.optimizers.LossScaleOptimizer(adam())
    refused("The optimizer of stage 'a' scales the loss.*mixed_bfloat16", pair, X, Y, "mse", [scaled, one])
    used = adam()
    used.build([keras.Variable([1.0])])
    refused("The optimizer of stage 'a' has been used for other variables", pair, X, Y, "mse", [used, one])
    with pytest.raises(ks.SplitError, match="Cannot create optimizers from 'adamant'"):
        ks.stage_optimizers(pair, "adamant")
    for use in (ks.stage_optimizers, lambda model, one: ks.train_step(model, X, Y, "mse", [one])):
        with pytest.raises(ks.SplitError, match="`split` must be a Split, from .*; got Functional"):
            use(pair.model, adam())


def test_optimisers_and_schedules_of_ones_own_are_made_again_for_each_stage(pair):
    class Halving(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1 * 0.5 ** ops.cast(step, "float32")

        def get_config(self):
            return {}

    class Own(keras.optimizers.SGD):
        pass

    optimizers = ks.stage_optimizers(pair, Own(Halving()))
    assert [type(one) for one in optimizers.values()] == [Own, Own]
    losses = [ks.train_step(pair, X, Y, "mse", optimizers) for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]
    assert [float(ops.convert_to_numpy(one.learning_rate)) for one in optimizers.values()] == pytest.approx(
        [0.0125, 0.0125]
    )


def test_targets_losses_and_batches_that_do_not_fit_are_refused(pair):
    optimizers = ks.stage_optimizers(pair, "sgd")
    refused("The loss cannot be computed: .*Pass `loss` as in `model.compile`", pair, X, Y, "msee", optimizers)
    refused("The loss cannot be computed: ", pair, X, {"no": Y}, {"no": "mse"}, optimizers)
    refused(
        "6 samples cannot be divided into 4 equal micro-batches",
        pair,
        X,
        Y,
        "mse",
        optimizers,
        micro_batches=4,
    )
    refused("`micro_batches` must be a whole number, at least 1; got 0", pair, X, Y, "mse", optimizers, micro_batches=0)
    refused("There is no loss, and no layer adds one. Pass `loss`", pair, X, Y, None, optimizers)
    shape = r"There is an array of shape {}; 'x' of 'pair' takes 4 for each row, \(None, 4\) in all"
    refused(shape.format(r"\(6, 5\)"), pair, np.ones((6, 5)), Y, "mse", optimizers)
    refused(shape.format(r"\(4,\)"), pair, X[0], Y, "mse", optimizers)


def test_what_is_left_out_of_weight_decay_is_left_out_in_every_stage(pair):
    whole = twin(pair.model)
    decaying = keras.optimizers.AdamW(0.01, weight_decay=0.5)
    decaying.exclude_from_weight_decay(var_names=["bias"])
    for model in (pair.model, whole):
        for layer in (model.get_layer("first"), model.get_layer("second")):
            layer.bias.assign(np.full(layer.bias.shape, 3.0))
    optimizers = ks.stage_optimizers(pair, decaying)
    whole.compile(decaying, "mse", run_eagerly=True)
    for _ in range(3):
        ks.train_step(pair, X, Y, "mse", optimizers)
        whole.train_on_batch(X, Y)
    for one, other in zip(values_of(pair.model), values_of(whole), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_frozen_stage_of_whole_numbers_has_nothing_to_give_back():
    words = keras.Input((3,), dtype="int32", name="words")
    embedded = keras.layers.Embedding(5, 2, trainable=False, name="embedded")(words)
    model = keras.Model(words, keras.layers.GlobalAveragePooling1D(name="mean")(embedded), name="text")
    stage = ks.split(model, "embedded")[0]
    trainer = StageTrainer(stage)
    made = trainer.forward({"words": np.ones((2, 3), "int32")})
    assert trainer.backward({"embedded": made["embedded"]}) == {}


def test_what_would_need_its_loss_scaled_is_refused():
    x = keras.Input((4,), name="x")
    half = keras.layers.Dense(4, dtype="mixed_float16", name="half")(x)
    split = ks.split(keras.Model(x, keras.layers.Dense(2, name="second")(half)), "half")
    refused(
        "Layer 'half' of stage 'stage_0' computes in float16", split, X, Y, "mse", ks.stage_optimizers(split, "sgd")
    )


def test_a_stage_alone_says_what_it_misses(pair):
    trainer = StageTrainer(pair["b"])
    with pytest.raises(ks.SplitError, match="Stage 'b' takes .first.; .first. is missing"):
        trainer.forward({"x": X})
    with pytest.raises(ks.SplitError, match="Call `forward` first, and then `backward` once"):
        trainer.backward({})
    trainer.backward({"second": Y} if trainer.forward({"first": X}) else {})
    with pytest.raises(ks.SplitError, match="Stage 'b' has trainable variables but no optimizer"):
        trainer.apply()
