"""What a user brought that has no graph, told apart, each with its next step."""

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import keras

_TRACE = "Turn it into a graph: `kerassplit.trace(model, inputs)`."


def why_no_graph(thing: Any) -> str:
    """Why kerassplit finds no graph in `thing`, and what to do about it."""
    if isinstance(thing, keras.Layer):
        return _keras_layer(thing)
    if isinstance(thing, keras.Function):
        return (
            f"'{thing.name}' is a keras.Function, which has a graph but is no model. Make one of it: "
            "`keras.Model(function.inputs, function.outputs)`."
        )
    if isinstance(thing, type):
        return f"{thing.__name__} is a class. Make a model of it first: `{thing.__name__}(...)`."
    if isinstance(thing, (str, PurePath)):
        return f"'{thing}' is a name, not a model. Load it first: `keras.saving.load_model('{thing}')`."
    return _foreign(thing)


def _keras_layer(layer: keras.Layer) -> str:
    kind = "Model" if isinstance(layer, keras.Model) else "Layer"
    named = f"'{layer.name}' ({type(layer).__name__})"
    if isinstance(layer, keras.Sequential):
        if not layer.built:
            return (
                f"Sequential model '{layer.name}' is not built, so it has no graph yet. Give it a `keras.Input` as its "
                "first layer, or call it on data once."
            )
        return f"Sequential model {named} has no graph: Keras could not run its layers on symbolic tensors. {_TRACE}"
    if not layer.built:
        return f"{kind} {named} is not built: it has no weights yet. Call it on data once, `model(x)`, then go on."
    if kind == "Model":
        return f"Model {named} computes in its own `call`, so it has no graph that can be cut. {_TRACE}"
    return (
        f"{named} is a layer, not a model. If it has layers inside, turn it into a graph: `kerassplit.trace(layer, "
        "inputs)`. One that has none is one call, which cannot be cut."
    )


def _foreign(thing: Any) -> str:
    kind = f"{type(thing).__module__}.{type(thing).__qualname__}"
    packages = set(_packages(thing))
    if "tf_keras" in packages or _is_old_tensorflow_keras(thing):
        return (
            f"{kind} is a model of Keras 2 (`tf_keras`), and kerassplit reads Keras 3. Save it as `m.h5` and load that "
            "with Keras 3, `keras.saving.load_model('m.h5')`; or build it anew with `import keras` and copy the "
            "weights, `new.set_weights(old.get_weights())`. Where `TF_USE_LEGACY_KERAS` is set, unset it."
        )
    if "torch" in packages:
        return (
            f"{kind} is a PyTorch module, and kerassplit reads Keras models. Write the model with keras.layers (on the "
            "torch backend its tensors are PyTorch's), one layer for each part that is to be cut off; "
            "`keras.layers.TorchModuleWrapper(part)` makes one layer of a module, which is then one call."
        )
    if packages & {"flax", "haiku", "equinox", "jax"}:
        return (
            f"{kind} is a JAX model, and kerassplit reads Keras models. Write the model with keras.layers, one layer "
            "for each part that is to be cut off; on the JAX backend `keras.layers.JaxLayer` (or `FlaxLayer`) makes "
            "one layer of such a part, which is then one call."
        )
    if "tensorflow" in packages:
        return (
            f"{kind} is a TensorFlow object, and kerassplit reads Keras models. Load the model's `.keras` file, not "
            "its SavedModel: `keras.saving.load_model(path)`. `keras.layers.TFSMLayer(path)` makes one layer of a "
            "SavedModel, which is one call and cannot be cut."
        )
    if callable(thing) and not packages - {"builtins", "functools"}:
        return f"Expected a keras.Model, got the function {getattr(thing, '__name__', kind)!r}. Pass the model itself."
    return f"Expected a keras.Model, got {kind}."


def _packages(thing: Any) -> Iterator[str]:
    """The packages that its class and what this inherits from come from; nothing is imported to find out."""
    for kind in type(thing).__mro__:
        if kind is not object:
            yield kind.__module__.partition(".")[0]


def _is_old_tensorflow_keras(thing: Any) -> bool:
    return any(kind.__module__.startswith("tensorflow.python.keras") for kind in type(thing).__mro__)
