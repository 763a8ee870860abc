"""Models with string inputs, which have no random values and no fixed size in bytes: finds them, and what to do."""

from kerassplit.errors import SplitError
from kerassplit.graph.model_graph import Graph
from kerassplit.text import listed


def string_inputs(graph: Graph) -> list[str]:
    """Returns the names of the model's string inputs."""
    return [graph.tensors[one].name for one in graph.flat_inputs() if _is_string(graph, one)]


def behind_strings(graph: Graph) -> str:
    """Explains what to do about strings: use the part of the model after they are turned into numbers."""
    start = _numbers(graph)
    if start is None:
        return "Every part of the model has them."
    return f"Use the part after them: build_submodel(model, start={start})."


def refuse_strings(graph: Graph, then: str) -> None:
    """Checks that the features of a model can be cached, which requires numeric data.

    Args:
        graph: The graph of the model.
        then: What to do with the part after the strings.

    Raises:
        SplitError: The model has string inputs.
    """
    names, start = string_inputs(graph), _numbers(graph)
    if not names:
        return
    raise SplitError(
        f"{listed(names)} of '{graph.model.name}' takes strings, and features can only be cached for numeric data. "
        + (
            f"Use the part after them: `kerassplit.build_submodel(model, start={start})`; {then}, with the output of "
            f"`kerassplit.build_submodel(model, end={start})` in place of the texts."
            if start
            else behind_strings(graph)
        )
    )


def _numbers(graph: Graph) -> str | None:
    """Returns the names of the numeric tensors computed from strings, as source code."""
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
