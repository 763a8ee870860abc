"""The inside of Keras: the only files that know how it keeps calls, masks, global state and files.

In reading order:

- `keras_src`: every private name of Keras that is taken, and the error where it is missing.
- `process_state`: what belongs to the whole process.
- `symbols`: symbolic tensors, their makers and masks.
- `layers`: what is inside an operation, and how Keras calls it.
- `nodes`: Keras's records of calls, and the walk through them.
- `shared_nodes`: calls of operations that several models share, and how they go.
- `map_graph`: how Keras finds and orders the calls of a new model, made linear.
- `loading`: models out of open files.
"""
