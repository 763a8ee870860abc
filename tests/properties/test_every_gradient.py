"""Every kind of model in the menagerie: gradients of a training step through stages equal the model's."""

import every_kind as frontiers
import keras
import numpy as np
import pytest
from keras import ops
from training_models import IN_BLOCKS, of_model

from kerassplit.graph.backends import backend
from kerassplit.training.steps.train_step import split_gradients


class Squares(keras.losses.Loss):
    """The sum of squares, ignoring masks."""

    def __call__(self, y_true, y_pred, sample_weight=None):
        y_pred = ops.cast(y_pred, "float32")
        return ops.sum(y_pred * y_pred)


@pytest.mark.filterwarnings("ignore:Layer '.*' .* was passed an input with a mask:UserWarning")
@pytest.mark.filterwarnings("ignore:In '.*' a loss on '.*' is masked:UserWarning")
@IN_BLOCKS
@frontiers.EVERY_KIND
def test_gradients_of_every_kind_of_model_are_the_models(kind):
    if kind.name == "stateful_recurrent_layers" and keras.backend.backend() == "torch":
        pytest.skip("on torch, Keras cannot go back through a stateful layer that has run before")
    animal = frontiers.cached(kind)
    model, x = animal.model, animal.x
    if not model.trainable_variables:
        pytest.skip("nothing to train")
    _, after = frontiers.with_states_kept(model, lambda: model(x, training=True))
    slopes, _ = frontiers.with_states_kept(model, lambda: frontiers.gradients(model, lambda: model(x, training=True)))
    several = frontiers.used_several_times(model)
    for split in frontiers.some_splits(animal, 2, frontiers.keeps_order):
        found, states = frontiers.with_states_kept(model, lambda split=split: sum_of_squares(split, x))
        assert states == after, split.crossings
        for variable, one, other in zip(model.trainable_variables, of_model(found, model), slopes, strict=True):
            one = None if one is None else frontiers.bits(backend().dense(one))
            # The parts of a gradient that come from several calls, or over several cuts, are summed in another order.
            close = (id(variable) in several or len(split.crossings[0].tensors) > 1) and np.allclose(
                *map(frontiers.array_of, (one, other)), rtol=1e-5, atol=1e-6
            )
            assert one == other or close, (variable.path, split.crossings)


def sum_of_squares(split, x):
    """Returns the gradients of the sum of squares of all outputs."""
    return split_gradients(
        split, x, keras.tree.map_structure(lambda _: np.zeros((1, 1), "float32"), split.outputs), Squares()
    )
