"""Edits models: inserts, replaces and removes layers, and gives a model other inputs.

- `marks`: what was inserted or replaced, for pictures.
- `steps`: an edit as data, and the order in which an edited model is built.
- `refusals`: the error for a layer that cannot take another shape.
- `edited`: builds it.
- `layers`, `weights`: layers that a user gives, their names, and weights carried over to them.
- `insertion`, `replacement`, `removal`: the functions for layers.
- `exits`: trained exits at intermediate tensors.
- `paddings`, `channels`, `positions`: what other inputs change in layers.
- `input_shape`: the function for inputs.
"""
