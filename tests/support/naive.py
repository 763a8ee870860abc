"""Pytest plugin that swaps the rebuild for the recipe from forums: calls each layer on `inbound_nodes[0]` again.

`test_honest.py` runs the suite with it, to check that the suite's checks fail.
"""

import keras
from hypothesis import Phase, settings

from kerassplit.graph.building import Builder


def add_calls(self, graph, calls, symbols, operations=None):
    made = {graph.calls[graph.tensors[tensor].call].operation.name: symbol for tensor, symbol in symbols.items()}
    start = next(iter(symbols.values()))

    def look_up(argument):
        if isinstance(argument, keras.KerasTensor):
            return made.get(argument._keras_history.operation.name, start)
        return argument

    for call in calls:
        operation = call.operation
        args, kwargs = operation._inbound_nodes[0].arguments.convert(look_up)
        outputs = keras.tree.flatten(operation(*args, **kwargs))
        made[operation.name] = outputs[0]
        symbols.update((tensor, output) for (tensor, _), output in zip(graph.results(call), outputs, strict=True))


Builder.add_calls = add_calls

# The first counterexample is enough; making it small would take minutes.
settings.register_profile("naive", phases=[Phase.generate])
settings.load_profile("naive")
