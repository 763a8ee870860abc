"""Edits models: inserts, replaces and removes layers, and gives a model other inputs.

- `marks`: what was inserted or replaced, for pictures.
- `steps`: an edit as data, and the order in which an edited model is built.
- `refusals`: the error for a layer that cannot take another shape.
- `edited`: builds it.
- `calls`: the calls that a user's patterns stand for.
- `insertion`, `replacement`, `removal`: the functions for layers.
- `paddings`, `channels`, `positions`: what other inputs change in layers.
- `input_shape`: the function for inputs.
"""
