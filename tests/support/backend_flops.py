"""FLOPs of a call as counted by the backend: an oracle for the formulas.

TensorFlow's profiler visits the operations of a graph, JAX lets XLA analyze the program before optimization, torch
counts products as they run. An operation that a counter silently skips would wrongly count as zero, so such operations
are detected: one that is neither counted nor known makes the whole count unknown.

Known differences from the formulas: XLA splits some operations into several (a sigmoid into four), uses 8 N log2 N for
a Fourier transform, and does not count selections, branches and loops; TensorFlow's profiler has other rules for a
maximum over a window and a transposed convolution; torch has one operation for a whole normalization. `test_flops.py`
says for each layer how much they may differ.
"""

import contextlib
import inspect
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import keras

from kerassplit.flops.count import UnknownCountError, einsum, size
from kerassplit.graph.shapes import ConcreteCall

Counted = tuple[int, int | None]
"""FLOPs, and the multiply-adds among them where they are known apart."""


def count_by_backend(call: ConcreteCall) -> Counted | None:
    """Counts a call with the backend; `None` if it cannot, or not completely."""
    if not call.is_known or any(symbol.dtype == "string" for symbol in _symbols(call)):
        return None
    counter = _COUNTERS.get(keras.backend.backend())
    if counter is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the layer has to say, it said when the model was built
            return counter(call)
    except Exception:  # a layer that cannot be run alone raises what it likes
        return None


def _symbols(call: ConcreteCall) -> list[keras.KerasTensor]:
    return [value for value in keras.tree.flatten((call.args, call.kwargs)) if isinstance(value, keras.KerasTensor)]


def _computation(call: ConcreteCall) -> Callable[..., list[Any]]:
    """Returns the call as a function of its tensors; run it in a `StatelessScope`, which drops assignments."""

    def compute(*tensors: Any) -> list[Any]:
        waiting = iter(tensors)
        args, kwargs = keras.tree.map_structure(
            lambda value: next(waiting) if isinstance(value, keras.KerasTensor) else value, (call.args, call.kwargs)
        )
        takes = inspect.signature(call.operation.call).parameters
        if isinstance(call.operation, keras.Layer) and "training" in takes:
            kwargs["training"] = False
        return keras.tree.flatten(call.operation(*args, **kwargs))

    return compute


# TensorFlow

_PRODUCTS = {
    *("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"),
    *("Conv2D", "Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput"),
}
_FREE_NAMES = """
    Arg Assert BatchToSpaceND BroadcastArgs BroadcastTo Cast Concat ConcatV2 Const DepthToSpace Diag DynamicStitch
    EnsureShape ExpandDims Fill Gather GatherNd GatherV2 Identity IdentityN InvertPermutation LinSpace MatrixBandPart
    MatrixDiagV3 MirrorPad NoOp OneHot OnesLike Pack Pad PadV2 Placeholder PlaceholderWithDefault PreventGradient
    Range Rank ReadVariableOp Reshape ResizeNearestNeighbor ResourceGather Reverse ReverseV2 Roll ScatterNd Shape ShapeN
    Size Slice
    SpaceToBatchND SpaceToDepth Split SplitV Squeeze StopGradient StridedSlice TensorScatterUpdate Tile Transpose
    Unpack VarHandleOp Where ZerosLike
"""
"""These move numbers, or compute with the sides of tensors."""
_ONE_FLOP = """
    Abs Acos Acosh Asin Asinh Atan Atan2 Atanh Ceil Cos Cosh Cumprod Cumsum DivNoNan Erf Erfc Erfinv Exp
    Expm1 FloorDiv FloorMod Floor Inv IsFinite IsInf IsNan Log1p LogicalAnd LogicalNot LogicalOr Mod NotEqual Rint
    Relu Round Select SelectV2 Sigmoid Sign Sin Sinh Sqrt Tan Tanh TruncateDiv Xdivy Xlogy
"""
_SEVERAL = {"ClipByValue": 2, "Elu": 4, "LeakyRelu": 2, "LogSoftmax": 5, "Relu6": 2, "Selu": 5}
_SEVERAL |= {"Softplus": 3, "Softsign": 3}
_FREE = frozenset(_FREE_NAMES.split())
_ELEMENTWISE = {**dict.fromkeys(_ONE_FLOP.split(), 1), **_SEVERAL}
_REDUCTIONS = {"All", "Any", "Max", "Min", "Prod"}


