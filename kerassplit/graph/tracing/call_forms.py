"""Call forms: the arguments that a layer is called with, and the positions of tensors among them."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kerassplit.errors import SplitError
from kerassplit.graph.internals.symbols import mask_of, set_mask
from kerassplit.graph.tracing.recording import symbols_in


@dataclass(frozen=True)
class Place:
    """Placeholder for a tensor among the arguments of a call, with the number of the tensor."""

    number: int


@dataclass
class Form:
    """The arguments that all calls of a layer have in common.

    Attributes:
        args: The positional arguments, with `Place`s for tensors.
        kwargs: The keyword arguments, likewise.
        specs: A `KerasTensor` for each of these tensors and their masks, with a shape that fits all calls.
        masks: For each of them, the number of the tensor that is its mask, or `None`.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    specs: list[keras.KerasTensor]
    masks: list[int | None]

    @staticmethod
    def of(calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> "Form | None":
        """Returns the form of these calls; `None` if they differ in more than shapes."""
        forms = [Form._of_one(*call) for call in calls]
        first = forms[0]
        if any(not first._is_like(form) for form in forms):
            return None
        specs = [_common(symbols) for symbols in zip(*(form.specs for form in forms), strict=True)]
        return Form(first.args, first.kwargs, specs, first.masks)

    @staticmethod
    def _of_one(args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Form":
        specs = with_masks(args, kwargs)
        places = {id(spec): number for number, spec in enumerate(specs)}
        args, kwargs = keras.tree.map_structure(
            lambda x: Place(places[id(x)]) if isinstance(x, keras.KerasTensor) else x, (args, kwargs)
        )
        return Form(args, kwargs, specs, [places.get(id(mask_of(spec))) for spec in specs])

    def _is_like(self, other: "Form") -> bool:
        ours, theirs = (
            (form.masks, [(spec.dtype, spec.sparse, len(spec.shape)) for spec in form.specs]) for form in (self, other)
        )
        return ours == theirs and same((self.args, self.kwargs), (other.args, other.kwargs), {})

    def has_keyword_tensors(self) -> bool:
        return any(isinstance(x, Place) for x in keras.tree.flatten(self.kwargs))

    def fresh(self) -> tuple[list[keras.KerasTensor], tuple[Any, ...], dict[str, Any]]:
        """Returns new Inputs, and the arguments with these."""
        inputs = [
            keras.Input(batch_shape=spec.shape, dtype=spec.dtype, sparse=spec.sparse, ragged=spec.ragged)
            for spec in self.specs
        ]
        for symbol, mask in zip(inputs, self.masks, strict=True):
            if mask is not None:
                set_mask(symbol, inputs[mask])
        return inputs, filled(self.args, inputs), filled(self.kwargs, inputs)

    def bound(self, layer: keras.Layer) -> dict[str, Any]:
        """Returns the arguments by their parameter names in `layer.call`."""
        return inspect.signature(layer.call).bind(*self.args, **self.kwargs).arguments

    def names(self, layer: keras.Layer) -> list[str]:
        """Returns a name for each tensor: the argument's name and the tensor's position in it, or its key in a dict."""
        names: dict[int, str] = {}

        def give(value: Any, name: str) -> None:
            if isinstance(value, Place):
                names.setdefault(value.number, name)
            elif isinstance(value, dict):
                for key, one in value.items():
                    give(one, str(key) if name in parameters else f"{name}_{key}")
            elif isinstance(value, (list, tuple)):
                for place, one in enumerate(value):
                    give(one, f"{name}_{place}")

        parameters = self.bound(layer)
        for name, value in parameters.items():
            give(value, name)
        for number, mask in enumerate(self.masks):
            if mask is not None:
                names.setdefault(mask, f"{names[number]}_mask")
        return [names[number] for number in range(len(self.specs))]


@dataclass
class Masking:
    """A layer's `compute_mask` for the model that replaces the layer."""

    layer: keras.Layer
    form: Form
    takes: list[int]

    def __call__(self, inputs: Any, previous_mask: Any) -> Any:
        given, masks = (
            dict(zip(self.takes, keras.tree.flatten(some), strict=False)) for some in (inputs, previous_mask)
        )
        arguments = self.form.bound(self.layer)
        first, own = next(iter(arguments.values())), arguments.get("mask")
        if any(x.number not in given for x in keras.tree.flatten(first) if isinstance(x, Place)):
            return None
        mask = given.get(own.number) if isinstance(own, Place) else None
        return self.layer.compute_mask(filled(first, given), filled(first, masks) if mask is None else mask)


def specs(model: keras.Layer, inputs: Any, arguments: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the arguments of `call`, with `KerasTensor`s for everything that becomes an input."""
    if inputs is None:
        raise SplitError(
            f"'{model.name}' ({type(model).__name__}) computes in its own `call`: pass its inputs in `inputs`, as "
            "arrays, KerasTensors, or shapes such as (None, 224, 224, 3)."
        )
    kwargs = {
        name: keras.tree.map_structure(lambda x: _spec(x, name) if hasattr(x, "shape") else x, value)  # noqa: B023
        for name, value in arguments.items()
    }
    return (_spec(inputs, "inputs"),), kwargs


def _spec(value: Any, name: str) -> Any:
    """Converts an array, a `KerasTensor`, a shape, or a structure of these to `KerasTensor`s."""
    if isinstance(value, keras.KerasTensor):
        return keras.KerasTensor(value.shape, dtype=value.dtype, sparse=value.sparse, ragged=value.ragged)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        dtype = keras.backend.standardize_dtype(keras.ops.convert_to_tensor(value).dtype)
        dtype = keras.config.floatx() if dtype == "float64" else dtype
        return keras.KerasTensor((None, *value.shape[1:]) if value.shape else (), dtype=dtype)
    if isinstance(value, tuple) and value and all(side is None or type(side) is int for side in value):
        return keras.KerasTensor(value, dtype="float32")
    if isinstance(value, dict) and value:
        return {key: _spec(one, f"{name}[{key!r}]") for key, one in value.items()}
    if isinstance(value, (list, tuple)) and value:
        return type(value)(_spec(one, f"{name}[{place}]") for place, one in enumerate(value))
    raise SplitError(
        f"`{name}` is {value!r} ({type(value).__name__}): expected an array, a KerasTensor, or a shape as a tuple such "
        "as (None, 224, 224, 3), in the structure that `call` accepts."
    )


def same(ours: Any, theirs: Any, pairs: dict[int, keras.KerasTensor]) -> bool:
    """True if two structures have the same contents; `pairs` maps the `id` of our symbolic tensors to theirs."""
    try:
        keras.tree.assert_same_structure(ours, theirs)
    except (ValueError, TypeError):
        return False
    return all(
        _same_value(one, other, pairs)
        for one, other in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True)
    )


def _same_value(one: Any, other: Any, pairs: dict[int, keras.KerasTensor]) -> bool:
    if one is other or inspect.isroutine(one):
        return True
    if isinstance(one, keras.KerasTensor):
        return pairs.get(id(one)) is other
    if type(one) is not type(other) or isinstance(one, keras.Variable):
        return False
    if hasattr(one, "shape") and hasattr(one, "dtype"):
        one, other = map(keras.ops.convert_to_numpy, (one, other))
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return bool(one == other)


def same_operation(ours: keras.Operation, theirs: keras.Operation) -> bool:
    """True if two operations are the same object, or equal and created by `call` itself."""
    if ours is theirs:
        return True
    if type(ours) is not type(theirs) or isinstance(ours, keras.Layer):
        return type(ours) is type(theirs)
    own, others = (
        {key: value for key, value in vars(operation).items() if key != "name" and not key.startswith("_")}
        for operation in (ours, theirs)
    )
    return same(own, others, {})


def with_masks(args: Any, kwargs: Any) -> list[keras.KerasTensor]:
    """Returns the symbolic tensors among arguments, and their masks, each once."""
    symbols = symbols_in((args, kwargs))
    masks = [mask for symbol in symbols if (mask := mask_of(symbol)) is not None]
    return list({id(symbol): symbol for symbol in [*symbols, *masks]}.values())


def filled(structure: Any, symbols: Any) -> Any:
    """Returns a structure with its `Place`s replaced by tensors."""
    return keras.tree.map_structure(lambda x: symbols[x.number] if isinstance(x, Place) else x, structure)


def _common(symbols: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
    """Returns a tensor that fits all of these: dimensions in which they differ are unknown."""
    sides = [one[0] if len(set(one)) == 1 else None for one in zip(*(symbol.shape for symbol in symbols), strict=True)]
    return keras.KerasTensor(sides, dtype=symbols[0].dtype, sparse=symbols[0].sparse, ragged=symbols[0].ragged)
