"""Turns subclassed models and composite layers into graphs: records what `call` does to symbolic tensors.

In reading order:

- `trace`: the public function.
- `level`: one layer: records its `call`, checks the record, and builds it with the opened layers inside.
- `recording`: records what `call` does as plain calls.
- `constants`: layers called on constants; unknown dimensions of shapes.
- `call_forms`: the arguments that a layer is called with, and the positions of tensors among them.
- `checks`: the requirements on a recorded `call`.
- `open_patterns`: the layers that a user wants opened.
- `rebuilt`: builds a functional model from a record.
- `blame`: finds the line of user code at fault, and what to do.
"""
