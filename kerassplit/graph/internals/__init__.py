"""Keras's internals: the only files that know how Keras keeps calls, masks, global state and files.

In reading order:

- `keras_src`: every private Keras name that is used, and the error if one is missing.
- `process_state`: process-wide state.
- `symbols`: symbolic tensors, the nodes that produce them, and their masks.
- `layers`: queries about layers and operations.
- `nodes`: Keras's nodes (its records of calls), and the walk through them.
- `shared_nodes`: nodes of operations that several models share, and their release.
- `map_graph`: how Keras finds and orders the calls of a new model, in linear time.
- `skeletons`: models without values.
- `loading`: loads models from open files.
"""
