"""Arithmetic of `keras.ops`: a table from the names of operations to formulas, which layers use, too (`layers.py`).

Keras has no public names for the classes of operations that it records; the class names are those of the functions in
CamelCase.

Sources: convolution, Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016); separable
convolution, Howard et al., "MobileNets" (2017); batch normalization, Ioffe and Szegedy (2015); layer normalization, Ba
et al. (2016); RMS normalization, Zhang and Sennrich (2019); attention, Vaswani et al., "Attention is all you need"
(2017); bicubic interpolation, Keys (1981); Lanczos interpolation, Duchon (1979); selection, Kislitsyn (1964) in Knuth,
"The Art of Computer Programming", volume 3, section 5.3.3; Fourier transforms, the customary 5 N log2 N of Cooley and
Tukey (1965) as in Frigo and Johnson, "The design and implementation of FFTW3" (2005), half of that for real numbers.
All others are counted from the operation's definition in Keras's documentation.
"""

import math
from collections.abc import Callable
from typing import Any

from kerassplit.flops.count import FLOPS_OF_ACTIVATION, NOTHING, Count, UnknownCountError, einsum, size
from kerassplit.graph.shapes import ConcreteCall, Shape
from kerassplit.text import snake_case

Formula = Callable[[ConcreteCall], Count]

_FREE = """
    Append Array ArraySplit AsStrided BroadcastTo Cast Concatenate ConvertToTensor Copy CropImages DepthToSpace Diag
    Diagflat Diagonal Dsplit Dstack EmptyLike ExpandDims ExtractPatches ExtractSequences Flip Fliplr Flipud FullLike
    GetItem Hsplit Hstack Imag Meshgrid Moveaxis Ndim OneHot OnesLike Pad PadImages Ravel Real Rearrange Repeat Reshape
    Roll Rot90 Shape Size Slice SliceUpdate SpaceToDepth Split Squeeze Stack StopGradient Swapaxes Take TakeAlongAxis
    Tile Transpose Tril Triu Unfold Unstack View ViewAsComplex ViewAsReal Vsplit Vstack ZerosLike
"""
"""Operations that only move data or reinterpret it."""

_ELEMENTWISE = """
    Abs Absolute Add Arccos Arccosh Arcsin Arcsinh Arctan Arctan2 Arctanh BitwiseAnd BitwiseInvert BitwiseLeftShift
    BitwiseNot BitwiseOr BitwiseRightShift BitwiseXor Cbrt Ceil Conj Conjugate Cos Cosh Deg2rad Divide Equal Erf Erfc
    Erfinv Exp Exp2 Expm1 Fabs Floor FloorDivide Fmax Fmin Fmod Greater GreaterEqual Isfinite Isinf Isnan LeftShift Less
    LessEqual Log Log10 Log1p Log2 LogicalAnd LogicalNot LogicalOr LogicalXor Maximum Minimum Mod Multiply Negative
    NotEqual Power Rad2deg Reciprocal RightShift Round Rsqrt Sign Signbit Sin Sinh Sqrt Square Subtract Tan TrueDivide
    Trunc Where
"""
"""One FLOP per output element."""

_SEVERAL = {"Clip": 2, "DivideNoNan": 2, "Glu": 2, "HardShrink": 3, "Hypot": 4, "Logaddexp": 5, "SaturateCast": 2}
_SEVERAL |= {"SoftShrink": 5, "SparsePlus": 7, "SparseSigmoid": 4, "Threshold": 2}
"""FLOPs per output element."""

_REDUCTIONS = "All Amax Amin Any Argmax Argmin CountNonzero Max Min Nanmax Nanmin Nansum Prod Sum"

_ACTIVATIONS = """
    Celu Elu HardSigmoid HardSilu HardTanh LeakyRelu LogSigmoid LogSoftmax Mish Relu Relu6 Selu Sigmoid Silu Softmax
    Softplus Softsign Squareplus Tanh TanhShrink
"""


