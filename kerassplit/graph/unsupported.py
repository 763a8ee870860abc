"""Explains why an object has no graph, and what to do."""

from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import keras

from kerassplit.text import listed, package_of

_TRACE = "Turn it into a graph: `kerassplit.trace(model, inputs)`."


def why_no_graph(thing: Any) -> str:
    """Explains why kerassplit finds no graph in `thing`, and what to do about it."""
    if isinstance(thing, keras.Layer):
        return _keras_layer(thing)
    if isinstance(thing, keras.Function):
        return (
            f"'{thing.name}' is a keras.Function, which has a graph but is not a model. Make a model of it: "
            "`keras.Model(function.inputs, function.outputs)`."
        )
    if isinstance(thing, type):
        return f"{thing.__name__} is a class. Make a model of it first: `{thing.__name__}(...)`."
    if isinstance(thing, (str, PurePath)):
        return f"'{thing}' is a name, not a model. Load it first: `keras.saving.load_model('{thing}')`."
    return _foreign(thing)


def has_own(layer: keras.Layer, method: str) -> bool:
    """True if a method is replaced on the instance or overridden in its class by others than Keras and KerasHub."""
    return replaces(layer, method) or package_of(getattr(type(layer), method)) not in ("keras", "keras_hub")


def replaces(layer: keras.Layer, method: str) -> bool:
    """True if a method is replaced on the instance; `model.call = tf.function(model.call)` does not count."""
    there = vars(layer).get(method)
    if there is None or method == "__call__":  # Python looks that up in the class only
        return False
    bound = _not_compiled(there)
    function = getattr(type(layer), method)
    return getattr(bound, "__func__", None) is not function or getattr(bound, "__self__", None) is not layer


def own_prediction(model: keras.Model) -> tuple[str, ...]:
    """Returns the methods by which a model customizes prediction, which a graph does not show."""
    methods = ("make_predict_function", "predict", "predict_step")
    return tuple(method for method in methods if has_own(model, method))


def told_of_own_prediction(name: str, methods: Iterable[str]) -> list[str]:
    """Returns warnings for stages of a model with custom prediction `methods`; none if there are no methods."""
    them = listed(f"`{method}`" for method in methods).replace("'", "")
    return [
        f"'{name}' has its own {them}, which its stages do not run: they return what `model(x)` returns, not what "
        "`model.predict(x)` does. Move what it adds into a layer of the model, or apply it to the stages' output."
    ] * bool(them)


def _not_compiled(function: Any) -> Any:
    """Returns the original of a function that `tf.function`, `jax.jit` or `torch.compile` wrapped."""
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
            "To cut what the graph says, remove the new one: `del model.call`. To cut what the new one computes, "
            "turn it into a graph: `kerassplit.trace(model, inputs)`."
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
        return f"{kind} {named} is not built: it has no weights yet. Call it on data once, `model(x)`, then try again."
    if kind == "Model":
        return f"Model {named} computes in its own `call`, so it has no graph that can be cut. {_TRACE}"
    return (
        f"{named} is a layer, not a model. If it has layers inside, turn it into a graph: `kerassplit.trace(layer, "
        "inputs)`. A layer without layers inside is a single call, which cannot be cut."
    )


def _own_call(layer: keras.Layer, named: str) -> str:
    if getattr(layer, "inputs", None):
        return (
            f"{named} has its own `__call__`, so its graph does not say what it computes.\n"
            "To cut what the graph says, use `keras.Model(model.inputs, model.outputs)`. What `__call__` adds can "
            "become a layer in it."
        )
    return f"{named} has its own `__call__`, which a graph cannot represent.\nMove what `__call__` adds into `call`."


def _foreign(thing: Any) -> str:
    kind = f"{type(thing).__module__}.{type(thing).__qualname__}"
    kinds = type(thing).__mro__[:-1]
    packages = set(map(package_of, kinds))  # nothing is imported to find out
    if "tf_keras" in packages or any(one.__module__.startswith("tensorflow.python.keras") for one in kinds):
        return (
            f"{kind} is a Keras 2 model (`tf_keras`), and kerassplit reads Keras 3. Save it as `m.h5` and load that "
            "with Keras 3, `keras.saving.load_model('m.h5')`; or rebuild it with `import keras` and copy the "
            "weights, `new.set_weights(old.get_weights())`. If `TF_USE_LEGACY_KERAS` is set, unset it."
        )
    if "torch" in packages:
        return (
            f"{kind} is a PyTorch module, and kerassplit reads Keras models. Write the model with keras.layers (on the "
            "torch backend its tensors are PyTorch's), one layer for each part to cut off; "
            "`keras.layers.TorchModuleWrapper(part)` turns a module into one layer, which is one call."
        )
    if packages & {"flax", "haiku", "equinox", "jax"}:
        return (
            f"{kind} is a JAX model, and kerassplit reads Keras models. Write the model with keras.layers, one layer "
            "for each part to cut off; on the JAX backend `keras.layers.JaxLayer` (or `FlaxLayer`) turns such a part "
            "into one layer, which is one call."
        )
    if "tensorflow" in packages:
        return (
            f"{kind} is a TensorFlow object, and kerassplit reads Keras models. Load the model's `.keras` file, not "
            "its SavedModel: `keras.saving.load_model(path)`. `keras.layers.TFSMLayer(path)` turns a SavedModel into "
            "one layer, which is one call and cannot be cut."
        )
    if callable(thing) and not packages - {"builtins", "functools"}:
        return f"Expected a keras.Model, got the function {getattr(thing, '__name__', kind)!r}. Pass the model itself."
    return f"Expected a keras.Model, got {kind}."
