"""Arithmetic of calls, computed from shapes by formulas: the same on every backend.

count: counts, and the cost of activations and of einsum.
operations: formulas of `keras.ops`.
layers: formulas of Keras's layers, built from those of operations.
recurrent: formulas of layers that run other layers or cells.
formulas: finds the formula of any call, and computes the FLOPs of a whole graph by formulas alone.
inside: counts any call; layers without a formula are counted by the calls inside them.
"""