def each(flops: int) -> Formula:
    """Returns the formula for `flops` per output element."""
    return lambda call: Count(others=flops * size(call.made[0]))


def each_given(flops: int) -> Formula:
    """Returns the formula for `flops` per element of the first input."""
    return lambda call: Count(others=flops * size(call.given[0]))


def free(_: ConcreteCall) -> Count:
    """Counts nothing: data is only moved."""
    return NOTHING


def products(made: int, *taps: int | None) -> Count:
    """Counts `made` outputs, each a sum of as many products as the sizes `taps` multiplied."""
    return Count(multiply_adds=made * size(taps))


def reduction(call: ConcreteCall) -> Count:
    """Counts a sum or a maximum: for each output, one operation less than the elements reduced."""
    return Count(others=max(size(call.given[0]) - size(call.made[0]), 0))


mean = each_given(1)  # the sum, and one division for each mean
_moments = each_given(4)  # mean, difference, square, mean


def _deviation(call: ConcreteCall) -> Count:
    return _moments(call) + Count(others=size(call.made[0]))


def _matmul(call: ConcreteCall) -> Count:
    return Count(multiply_adds=size(call.made[0]) * (_shape(call, "x1")[-1] or 0))


def _einsum(call: ConcreteCall) -> Count:
    return einsum(call.operation.subscripts, [tuple(operand.shape) for operand in call.args])


def _contraction(call: ConcreteCall) -> Count:
    """Counts a contraction of two tensors: with m·k and k·n elements and m·n outputs, it takes m·k·n multiply-adds.

    If k is 1, nothing is summed.
    """
    made = size(call.made[0])
    products = math.isqrt(size(_shape(call, "x1")) * size(_shape(call, "x2")) * made)
    return Count(multiply_adds=products) if products > made else Count(others=products)


def _shape(call: ConcreteCall, name: str) -> Any:
    """Returns the shape of an argument: a symbolic tensor, a variable, an array or a number."""
    return tuple(getattr(call.argument(name), "shape", ()))


def _convolution(call: ConcreteCall) -> Count:
    return products(size(call.made[0]), *_shape(call, "kernel")[:-1])


def _depthwise_convolution(call: ConcreteCall) -> Count:
    return products(size(call.made[0]), *_shape(call, "kernel")[:-2])


def _separable_convolution(call: ConcreteCall) -> Count:
    return separable(size(call.made[0]), _shape(call, "depthwise_kernel"), _shape(call, "pointwise_kernel")[-1])


def separable(made: int, depthwise: Shape, filters: int) -> Count:
    """Counts a depthwise convolution with a kernel of this shape, and a pointwise one into `filters` channels."""
    *sides, channels, multiplier = depthwise
    middle = made // filters * size((channels, multiplier))
    return products(middle, *sides) + products(middle, filters)


def _transposed_convolution(call: ConcreteCall) -> Count:
    """Counts a convolution's backward pass: every input element goes through the kernel into every filter."""
    return products(size(call.given[0]), *_shape(call, "kernel")[:-1])


def average_pooling(call: ConcreteCall) -> Count:
    """Counts average pooling of a layer or an operation: a sum over each window, and a division."""
    return Count(others=size(call.made[0]) * _window(call))


def max_pooling(call: ConcreteCall) -> Count:
    """Counts max pooling of a layer or an operation."""
    return Count(others=size(call.made[0]) * (_window(call) - 1))


def _window(call: ConcreteCall) -> int:
    window = call.operation.pool_size
    return window ** (len(call.given[0]) - 2) if isinstance(window, int) else math.prod(window)


def _gelu(call: ConcreteCall) -> Count:
    # Hendrycks and Gimpel (2016); the approximation takes a cube, a tanh, and five more products and sums.
    return Count(others=(9 if call.operation.approximate else FLOPS_OF_ACTIVATION["gelu"]) * size(call.made[0]))


