"""Early exit by its definition."""

import numpy as np


def chosen(everything, order, sure, batch_size):
    """What early exit should give, computed by choosing afterwards: outputs, who answered, batches per stage."""
    rows = len(everything[order[0]])
    exits = np.full(rows, order[-1], dtype="U99")
    for name in reversed(order[:-1]):
        exits[sure[name]] = name
    outputs = np.stack([everything[name][row] for row, name in enumerate(exits)])
    place = np.array([order.index(name) for name in exits])
    spans = [slice(first, first + batch_size) for first in range(0, rows, batch_size)]
    return outputs, exits, [sum(place[span].max() >= stage for span in spans) for stage in range(len(order))]
