"""Subclassed models and composite layers as graphs: what their `call` does to symbolic tensors, recorded and built.

In reading order:

- `trace`: the function for users.
- `level`: the inside of one layer, recorded, checked, and built with what is opened in it.
- `recording`: what `call` does, as plain calls.
- `constants`: layers that are called on constants; open sides of shapes.
- `call_forms`: with which tensors in which places a layer is called.
- `checks`: what a recorded `call` must be to become a graph.
- `open_patterns`: which layers a user wants opened.
- `rebuilt`: the functional model of what was recorded.
- `blame`: which line of a user's code is at fault, and the way out.
"""