def batch_normalization(call: ConcreteCall) -> Count:
    """Counts `x * a + b`, where `a` and `b` are computed per channel from statistics and weights."""
    return Count(others=2 * size(call.given[0]) + 5 * (call.given[0][call.operation.axis] or 0))


def by_moments(call: ConcreteCall, groups: int, weights: int) -> Count:
    """Counts mean, difference, square, mean, product in each group; then `gamma` and `beta`, `weights` of them."""
    return Count(others=(5 + weights) * size(call.given[0]) + 4 * groups)


def by_root_mean_square(call: ConcreteCall, weights: int) -> Count:
    """Counts square, mean, product; then `scale` if `weights` is 1."""
    return Count(others=(3 + weights) * size(call.given[0]) + 3 * normalized_groups(call))


def normalized_groups(call: ConcreteCall) -> int:
    """Returns the number of groups that a layer or an operation normalizes along its axes."""
    axes = call.operation.axis
    axes = [axes] if isinstance(axes, int) else axes
    return size(call.given[0]) // size([call.given[0][axis] for axis in axes])


def _layer_normalization(call: ConcreteCall) -> Count:
    return by_moments(call, normalized_groups(call), _given(call, "gamma", "beta"))


def _rms_normalization(call: ConcreteCall) -> Count:
    return by_root_mean_square(call, _given(call, "scale"))


def _given(call: ConcreteCall, *names: str) -> int:
    """Returns the number of these arguments that are given."""
    return sum(call.argument(name) is not None for name in names)


def attention(pairs: int, width: int | None, value_width: int | None, more: int) -> Count:
    """Counts the scores of all pairs, their softmax, `more` operations on each, and the weighted sum of the values."""
    return products(pairs, width) + products(pairs, value_width) + Count(others=(5 + more) * pairs)


def _dot_product_attention(call: ConcreteCall) -> Count:
    """Counts attention with scaled scores; a mask and a bias take one operation per score each."""
    query, key, value = (_shape(call, name) for name in ("query", "key", "value"))
    more = 1 + _given(call, "bias", "mask") + bool(call.operation.is_causal)
    more += 0 if call.operation.attn_logits_soft_cap is None else 3
    return attention(size(query[:-1]) * (key[1] or 0), query[-1], value[-1], more)


_TAPS = {"bicubic": 4, "lanczos3": 6, "lanczos5": 10}


def resized(call: ConcreteCall) -> Count:
    """Counts the interpolation of images by a layer or an operation, rows first, then columns.

    The weights of rows and columns are not counted: they are the same for all images and channels.
    """
    method = getattr(call.operation, "interpolation", "nearest")
    if getattr(call.operation, "antialias", False) or not (method in ("nearest", "bilinear") or method in _TAPS):
        raise UnknownCountError  # with antialiasing, the number of taps grows with the reduction
    if method == "nearest":
        return NOTHING
    if method == "bilinear":
        return each(9)(call)  # three times a + (b - a) * weight
    taps = _TAPS[method]
    return each((taps + 1) * (2 * taps - 1))(call)  # one row per tap, then the column: products and sums


def _scatter_update(call: ConcreteCall) -> Count:
    reduces = getattr(call.operation, "reduction", None) is not None
    return Count(others=size(_shape(call, "updates"))) if reduces else NOTHING


def _scatter(call: ConcreteCall) -> Count:
    return Count(others=size(_shape(call, "values")))  # values at the same position are summed


def selection(count: int, largest: int) -> int:
    """Returns the comparisons that a tournament needs to find the `largest` of `count` numbers, in order.

    >>> selection(10, 1), selection(4, 4)
    (9, 5)
    """

    def sorting(numbers: int) -> int:  # the sum of ceil(log2(n)) for all n up to `numbers`
        rounds = (numbers - 1).bit_length()
        return numbers * rounds - 2**rounds + 1

    return count - largest + sorting(count) - sorting(count - largest + 1) if count and largest else 0


def _largest(call: ConcreteCall) -> Count:
    count = call.given[0][-1] or 0
    return Count(others=size(call.given[0][:-1]) * selection(count, call.operation.k))


