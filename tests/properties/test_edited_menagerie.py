"""Every kind of model in the menagerie, edited so that it must compute the same."""

import warnings
from collections.abc import Iterator
from typing import Any

import keras
import menagerie
import pytest
from comparing import fingerprint
from every_kind import bits, cached, with_states_kept
from keras import layers
from menagerie import Kind, Specimen
from samples import due

import kerassplit as ks
from kerassplit.graph.model_graph import Graph
from kerassplit.graph.reading import read_graph

pytestmark = [
    # Keras says so of every nested model that is given a masked tensor.
    pytest.mark.filterwarnings("ignore:Layer '.*' .* was passed an input with a mask:UserWarning"),
]
SOME_KINDS = pytest.mark.parametrize("kind", due(menagerie.kinds(), 3), ids=lambda kind: kind.name)

EQUAL_NAMES = {"nested_of_equal_inner_names", "nested_side_by_side_of_equal_inner_names"}
"""Their nested models cannot be opened both: Keras refuses two layers of one name."""
DROPOUTS = (
    layers.Dropout,
    layers.SpatialDropout2D,
    layers.AlphaDropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
)


@pytest.fixture
def animal(kind: Kind) -> Iterator[Specimen]:
    """Yields the kind's specimen; afterwards its model is unchanged, down to the nodes of the innermost layers."""
    specimen = cached(kind)
    before = fingerprint(specimen.model)
    yield specimen
    assert fingerprint(specimen.model) == before


def assert_same(edited: keras.Model, animal: Specimen) -> None:
    """Checks for outputs and new states that are equal bit for bit, in the same structure."""
    model, x = animal.model, animal.x
    expected, after = with_states_kept(model, lambda: model(x))
    outputs, states = with_states_kept(model, lambda: edited(x))
    keras.tree.assert_same_structure(outputs, expected)
    assert [bits(one) for one in keras.tree.flatten(outputs)] == [bits(one) for one in keras.tree.flatten(expected)]
    assert states == after


def identity(tensor: keras.KerasTensor) -> keras.Layer:
    floats = tensor.dtype in ("float16", "bfloat16", "float32")
    return layers.Identity(dtype=tensor.dtype if floats else None)


def all_tensors(graph: Graph) -> list[str]:
    return [tensor.name for tensor in graph.tensors]


@SOME_KINDS
def test_an_identity_after_every_tensor(kind: Kind, animal: Specimen) -> None:
    names = all_tensors(read_graph(animal.model))
    if kind.name in EQUAL_NAMES:
        with pytest.raises(ks.UnsupportedModelError, match="Two different layers are called 'dense'"):
            ks.insert(animal.model, names, identity)
        return
    edited = ks.insert(animal.model, names, identity)
    assert sum(isinstance(one, layers.Identity) for one in edited.layers) >= len(names)
    assert_same(edited, animal)


@SOME_KINDS
def test_without_dropouts(kind: Kind, animal: Specimen) -> None:
    calls = read_graph(animal.model).calls
    there = {call.operation for call in calls if isinstance(call.operation, DROPOUTS)}
    always = {call.name for call in calls if call.operation in there and call.arguments.kwargs.get("training")}
    if not there or always:
        pytest.skip("no dropouts, or some that drop when the model is not trained")
    edited = ks.remove(animal.model, list(there))
    assert not any(isinstance(call.operation, DROPOUTS) for call in read_graph(edited).calls)
    assert_same(edited, animal)


@SOME_KINDS
def test_every_layer_replaced_by_a_copy(kind: Kind, animal: Specimen) -> None:
    def copy(old: Any) -> Any:
        if not isinstance(old, keras.Layer):
            return None
        return type(old).from_config(old.get_config())

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Weights that new layers could not get", UserWarning)
        if kind.name in EQUAL_NAMES:
            with pytest.raises(ks.UnsupportedModelError, match="Two different layers are called 'dense'"):
                ks.replace(animal.model, {call.name: copy for call in read_graph(animal.model).calls if call.inputs})
            return
        edited = ks.replace(
            animal.model, {call.name: copy for call in read_graph(animal.model).calls if call.inputs}
        )
    assert_same(edited, animal)


@SOME_KINDS
def test_inserted_and_removed_again(kind: Kind, animal: Specimen) -> None:
    graph = read_graph(animal.model)
    edited = ks.insert(animal.model, graph.tensors[graph.flat_outputs()[0]].name, layers.Identity(name="new"))
    again = ks.remove(edited, "new")
    assert again.get_config() == animal.model.get_config()
