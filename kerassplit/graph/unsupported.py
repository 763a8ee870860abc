"""Explains why an object has no graph, and what to do."""

from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import keras

from kerassplit.text import listed, package_of

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


def has_own(layer: keras.Layer, method: str) -> bool:
    """Whether a method is replaced on the instance or overridden in its class, by others than Keras and KerasHub."""
    return replaces(layer, method) or package_of(getattr(type(layer), method)) not in ("keras", "keras_hub")


def replaces(layer: keras.Layer, method: str) -> bool:
    """Whether a method of the class is replaced on the instance. `model.call = tf.function(model.call)` does not."""
    there = vars(layer).get(method)
    if there is None or method == "__call__":  # Python looks for that in the class only
        return False
    bound = _not_compiled(there)
    function = getattr(type(layer), method)
    return getattr(bound, "__func__", None) is not function or getattr(bound, "__self__", None) is not layer


def own_methods(layer: keras.Layer, methods: Iterable[str]) -> list[str]:
    """Those of the methods that are the user's own; see `has_own`."""
    return [method for method in methods if has_own(layer, method)]


def own_prediction(model: keras.Model) -> tuple[str, ...]:
    """The methods by which a model predicts in a way of its own, which a graph does not show."""
    return tuple(own_methods(model, ("make_predict_function", "predict", "predict_step")))


def told_of_own_prediction(name: str, methods: Iterable[str]) -> list[str]:
    """What to warn of, if there is anything, where the stages of such a model predict."""
    them = listed(f"`{method}`" for method in methods).replace("'", "")
    return [
        f"'{name}' has its own {them}, which its stages do not run: they give what `model(x)` gives, not what "
        "`model.predict(x)` does. Do what it adds in a layer of the model, or to what the stages give."
    ] * bool(them)


def _not_compiled(function: Any) -> Any:
    """What a compiler was given: `tf.function`, `jax.jit` and `torch.compile` leave what a function computes."""
    for package, attribute in (
        ("tensorflow", "python_function"),
        ("jaxlib", "__wrapped__"),
        ("builtins", "_torchdynamo_orig_callable"),
    ):
        if package_of(type(function)) == package:
            function = getattr(function, attribute, function)
    return function


def _keras_layer(layer: keras.Layer) -> str:
    kind = "Model" if isinstance(layer, keras.Model) else "Layer"
    named = f"'{layer.name}' ({type(layer).__name__})"
    if has_own(layer, "__call__"):
        return _own_call(layer, f"{kind} {named}")
    if replaces(layer, "call"):
        return (
            f"The `call` of {named} has been replaced, so its graph does not say what it computes.\n"
            "To cut what the graph says, take the new one off: `del model.call`. To cut what the new one computes, "
            "make a graph of it: `kerassplit.trace(model, inputs)`."
        )
    if isinstance(layer, keras.Sequential):
        if not layer.built:
            return (
                f"Sequential model '{layer.name}' is not built, so it has no graph yet. Give it a `keras.Input` as its "
                "first layer, or call it on data once."
            )
        if type(layer).call is keras.Sequential.call:
            return (
                f"Sequential model {named} has no graph: Keras could not run its layers on symbolic tensors. {_TRACE}"
            )
    if not layer.built:
        return f"{kind} {named} is not built: it has no weights yet. Call it on data once, `model(x)`, then go on."
    if kind == "Model":
        return f"Model {named} computes in its own `call`, so it has no graph that can be cut. {_TRACE}"
    return (
        f"{named} is a layer, not a model. If it has layers inside, turn it into a graph: `kerassplit.trace(layer, "
        "inputs)`. One that has none is one call, which cannot be cut."
    )


def _own_call(layer: keras.Layer, named: str) -> str:
    if getattr(layer, "inputs", None):
        return (
            f"{named} has its own `__call__`, so its graph does not say what it computes.\n"
            "To cut what the graph says, take that: `keras.Model(model.inputs, model.outputs)`. What `__call__` adds "
            "can be a layer in it."
        )
    return f"{named} has its own `__call__`, which no graph can hold.\nCompute in `call` what `__call__` adds."


def _foreign(thing: Any) -> str:
    kind = f"{type(thing).__module__}.{type(thing).__qualname__}"
    kinds = type(thing).__mro__[:-1]
    packages = set(map(package_of, kinds))  # nothing is imported to find out
    if "tf_keras" in packages or any(one.__module__.startswith("tensorflow.python.keras") for one in kinds):
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