def _sorting(call: ConcreteCall) -> Count:
    axis = call.operation.axis
    count = (size(call.given[0]) if axis is None else call.given[0][axis]) or 0
    return Count(others=size(call.given[0]) // max(count, 1) * selection(count, count))


def _norm(call: ConcreteCall) -> Count:
    operation = call.operation
    if operation.ord not in (None, "fro") and not (operation.ord == 2 and isinstance(operation.axis, int)):
        raise UnknownCountError
    return each_given(2)(call)  # square, sum


def _normalized(call: ConcreteCall) -> Count:
    if call.operation.order != 2:
        raise UnknownCountError
    return each_given(3)(call)  # square, sum, product


def _fourier(number: int, flops: float = 5) -> int:
    return round(flops * number * math.log2(number))


def _fourier_transform(axes: int) -> Formula:
    """Returns the formula for a transform of complex numbers along the last `axes` axes."""

    def formula(call: ConcreteCall) -> Count:
        number = size(call.given[0][-axes:])
        return Count(others=size(call.given[0][:-axes]) * _fourier(number))

    return formula


def _real_fourier_transform(call: ConcreteCall) -> Count:
    """Counts a transform from real numbers or back to them."""
    last = (call.made if type(call.operation).__name__ == "IRFFT" else call.given)[0][-1]
    number = call.operation.fft_length or last or 0
    return Count(others=size(call.given[0][:-1]) * _fourier(number, 2.5))


def _short_time_fourier_transform(call: ConcreteCall) -> Count:
    """Counts each frame multiplied by the window, if any, and transformed."""
    operation = call.operation
    window = 0 if operation.window is None else operation.fft_length
    return Count(others=size(call.made[0][:-1]) * (window + _fourier(operation.fft_length, 2.5)))


OPERATIONS: dict[str, Formula] = {
    **dict.fromkeys(_FREE.split(), free),
    **dict.fromkeys(_ELEMENTWISE.split(), each(1)),
    **{name: each(flops) for name, flops in _SEVERAL.items()},
    **dict.fromkeys(_REDUCTIONS.split(), reduction),
    **{name: each(FLOPS_OF_ACTIVATION[snake_case(name)]) for name in _ACTIVATIONS.split()},
    **dict.fromkeys(("Cumsum", "Cumprod"), each(1)),
    **dict.fromkeys(("Mean", "Average", "Nanmean"), mean),
    **dict.fromkeys(("Var", "Moments"), _moments),
    **dict.fromkeys(("SegmentSum", "SegmentMax", "SegmentMin", "SegmentProd"), each_given(1)),
    "Std": _deviation,
    "Logsumexp": each_given(4),  # maximum, subtraction, exp, sum
    "Gelu": _gelu,
    "Matmul": _matmul,
    "Einsum": _einsum,
    **dict.fromkeys(("Tensordot", "Dot", "Inner", "Outer", "Vdot"), _contraction),
    "Conv": _convolution,
    "DepthwiseConv": _depthwise_convolution,
    "SeparableConv": _separable_convolution,
    "ConvTranspose": _transposed_convolution,
    "AveragePool": average_pooling,
    "MaxPool": max_pooling,
    "BatchNorm": batch_normalization,
    "LayerNorm": _layer_normalization,
    "RMSNorm": _rms_normalization,
    "DotProductAttention": _dot_product_attention,
    "Norm": _norm,
    "Normalize": _normalized,
    "Resize": resized,
    "Scatter": _scatter,
    "ScatterUpdate": _scatter_update,
    "TopK": _largest,
    **dict.fromkeys(("Sort", "Argsort"), _sorting),
    "FFT": _fourier_transform(1),
    **dict.fromkeys(("FFT2", "IFFT2"), _fourier_transform(2)),
    **dict.fromkeys(("RFFT", "IRFFT"), _real_fourier_transform),
    "STFT": _short_time_fourier_transform,
}
"""From the name of an operation's class to its formula."""
