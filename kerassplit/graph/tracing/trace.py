"""Turns subclassed models and composite layers into graphs.

Their `call` runs on symbolic tensors, once for inference and once for training, and the calls it makes are recorded. If
the two runs agree, the record is the graph: it is built from Keras nodes like every sub-model, on the same layers.
A composite layer inside stays one call; if opened, it becomes a nested functional model of the same name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from kerassplit.errors import SplitError, UnsupportedModelError
from kerassplit.graph.internals.layers import functional_of
from kerassplit.graph.internals.process_state import lock
from kerassplit.graph.references import several_of
from kerassplit.graph.tracing.call_forms import Form, specs
from kerassplit.graph.tracing.level import Level, default_training
from kerassplit.graph.tracing.open_patterns import Pattern
from kerassplit.graph.unsupported import why_no_graph


def trace(
    model: keras.Layer,
    inputs: Any = None,
    *,
    open: str | Iterable[str] = (),  # noqa: A002
    training: bool | None = None,
    **arguments: Any,
) -> keras.Model:
    """Turns a subclassed model or a composite layer into a functional model on the same layers and variables.

    Its `call` runs on symbolic tensors: every layer and every `keras.ops` operation that it calls becomes a call of the
    graph, and everything kerassplit does with functional models works with the result. The original is not changed.
    Operations get names that are the same in every process (`add`, `add_1`); layers keep theirs.

    A composite layer inside stays one call unless it is named in `open`: then it becomes a nested functional model with
    its name, and its calls are named `block_1/dense`.

    Args:
        model: A built layer or model. A functional or Sequential model is a graph already: it keeps its own Inputs, and
            only the layers named in `open` are traced.
        inputs: The first argument of `call`, in the structure that it accepts: arrays, `KerasTensor`s, or shapes as
            tuples (of float32) with the batch first and `None` for unknown dimensions. The batch size of an array is
            left unknown.
        open: Names or globs of the composite layers to open; `*` does not match a `/`. `"encoder/block_*"` opens
            `encoder`, too. Globs skip Keras's own layers (`MultiHeadAttention`, `LSTM`): give their full names.
        training: `None` (usual): one graph for both modes. Refused if `call` does something different in training than
            in inference, or fixes `training` for a layer, which a functional model cannot express. `False` (or `True`):
            the graph of that one mode; call it without `training`.
        **arguments: Further arguments of `call`. Arrays and `KerasTensor`s become inputs, and the traced model then
            accepts one dict of all its inputs, by argument name. Anything else is passed on unchanged.

    Returns:
        A functional `keras.Model` of the same name. It accepts and returns the same structures as `call`.

    Raises:
        UnsupportedModelError: `model` is not built or not a Keras layer, or `call` does something that a graph cannot
            represent. The message names the line at fault and what to do.
        UnknownTensorError: `open` names no layer of the model.

    Example:

    >>> graph = ks.trace(encoder, (None, 128, 256), open="transformer_layer_*")
    >>> ks.split(graph, "transformer_layer_5/add_1")
    """
    if not isinstance(model, keras.Layer) or not model.built:
        raise UnsupportedModelError(why_no_graph(model))
    globs = several_of(open)
    for glob in globs:
        if not isinstance(glob, str):
            raise SplitError(f"`open` accepts names and globs of layers, as strings; got {glob!r}.")
    patterns = [Pattern(tuple(glob.split("/"))) for glob in globs]
    form = None if functional_of(model) is not None else Form.of([specs(model, inputs, arguments)])
    with lock:
        level = Level(model, (), form, patterns, training, default_training(model))
        traced = level.build(keyed=form is not None and form.has_keyword_tensors())
    for pattern in patterns:
        pattern.check_met(model)
    return traced.model
