"""Copies layers and models: same configuration, with variables and state of their own."""

import contextlib
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from kerassplit.errors import SplitError, UnsupportedModelError
from kerassplit.graph.internals.keras_src import SafeModeScope
from kerassplit.graph.internals.layers import all_layers, renamed, replaced_calls
from kerassplit.graph.internals.process_state import deep_recursion
from kerassplit.graph.masks import MASKED
from kerassplit.graph.model_graph import Call, Nest
from kerassplit.text import listed, package_of, unique


@contextlib.contextmanager
def copying(models: Sequence[keras.Model], name: str) -> Iterator[None]:
    """Context in which Keras copies models; names the model in errors.

    Raises:
        UnsupportedModelError: Keras cannot copy them.
    """
    kinds = {type(layer).__name__: type(layer) for model in models for layer in all_layers(model)}
    own = {kind: one for kind, one in kinds.items() if package_of(one) != "keras"}
    with keras.saving.custom_object_scope(own), deep_recursion(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", f"Layer '.*{MASKED}' .* does not support masking")
        try:
            yield
        except SplitError:
            raise
        except Exception as error:
            raise UnsupportedModelError(
                f"Keras cannot copy '{name}': {type(error).__name__}: {error}\n"
                "Fix the `get_config` of the layer at fault, and register classes of your own with "
                "`keras.saving.register_keras_serializable()`."
            ) from error


def copies_of(calls: Sequence[Call | Nest]) -> dict[int, keras.Operation]:
    """Returns a copy of each operation, by the original's `id`; the second of two with one name gets a new name."""
    copies: dict[int, keras.Operation] = {}
    owners: dict[int, Call | Nest] = {}
    taken: set[str] = set()
    for call in calls:
        operation = call.operation
        if id(operation) in copies:
            continue
        name = unique(operation.name, taken)
        if not isinstance(operation, keras.Layer):
            copies[id(operation)] = renamed(operation, name)
            continue
        if replaced_calls(operation):
            raise UnsupportedModelError(
                f"The `call` of {listed(replaced_calls(operation))} has been replaced, and a copy would have the one "
                "of its class. Build without copy_weights=True, or define a layer class with the new `call`."
            )
        for variable in operation.variables:
            owner = owners.setdefault(id(variable), call)
            if owner is not call:
                raise UnsupportedModelError(
                    f"{listed([owner.name, call.name])} share the variable '{variable.path}', and copies of these "
                    "layers would not.\nBuild without `copy_weights`; saving and loading makes a copy, too."
                )
        kind = type(operation)
        try:
            with keras.saving.custom_object_scope({kind.__name__: kind}), SafeModeScope(False):
                copies[id(operation)] = kind.from_config(operation.get_config())
        except Exception as error:
            raise UnsupportedModelError(
                f"'{call.name}' ({kind.__name__}) cannot be copied from its configuration: {type(error).__name__}: "
                f"{error}.\nFix its `get_config`, or build without `copy_weights`."
            ) from error
        copies[id(operation)].name = name
    return copies


def copy_state(calls: Sequence[Call | Nest], copies: Mapping[int, keras.Operation]) -> None:
    """Copies the values of the originals to built copies: variables, vocabularies, `trainable` flags."""
    for operation in {id(call.operation): call.operation for call in calls}.values():
        if not isinstance(operation, keras.Layer):
            continue
        copy = copies[id(operation)]
        if [variable.shape for variable in copy.variables] != [variable.shape for variable in operation.variables]:
            raise UnsupportedModelError(
                f"'{operation.name}' ({type(operation).__name__}) creates different variables when it is built "
                "again, so it cannot be copied.\nBuild without `copy_weights`; saving and loading makes a copy, too."
            )
        for ours, theirs in zip(copy._flatten_layers(), operation._flatten_layers(), strict=True):
            ours._trainable = theirs._trainable
            if type(theirs).load_own_variables is not keras.Layer.load_own_variables:  # may derive more from them
                store: dict[str, Any] = {}
                theirs.save_own_variables(store)
                ours.load_own_variables(store)
            if hasattr(theirs, "save_assets"):
                with tempfile.TemporaryDirectory() as folder:
                    theirs.save_assets(folder)
                    if any(Path(folder).iterdir()):
                        ours.load_assets(folder)
        for ours, theirs in zip(copy.variables, operation.variables, strict=True):
            ours.trainable = theirs.trainable
            ours.assign(keras.ops.copy(theirs.value))  # JAX would share the array, and training deletes it
