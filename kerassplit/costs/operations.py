"""Arithmetic of `keras.ops`, as tables from the names of operations.

Keras has no public names for the classes of operations that it records; the names of the classes are those of the
functions in capitals.

What names no source is counted from the operation's definition in Keras's documentation; operations that are layers,
too (convolutions, normalisations, activations), after the sources of these in `flops.py` and `count.py`.
"""

import math
from collections.abc import Callable
from typing import Any

from kerassplit.costs.concrete import ConcreteCall
from kerassplit.costs.count import NOTHING, Count, einsum, per_element, reduction, size

Formula = Callable[[ConcreteCall], Count]

_FREE = """
    Append Array ArraySplit AsStrided BroadcastTo Cast Concatenate ConvertToTensor Copy CropImages DepthToSpace Diag
    Diagflat Diagonal Dsplit Dstack EmptyLike ExpandDims ExtractPatches ExtractSequences Flip Fliplr Flipud FullLike
    GetItem Hsplit Hstack Imag Meshgrid Moveaxis Ndim OneHot OnesLike Pad PadImages Ravel Real Rearrange Repeat Reshape
    Roll Rot90 Shape Size Slice SliceUpdate SpaceToDepth Split Squeeze Stack StopGradient Swapaxes Take TakeAlongAxis
    Tile Transpose Tril Triu Unfold Unstack View ViewAsComplex ViewAsReal Vsplit Vstack ZerosLike
"""
"""These move numbers, or name them anew."""

_ELEMENTWISE = """
    Abs Absolute Add Arccos Arccosh Arcsin Arcsinh Arctan Arctan2 Arctanh BitwiseAnd BitwiseInvert BitwiseLeftShift
    BitwiseNot BitwiseOr BitwiseRightShift BitwiseXor Cbrt Ceil Conj Conjugate Cos Cosh Deg2rad Divide Equal Erf Erfc
    Erfinv Exp Exp2 Expm1 Fabs Floor FloorDivide Fmax Fmin Fmod Greater GreaterEqual Isfinite Isinf Isnan LeftShift Less
    LessEqual Log Log10 Log1p Log2 LogicalAnd LogicalNot LogicalOr LogicalXor Maximum Minimum Mod Multiply Negative
    NotEqual Power Rad2deg Reciprocal RightShift Round Rsqrt Sign Signbit Sin Sinh Sqrt Square Subtract Tan TrueDivide
    Trunc Where
"""
"""One FLOP for each number made."""

_SEVERAL = {"Clip": 2, "DivideNoNan": 2, "Hypot": 4, "Logaddexp": 5, "SaturateCast": 2}
"""FLOPs for each number made."""

_REDUCTIONS = "All Amax Amin Any Argmax Argmin CountNonzero Max Min Nanmax Nanmin Nansum Prod Sum"

_ACTIVATIONS = """
    Celu Elu HardSigmoid HardSilu HardTanh LeakyRelu LogSigmoid LogSoftmax Mish Relu Relu6 Selu Sigmoid Silu Softmax
    Softplus Softsign Squareplus Tanh TanhShrink
"""


def _each(flops: int) -> Formula:
    return lambda call: Count(others=flops * size(call.made[0]))


def _free(_: ConcreteCall) -> Count:
    return NOTHING


def _reduction(call: ConcreteCall) -> Count:
    return reduction(size(call.given[0]), size(call.made[0]))


def _mean(call: ConcreteCall) -> Count:
    return Count(others=size(call.given[0]))  # the sum, and one division for each mean


def _moments(call: ConcreteCall) -> Count:
    return Count(others=4 * size(call.given[0]))  # mean, difference, square, mean


def _deviation(call: ConcreteCall) -> Count:
    return _moments(call) + Count(others=size(call.made[0]))


def _scan(call: ConcreteCall) -> Count:
    return Count(others=size(call.made[0]))


def _log_sum_exp(call: ConcreteCall) -> Count:
    return Count(others=4 * size(call.given[0]))  # maximum, subtraction, exp, sum


def _matmul(call: ConcreteCall) -> Count:
    return Count(multiply_adds=size(call.made[0]) * (_shape(call, "x1")[-1] or 0))


def _einsum(call: ConcreteCall) -> Count:
    return einsum(call.operation.subscripts, [tuple(operand.shape) for operand in call.args])


def _contraction(call: ConcreteCall) -> Count:
    """Two tensors, some sides of which are multiplied and summed: for all of them m·k and k·n make m·n numbers.

    Where k is 1, nothing is summed.
    """
    made = size(call.made[0])
    products = math.isqrt(size(_shape(call, "x1")) * size(_shape(call, "x2")) * made)
    return Count(multiply_adds=products) if products > made else Count(others=products)


