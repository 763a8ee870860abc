"""Models as graphs of calls: read, named, built anew, traced, compiled; the only room that knows Keras's internals.

In reading order:

- `model_graph`: calls, tensors and the calls of nested models as data.
- `reading`: a Keras model into that.
- `nested_calls`: one call of a nested model, as it is read.
- `naming`: names of calls and tensors that survive saving.
- `unused_calls`: calls that lead to no output, taken out.
- `declared`: layers that give other shapes than they say.
- `limits`: how much a model may ask for.
- `unsupported`: why an object has no graph, and what to do.
- `references`: which tensors a user means.
- `inside`: why what is inside a layer has no name.
- `sizes`: bytes of tensors.
- `shapes`: shapes of all tensors for a batch.
- `sides`: inputs and masks, which go beside the model's way.
- `dominators`: for each call, where all paths from it come together again.
- `masks`: masks as edges of a graph.
- `packing`: the calls of a part, nested models whole where they can be.
- `building`: a graph and a boundary into a Keras model.
- `copying`: layers and models with variables of their own.
- `assembling`: whole models out of graphs.
- `compiling`: a model as a compiled function.
- `changes`: whether the layers have changed since.
- `compile_options`: what a model is compiled with for training, made again for a part of it.
- `tensor_marks`: what Keras hangs on the tensors of a running model.
- `fingerprint`: what tells one model from another.
- `strings`: models that take strings.
- `tracing/`: subclassed models and composite layers into graphs.
- `backends/`: what TensorFlow, JAX and torch each do in a way of their own.
- `internals/`: the inside of Keras.
"""