def _by_tensorflow(call: ConcreteCall) -> Counted:
    tf = import_module("tensorflow")

    specs = [tf.TensorSpec(symbol.shape, symbol.dtype) for symbol in _symbols(call)]
    with keras.StatelessScope():
        graph = tf.function(_computation(call), autograph=False).get_concrete_function(*specs).graph
    profiled = _profile(graph)
    total, products = 0, 0
    for kind, flops in profiled.items():
        total += flops
        products += flops // 2 if kind in _PRODUCTS else 0
    for operation in graph.get_operations():
        if operation.type in _FREE:
            continue
        for tensor in (*operation.inputs, *operation.outputs):
            size(_sides(tensor))  # of operations with open sides the profiler drops those that it cannot count
        if operation.type == "Einsum":
            product = einsum(operation.get_attr("equation").decode(), list(map(_sides, operation.inputs)))
            total, products = total + product.flops, products + product.multiply_adds
        else:
            total += 0 if operation.type in profiled else _flops_of(operation)
    return total, products


def _profile(graph: Any) -> dict[str, int]:
    """Returns FLOPs by kind of operation, as counted by TensorFlow's profiler; kinds that it skips are missing."""
    profiler = import_module("tensorflow").compat.v1.profiler

    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation()).with_empty_output()
    with _quiet("tensorflow"):
        node = profiler.profile(graph, cmd="op", options=options.build())
    counts = {}
    while node.children:  # a chain, each with the sum of all behind it
        below = node.children[0]
        counts[node.name] = node.total_float_ops - below.total_float_ops
        node = below
    counts[node.name] = node.total_float_ops
    counts.pop("_TFProfRoot", None)
    return {kind: flops for kind, flops in counts.items() if flops}


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silences a logger: TensorFlow calls its profiler deprecated on every use."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _flops_of(operation: Any) -> int:
    """Counts an operation that the profiler skips.

    Raises:
        UnknownCountError: The cost is unknown: loops, calls of functions and others.
    """
    if operation.type in _ELEMENTWISE:
        return _ELEMENTWISE[operation.type] * sum(size(_sides(tensor)) for tensor in operation.outputs[:1])
    if operation.type in _REDUCTIONS:
        return max(size(_sides(operation.inputs[0])) - size(_sides(operation.outputs[0])), 0)
    raise UnknownCountError(operation.type)


def _sides(tensor: Any) -> Sequence[int | None]:
    if tensor.shape.rank is None:
        raise UnknownCountError
    return tensor.shape.as_list()


# JAX

_STABLEHLO = """
    abs add and atan2 bitcast_convert broadcast broadcast_in_dim cbrt ceil clamp compare complex concatenate constant
    convert convolution cosine divide dot_general dynamic_slice dynamic_update_slice exponential exponential_minus_one
    fft floor gather imag iota is_finite log log_plus_one logistic maximum minimum multiply negate not or pad popcnt
    power real reduce reduce_precision reduce_window remainder reshape return reverse round_nearest_afz
    round_nearest_even rsqrt scatter select shift_left shift_right_arithmetic shift_right_logical sign sine slice sort
    sqrt subtract tan tanh transpose xor
"""
"""What XLA's analysis counts, or what costs nothing.

Not among them: `while` (counted once), `case` and `if` (all branches are counted), `custom_call` (not counted).
"""
_CHLO = "acos acosh asin asinh atan atanh cosh erf erf_inv erfc is_inf is_neg_inf is_pos_inf sinh square tan"
_COUNTED_BY_XLA = {
    *(f"stablehlo.{name}" for name in _STABLEHLO.split()),
    *(f"chlo.{name}" for name in _CHLO.split()),
}
_OPERATION = re.compile(r"(?<![#\w.])(?:stablehlo|chlo|mhlo)\.\w+\b(?! *=)")  # `#stablehlo.x`, `mhlo.x =` are none


def _by_jax(call: ConcreteCall) -> Counted | None:
    jax = import_module("jax")

    specs = [jax.ShapeDtypeStruct(symbol.shape, symbol.dtype) for symbol in _symbols(call)]
    variables = call.operation.variables if isinstance(call.operation, keras.Layer) else []
    compute = _computation(call)

    def of_weights_too(values: Sequence[Any], *tensors: Any) -> list[Any]:
        # As constants, weights of 0 and 1 would take the sums and products with them out of the program.
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return compute(*tensors)

    program = jax.jit(of_weights_too).lower([variable.value for variable in variables], *specs)
    if not set(_OPERATION.findall(program.as_text())) <= _COUNTED_BY_XLA:
        return None
    analysis = program.cost_analysis() or {}
    return int(analysis.get("flops", 0) + analysis.get("transcendentals", 0)), None


