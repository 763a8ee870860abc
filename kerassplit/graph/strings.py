"""Models that take strings, of which nobody can draw random ones or tell the bytes: which they are, and the way out."""

from kerassplit.errors import SplitError
from kerassplit.graph.model_graph import Graph
from kerassplit.text import listed


def string_inputs(graph: Graph) -> list[str]:
    """Names of the model's inputs that are strings."""
    return [graph.tensors[one].name for one in graph.flat_inputs() if _is_string(graph, one)]


def behind_strings(graph: Graph) -> str:
    """What to do where strings are in the way: the part of the model that takes the numbers made of them."""
    start = _numbers(graph)
    if start is None:
        return "No part of the model is without them."
    return f"Take the part behind them: build_submodel(model, start={start})."


def refuse_strings(graph: Graph, then: str) -> None:
    """Sees that features of a model can be cached, for which its data must be numbers.

    Args:
        graph: The model's.
        then: What to do with the part behind the strings.

    Raises:
        SplitError: It takes strings.
    """
    names, start = string_inputs(graph), _numbers(graph)
    if not names:
        return
    raise SplitError(
        f"{listed(names)} of '{graph.model.name}' takes strings, and features are cached of data that is numbers. "
        + (
            f"Take the part behind them: `kerassplit.build_submodel(model, start={start})`; {then}, with what "
            f"`kerassplit.build_submodel(model, end={start})` makes of the texts in their place."
            if start
            else behind_strings(graph)
        )
    )


def _numbers(graph: Graph) -> str | None:
    """The numbers made of strings, as text for a program."""
    numbers = [
        graph.tensors[made].name
        for call in graph.calls
        if any(_is_string(graph, taken) for taken in call.inputs)
        for made in call.outputs
        if graph.tensors[made].users and not _is_string(graph, made)
    ]
    return repr(numbers[0] if len(numbers) == 1 else numbers) if numbers else None


def _is_string(graph: Graph, tensor: int) -> bool:
    return graph.tensors[tensor].symbol.dtype == "string"
