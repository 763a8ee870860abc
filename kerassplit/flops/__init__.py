"""Arithmetic of calls, by formulas of shapes: the same on every backend.

count: counts, and what activations and Einstein's notation cost.
operations: formulas of `keras.ops`.
layers: formulas of Keras's layers, out of those of operations.
recurrent: layers that run other layers or cells.
formulas: the formula of any call, and FLOPs of a whole graph by formulas alone.
inside: any call, layers without a formula by the calls inside them.
"""