# torch

_TORCH_FREE_NAMES = """
    _to_copy _unsafe_view alias arange as_strided bernoulli cat clone constant_pad_nd copy_ detach diagonal embedding
    empty empty_like empty_strided expand fill_ flip full full_like gather index index_select lift_fresh lift_fresh_copy
    masked_fill new_empty new_full new_ones new_zeros one_hot ones ones_like permute reflection_pad2d repeat
    replication_pad2d reshape roll scalar_tensor scatter select set_ slice split split_with_sizes squeeze stack t
    transpose tril triu unbind unfold unsqueeze view zeros zeros_like zero_
"""
_TORCH_ONE_FLOP = """
    abs acos add asin atan atan2 bitwise_and bitwise_not bitwise_or bitwise_xor ceil clamp_max clamp_min cos cosh div
    eq erf erfc exp exp2 expm1 floor floor_divide fmod ge gt isfinite isinf isnan le log log10 log1p log2 logical_and
    logical_not logical_or logical_xor lt maximum minimum mul ne neg pow reciprocal relu remainder round rsqrt rsub
    sigmoid sign sin sinh sqrt square sub tan tanh trunc where
"""
_TORCH_FREE, _TORCH_ELEMENTWISE = frozenset(_TORCH_FREE_NAMES.split()), frozenset(_TORCH_ONE_FLOP.split())
_TORCH_SEVERAL = {"_log_softmax": 5, "_softmax": 5, "clamp": 2, "elu": 4, "gelu": 5, "hardsigmoid": 4}
_TORCH_SEVERAL |= {
    "hardswish": 5,
    "hardtanh": 2,
    "leaky_relu": 2,
    "log_sigmoid_forward": 4,
    "mish": 5,
    "silu": 2,
    "softplus": 3,
}
_TORCH_REDUCTIONS = {"all", "amax", "amin", "any", "argmax", "argmin", "max", "min", "sum"}
_TORCH_OF_INPUTS = {"mean": 1, "native_layer_norm": 7, "var": 4}


def _by_torch(call: ConcreteCall) -> Counted:
    torch, flop_counter = import_module("torch"), import_module("torch.utils.flop_counter")
    # Private, but what torch's own counter is made of, and there is no other way to see each operation as it runs.
    dispatch = import_module("torch.utils._python_dispatch")

    others, on_cpu = 0, 0
    products = flop_counter.FlopCounterMode(display=False)

    class Others(dispatch.TorchDispatchMode):
        """Counts the operations that torch's own counter skips, which only knows products."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal others, on_cpu
            result = func(*args, **(kwargs or {}))
            name = func.overloadpacket.__name__
            if name == "_scaled_dot_product_flash_attention_for_cpu":  # torch counts its kinds for GPUs only
                query, key, value = (tensor.shape for tensor in args[:3])
                pairs = math.prod(query[:-1]) * key[-2]
                on_cpu += pairs * (query[-1] + value[-1])
                others += 6 * pairs
            elif func.overloadpacket not in flop_counter.flop_registry:
                others += _torch_flops(name, args, result)
            return result

    tensors = [keras.ops.zeros(symbol.shape, symbol.dtype) for symbol in _symbols(call)]
    with keras.StatelessScope(), torch.no_grad(), products, Others():
        _computation(call)(*tensors)
    multiply_adds = products.get_total_flops() // 2 + on_cpu
    return 2 * multiply_adds + others, multiply_adds


def _torch_flops(name: str, args: Sequence[Any], result: Any) -> int:
    name = name if name in _TORCH_FREE else name.removesuffix("_")
    if name in _TORCH_FREE:
        return 0
    made = result[0] if isinstance(result, (tuple, list)) else result
    if name in _TORCH_ELEMENTWISE or name in _TORCH_SEVERAL:
        return _TORCH_SEVERAL.get(name, 1) * made.numel()
    if name in _TORCH_REDUCTIONS:
        return max(args[0].numel() - made.numel(), 0)
    if name.startswith(("avg_pool", "max_pool")):
        return math.prod(args[1]) * made.numel()
    if name in _TORCH_OF_INPUTS:
        return _TORCH_OF_INPUTS[name] * args[0].numel()
    raise UnknownCountError(name)


_COUNTERS: dict[str, Callable[[ConcreteCall], Counted | None]] = {
    "tensorflow": _by_tensorflow,
    "jax": _by_jax,
    "torch": _by_torch,
}