def _shape(call: ConcreteCall, name: str) -> Any:
    """The shape of an argument: a symbolic tensor, a variable, an array or a number."""
    return tuple(getattr(call.argument(name), "shape", ()))


def _convolution(call: ConcreteCall) -> Count:
    *taps, _ = _shape(call, "kernel")
    return Count(multiply_adds=size(call.made[0]) * size(taps))


def _depthwise_convolution(call: ConcreteCall) -> Count:
    return Count(multiply_adds=size(call.made[0]) * size(_shape(call, "kernel")[:-2]))


def _transposed_convolution(call: ConcreteCall) -> Count:
    *taps, _ = _shape(call, "kernel")
    return Count(multiply_adds=size(call.given[0]) * size(taps))


def _average_pooling(call: ConcreteCall) -> Count:
    return Count(others=size(call.made[0]) * _window(call))


def _max_pooling(call: ConcreteCall) -> Count:
    return Count(others=size(call.made[0]) * (_window(call) - 1))


def _window(call: ConcreteCall) -> int:
    window = call.operation.pool_size
    return window ** (len(call.given[0]) - 2) if isinstance(window, int) else math.prod(window)


def _gelu(call: ConcreteCall) -> Count:
    # Hendrycks and Gimpel (2016); the approximation has a cube, a tanh and five products and sums more.
    return Count(others=(9 if call.operation.approximate else per_element("gelu") or 0) * size(call.made[0]))


def _batch_normalization(call: ConcreteCall) -> Count:
    return Count(others=2 * size(call.given[0]) + 5 * (call.given[0][call.operation.axis] or 0))


def _layer_normalization(call: ConcreteCall) -> Count:
    """As the layer: Ba et al. (2016)."""
    rows = size(call.given[0]) // _normalized(call)
    weights = sum(call.argument(name) is not None for name in ("gamma", "beta"))
    return Count(others=(5 + weights) * size(call.given[0]) + 4 * rows)


def _rms_normalization(call: ConcreteCall) -> Count:
    """As the layer: Zhang and Sennrich (2019)."""
    rows = size(call.given[0]) // _normalized(call)
    return Count(others=(3 + (call.argument("scale") is not None)) * size(call.given[0]) + 3 * rows)


def _normalized(call: ConcreteCall) -> int:
    axes = call.operation.axis
    return size([call.given[0][axis] for axis in ([axes] if isinstance(axes, int) else axes)])


def _attention(call: ConcreteCall) -> Count:
    """Vaswani et al. (2017): scores scaled, softmax, values weighted; a mask and a bias take one operation each."""
    query, key, value = (_shape(call, name) for name in ("query", "key", "value"))
    pairs = size(query[:-1]) * (key[1] or 0)
    more = sum(call.argument(name) is not None for name in ("bias", "mask")) + bool(call.operation.is_causal)
    more += 0 if call.operation.attn_logits_soft_cap is None else 3
    return Count(pairs * ((query[-1] or 0) + (value[-1] or 0)), (6 + more) * pairs)


def _known_activation(name: str) -> Formula:
    flops = per_element(name)
    if flops is None:
        raise ValueError(name)
    return _each(flops)


def _in_small_letters(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)[1:]


OPERATIONS: dict[str, Formula] = {
    **dict.fromkeys(_FREE.split(), _free),
    **dict.fromkeys(_ELEMENTWISE.split(), _each(1)),
    **{name: _each(flops) for name, flops in _SEVERAL.items()},
    **dict.fromkeys(_REDUCTIONS.split(), _reduction),
    **{name: _known_activation(_in_small_letters(name)) for name in _ACTIVATIONS.split()},
    **dict.fromkeys(("Cumsum", "Cumprod"), _scan),
    **dict.fromkeys(("Mean", "Average", "Nanmean"), _mean),
    **dict.fromkeys(("Var", "Moments"), _moments),
    "Std": _deviation,
    "Logsumexp": _log_sum_exp,
    "Gelu": _gelu,
    "Matmul": _matmul,
    "Einsum": _einsum,
    **dict.fromkeys(("Tensordot", "Dot", "Inner", "Outer", "Vdot"), _contraction),
    "Conv": _convolution,
    "DepthwiseConv": _depthwise_convolution,
    "ConvTranspose": _transposed_convolution,
    "AveragePool": _average_pooling,
    "MaxPool": _max_pooling,
    "BatchNorm": _batch_normalization,
    "LayerNorm": _layer_normalization,
    "RMSNorm": _rms_normalization,
    "DotProductAttention": _attention,
}
"""From the name of an operation's class to its formula."""
