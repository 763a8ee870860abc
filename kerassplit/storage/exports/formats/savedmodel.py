"""Stages as TensorFlow SavedModels, with one signature, `serving_default`."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

SIGNATURE = "serving_default"


def trace(model: "keras.Model", inputs: Sequence[str], outputs: Sequence[str], folder: Path) -> None:
    """Writes a Keras model as a SavedModel; Keras must run on TensorFlow.

    With Keras's own `model.export`, TensorFlow tracks the model and its variables, and writes every variable twice;
    here it tracks only what the traced function uses.

    Args:
        model: The model.
        inputs: Names for its inputs, in their flat order.
        outputs: Names for its outputs, likewise.
        folder: The folder to write.
    """
    import keras
    import tensorflow as tf

    from kerassplit.graph.internals.process_state import name_scopes_kept

    def compute(*values: Any) -> dict[str, Any]:
        made = model(keras.tree.pack_sequence_as(model.input, list(values)), training=False)
        # `identity`, because an output may also be an input or another output.
        return {name: tf.identity(_dense(value)) for name, value in zip(outputs, keras.tree.flatten(made), strict=True)}

    specs = [
        tf.TensorSpec(symbol.shape, symbol.dtype, name=name) for name, symbol in zip(inputs, model.inputs, strict=True)
    ]
    with _quiet_about_names(), name_scopes_kept():
        function = tf.function(compute, autograph=False).get_concrete_function(*specs)
        module: Any = tf.Module()
        module.used = [*function.graph.variables, *_tables(model)]
        tf.saved_model.save(module, str(folder), signatures={SIGNATURE: function})


def opened(path: Path) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """Returns a function that runs an exported stage: arrays by name in, arrays by name out."""
    import tensorflow as tf

    with _quiet_about_names():
        loaded = tf.saved_model.load(str(path))

    def run(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        results = loaded.signatures[SIGNATURE](**{name: tf.constant(value) for name, value in tensors.items()})
        return {name: value.numpy() for name, value in results.items()}

    return run


def input_infos(path: Path) -> Mapping[str, Any]:
    """Reads the inputs from the file, by name, as `TensorInfo` messages.

    A loaded signature does not report them reliably: TensorFlow turns some names into Python parameters and lowercases
    others.
    """
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel  # pyright: ignore[reportMissingModuleSource]

    content = SavedModel()
    content.ParseFromString((path / "saved_model.pb").read_bytes())
    return content.meta_graphs[0].signature_def[SIGNATURE].inputs


@contextlib.contextmanager
def _quiet_about_names() -> Iterator[None]:
    """Silences the warning that `a.b` is not a valid Python parameter: the file keeps the input's name anyway."""

    def keep(record: logging.LogRecord) -> bool:
        return "is not a valid tf.function parameter name" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _dense(value: Any) -> Any:
    import tensorflow as tf

    return tf.sparse.to_dense(value) if isinstance(value, tf.SparseTensor) else value


def _tables(model: "keras.Model") -> Iterator[Any]:
    """Yields the lookup tables of layers that read strings: TensorFlow must track them, and they are not variables."""
    import keras
    import tensorflow as tf

    kinds = (tf.lookup.StaticHashTable, tf.lookup.experimental.MutableHashTable, tf.lookup.StaticVocabularyTable)
    waiting: list[keras.Layer] = [model]
    while waiting:
        layer = waiting.pop()
        waiting += layer.layers if isinstance(layer, keras.Model) else []
        for value in vars(layer).values():
            if isinstance(value, kinds):
                yield value
            elif isinstance(value, keras.Layer) and not isinstance(layer, keras.Model):
                waiting.append(value)
