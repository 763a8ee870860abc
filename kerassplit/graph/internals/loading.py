"""Loads models from open files with Keras's own reader, and limits the memory that a file may ask for."""

import json
import os
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import h5py
import keras

from kerassplit.graph.internals.keras_src import (
    SafeModeScope,
    compute_output_spec,
    global_state,
    keras_option_scope,
    load_model,
    load_model_from_hdf5,
    model_from_config,
)
from kerassplit.graph.internals.process_state import deep_recursion
from kerassplit.graph.internals.skeletons import without_values
from kerassplit.graph.limits import BYTES, most_bytes
from kerassplit.graph.sizes import bytes_in

_FEW_BYTES = 2**20  # for states of random generators and the like, which a file may omit
_BYTES_OF_STATES = 2**28  # of recurrent layers; no file contains them, and they are as large as a batch


def load_file(file: BinaryIO, safe_mode: bool) -> Any:
    """Loads an open `.keras` file, not compiled; Keras's public function would open the path again.

    `safe_mode` holds even if the user has turned Keras's own off for the whole process.

    Raises:
        ValueError: With `safe_mode`, the model would need more memory than the file can fill; JAX would abort the
            process on such a request.
    """
    with deep_recursion():
        if safe_mode:
            with zipfile.ZipFile(file) as archive:
                config = archive.read("config.json")
            with SafeModeScope(True):
                _check_memory(config, file.seek(0, os.SEEK_END), keras.saving.deserialize_keras_object)
            file.seek(0)
        # Keras enables it for the config only: KerasHub's tokenizers would refuse the file's own vocabulary.
        with SafeModeScope(None):
            return load_model(file, compile=False, safe_mode=safe_mode)


def load_h5_file(file: BinaryIO, safe_mode: bool) -> Any:
    """Loads an open `.h5` file, as `load_file` loads a `.keras` file."""
    with deep_recursion(), SafeModeScope(safe_mode), h5py.File(file, "r") as content:
        config = content.attrs.get("model_config")
        if safe_mode and config is not None:
            _check_memory(config, file.seek(0, os.SEEK_END), _from_old_config)
        return load_model_from_hdf5(content, compile=False, safe_mode=safe_mode)


def _from_old_config(config: dict[str, Any]) -> Any:
    known = {**keras.saving.get_custom_objects(), **global_state.get_global_attribute("custom_objects_scope_dict", {})}
    with keras_option_scope(use_legacy_config=True):
        return model_from_config(config, custom_objects=known)


def _check_memory(config: str | bytes, held: int, build: Callable[[Any], Any]) -> None:
    """Refuses a model with more variables than the file can fill, without creating any of them."""
    variables, states = _bytes_of(config, build)
    for wanted, usual, what in (
        (variables, 2 * held + _FEW_BYTES, "variables"),
        (states, _BYTES_OF_STATES, "states of recurrent layers"),
    ):
        if wanted > most_bytes(usual):
            raise ValueError(
                f"its config asks for {wanted:,} bytes of {what}, but the file has {held:,} bytes. If this is "
                f"intended, set the environment variable {BYTES} to that number"
            )


def _bytes_of(text: str | bytes, build: Callable[[Any], Any]) -> tuple[int, int]:
    """Returns the bytes of the variables of the model with this config, and of the states of its recurrent layers."""
    stateful: set[str] = set()

    def without_states(config: dict[str, Any]) -> dict[str, Any]:
        if config.get("stateful"):  # the states would be created at once
            stateful.add(str(config.get("name")))
        return {**config, "stateful": False} if "stateful" in config else config

    config = json.loads(text, object_hook=without_states)
    try:
        with without_values():
            model = build(config)
            if not isinstance(model, keras.Model):
                return 0, 0
            states = [
                state
                for layer in model._flatten_layers()
                if isinstance(layer, keras.layers.RNN) and layer.name in stateful
                for state in _states_of(layer)
            ]
    except ValueError as error:
        if "stateless scope" not in str(error):
            raise
        return 0, 0  # a registered layer of the user's creates a variable at once; none of Keras's does
    return bytes_in(model.variables), bytes_in(states)


def _states_of(layer: keras.layers.RNN) -> list[keras.KerasTensor]:
    """Returns the states that a recurrent layer keeps between batches, as symbolic tensors."""
    shape = keras.tree.flatten(layer.get_build_config())
    batch = shape[0] if shape and isinstance(shape[0], int) else 1
    return keras.tree.flatten(compute_output_spec(lambda: layer.get_initial_state(batch)))
