"""Models as graphs of calls: reads, names, rebuilds, traces and compiles them; only this package uses Keras internals.

In reading order:

- `model_graph`: calls, tensors and calls of nested models as data.
- `reading`: reads a Keras model into that.
- `nested_calls`: one call of a nested model while it is read.
- `naming`: names of calls and tensors that survive saving.
- `unused_calls`: removes calls that lead to no output.
- `declared`: finds layers whose outputs do not have the shapes they declare.
- `limits`: limits on the size of a model.
- `unsupported`: explains why an object has no graph, and what to do.
- `references`: finds the tensors that a user names.
- `inside`: explains why layers inside another layer have no names.
- `sizes`: bytes of tensors.
- `shapes`: shapes of all tensors for a batch.
- `sides`: side tensors (inputs and masks), which do not count as crossing a cut.
- `dominators`: the post-dominator tree of a graph.
- `masks`: masks as edges of a graph.
- `packing`: the calls of a part, with nested models kept whole where possible.
- `recording`: records what a function calls.
- `building`: builds a Keras model from a graph and a boundary.
- `copying`: copies layers and models, with variables of their own.
- `assembling`: builds whole models from graphs.
- `compiling`: a model as a compiled function.
- `changes`: detects changes in the layers since a model was compiled.
- `compile_options`: compiles a part of a model for training as the model is compiled.
- `tensor_marks`: masks and logits that Keras attaches to the tensors of a running model.
- `fingerprint`: digests that identify a model.
- `strings`: models that take strings.
- `tracing/`: turns subclassed models and composite layers into graphs.
- `backends/`: the differences between TensorFlow, JAX and torch.
- `internals/`: everything that touches the internals of Keras.
"""
