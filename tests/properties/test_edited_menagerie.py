"""Every kind of model in the menagerie, edited so that it must compute the same."""

from typing import Any

import keras
import menagerie
import pytest
from every_kind import bits, with_states_kept
from keras import layers
from menagerie import Kind, Specimen
from samples import due

import kerassplit as ks
from kerassplit.graph.masks import mask_calls
from kerassplit.graph.reading import read_graph

pytestmark = [
    # Keras says so of every nested model that is given a masked tensor.
    pytest.mark.filterwarnings("ignore:Layer '.*' .* was passed an input with a mask:UserWarning"),
]
SOME_KINDS = pytest.mark.parametrize("kind", due(menagerie.kinds(), 3), ids=lambda kind: kind.name)

EQUAL_NAMES = {"nested_of_equal_inner_names", "nested_side_by_side_of_equal_inner_names"}
"""Their nested models cannot both be opened: Keras refuses two layers of one name."""
OTHER_CONFIGS = {
    "sequential_of_models": "an edited model is functional",
    "nested_twice_at_two_depths": "of a layer inside and outside of a nested model, that model is opened",
    "nested_and_its_layer_outside": "of a layer inside and outside of a nested model, that model is opened",
    "nested_that_gives_its_own_input": "whoever uses the output receives the input itself",
    "nested_structures_optional_and_shared": "whoever uses the output receives the input itself",
    "siamese_layers": "calls of one layer stand in execution order",
    "lora_layers": "calls of one layer stand in execution order",
    "encoder_decoder": "calls of one layer stand in execution order",
    "nested_masked_encoder_decoder": "calls of one layer stand in execution order",
    "attention_with_implicit_masks": "masks are arguments",
    "mask_made_by_hand": "masks are arguments",
    "nested_that_makes_a_mask": "masks are arguments, and nested models that they enter or leave are opened",
    "nested_sequentials_hand_on_a_mask": "masks are arguments, and nested models that they enter or leave are opened",
}
"""Models that have another config even if they are only built again."""
DROPOUTS = (
    layers.Dropout,
    layers.SpatialDropout2D,
    layers.AlphaDropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
)


def assert_same(edited: keras.Model, animal: Specimen, states: bool = True) -> None:
    """Checks for outputs and new states that are equal bit for bit, in the same structure."""
    model, x = animal.model, animal.x
    expected, after = with_states_kept(model, lambda: model(x))
    outputs, ours = with_states_kept(model, lambda: edited(x))
    keras.tree.assert_same_structure(outputs, expected)
    assert [bits(one) for one in keras.tree.flatten(outputs)] == [bits(one) for one in keras.tree.flatten(expected)]
    assert ours == after or not states


def identity(tensor: keras.KerasTensor) -> keras.Layer:
    return layers.Identity(dtype=tensor.dtype if "float" in tensor.dtype else None)


@SOME_KINDS
def test_an_identity_after_every_tensor(kind: Kind, animal: Specimen) -> None:
    graph = read_graph(animal.model)
    masks, outputs = mask_calls(graph), graph.flat_outputs()
    names = [
        tensor.name
        for place, tensor in enumerate(graph.tensors)
        if place in outputs or (tensor.users and tensor.call not in masks)
    ]
    if kind.name in EQUAL_NAMES:
        with pytest.raises(ks.UnsupportedModelError, match="Two different layers are called 'dense'"):
            ks.insert(animal.model, names, identity)
        return
    edited = ks.insert(animal.model, names, identity)
    assert sum(isinstance(one, layers.Identity) for one in edited.layers) == len(names)
    assert_same(edited, animal)


@SOME_KINDS
def test_without_dropouts(kind: Kind, animal: Specimen) -> None:
    calls = [call for call in read_graph(animal.model).calls if isinstance(call.operation, DROPOUTS)]
    idle = [call.name for call in calls if not call.arguments.kwargs.get("training")]
    if idle:
        edited = ks.remove(animal.model, idle)
        left = [call for call in read_graph(edited).calls if isinstance(call.operation, DROPOUTS)]
        assert len(left) == len(calls) - len(idle)
        assert_same(edited, animal)


@SOME_KINDS
def test_every_layer_replaced_by_a_copy(kind: Kind, animal: Specimen) -> None:
    def copy(old: Any) -> Any:
        lasting = isinstance(old, layers.Lambda) or not isinstance(old, keras.Layer)
        return None if lasting else type(old).from_config(old.get_config())

    model = animal.model
    calls = {call.name: call.operation for call in read_graph(model).calls if call.inputs}
    edited = ks.replace(
        model, {name: copy for name, one in calls.items() if isinstance(one, keras.Layer)} or {"*": copy}
    )
    ours, theirs = ({id(one) for one in of.weights} for of in (edited, model))
    assert not ours & theirs
    assert_same(edited, animal, states=False)


@SOME_KINDS
def test_inserted_and_removed_again(kind: Kind, animal: Specimen) -> None:
    model, graph = animal.model, read_graph(animal.model)
    edited = ks.insert(model, graph.tensors[graph.flat_outputs()[0]].name, layers.Identity(name="new"))
    again = ks.remove(edited, "new").get_config()
    assert again == ks.build_submodel(model, name=model.name).get_config()
    assert (again == model.get_config()) == (kind.name not in OTHER_CONFIGS)
