"""What a user brought that has no graph, told apart, each with its next step."""

from typing import Any

import keras


def why_no_graph(thing: Any) -> str:
    """Why kerassplit finds no graph in `thing`, and what to do about it."""
    if isinstance(thing, keras.Sequential):
        return (
            f"Sequential model '{thing.name}' is not built, so it has no graph yet. Give it a `keras.Input` as its "
            "first layer, or call it on data once."
        )
    if isinstance(thing, keras.Model):
        return (
            f"Model '{thing.name}' ({type(thing).__name__}) computes in its own `call`, so it has no graph that can be "
            "cut. Turn it into a graph: `kerassplit.trace(model, inputs)`."
        )
    return f"Expected a keras.Model, got {type(thing).__module__}.{type(thing).__qualname__}."
