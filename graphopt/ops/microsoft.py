"""Operators of ONNX Runtime's own domain that exported and quantized models carry.

They are typed and known to be pure, so that what surrounds them can be optimized; none is compiled,
hence the kind OTHER throughout. Schemas: ContribOperators.md of ONNX Runtime.
"""

from __future__ import annotations

from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, QuantScheme, TensorType, Type
from graphopt.ops import convolution, matmul, normalization, quantization
from graphopt.ops.access import axis, fail, fresh, integer, moved_quant, tensor
from graphopt.ops.registry import Kind, declare
from graphopt.ops.shapes import broadcast

_DOMAIN = "com.microsoft"

declare(Kind.OTHER, "FusedConv", domain=_DOMAIN)(convolution.conv)
declare(Kind.OTHER, "FusedGemm", domain=_DOMAIN)(matmul.gemm)
declare(Kind.OTHER, "QuantizeLinear", domain=_DOMAIN)(quantization.quantize)
declare(Kind.OTHER, "DequantizeLinear", domain=_DOMAIN)(quantization.dequantize)
# ONNX Runtime's optimizer writes this one into ONNX's own domain.
declare(Kind.OTHER, "SimplifiedLayerNormalization")(normalization.layer_normalization)


@declare(Kind.OTHER, "BiasGelu", "FastGelu", "Gelu", "QuickGelu", "RotaryEmbedding", domain=_DOMAIN)
def like_input(node: Node) -> list[Type]:
    """The first input's type."""
    x = tensor(node, 0)
    return [TensorType(x.dtype, x.shape)]


@declare(Kind.OTHER, "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=_DOMAIN)
def skip_normalization(node: Node) -> list[Type]:
    """The input's type, mean and inverse deviation over the last axis, and the sum before it was normalized."""
    x = tensor(node, 0)
    kept = TensorType(DType.F32, None if x.shape is None else (*x.shape[:-1], 1))
    same = TensorType(x.dtype, x.shape)
    return [same, kept, kept, same]


@declare(Kind.OTHER, "DynamicQuantizeMatMul", domain=_DOMAIN)
def dynamic_quantize_matmul(node: Node) -> list[Type]:
    """Floats by quantized weights."""
    return [TensorType(tensor(node, 0).dtype, matmul.matmul_shape(node, 0, 1))]


@declare(Kind.OTHER, "MatMulIntegerToFloat", domain=_DOMAIN)
def matmul_integer_to_float(node: Node) -> list[Type]:
    """Integers by integers, in the float type of the scales."""
    return [TensorType(tensor(node, 2).dtype, matmul.matmul_shape(node, 0, 1))]


@declare(Kind.OTHER, "MatMulNBits", domain=_DOMAIN)
def matmul_n_bits(node: Node) -> list[Type]:
    """(..., K) by packed weights of N columns."""
    x = tensor(node, 0)
    return [TensorType(x.dtype, None if x.shape is None else (*x.shape[:-1], integer(node, "N", 0)))]


@declare(Kind.OTHER, "FusedMatMul", domain=_DOMAIN)
def fused_matmul(node: Node) -> list[Type]:
    """MatMul with either side transposed; the forms that also move the batch are left untyped."""
    a, b = tensor(node, 0), tensor(node, 1)
    moved = integer(node, "transBatchA", 0) or integer(node, "transBatchB", 0)
    if moved or a.shape is None or b.shape is None or len(a.shape) < 2 or len(b.shape) < 2:
        return [TensorType(a.dtype, None)]
    rows = a.shape[-1] if integer(node, "transA", 0) else a.shape[-2]
    columns = b.shape[-2] if integer(node, "transB", 0) else b.shape[-1]
    batch = broadcast(a.shape[:-2], b.shape[:-2])
    if batch is None:
        raise fail(node, 1, "batch dimensions that broadcast with the left matrix's")
    return [TensorType(a.dtype, (*batch, rows, columns))]


def _requantized(x: TensorType, shape: tuple[Dim, ...] | None) -> TensorType:
    quant = None if x.dtype is None else QuantScheme(x.dtype.bits, x.dtype.is_signed)
    return TensorType(x.dtype, shape, quant)


@declare(Kind.OTHER, "QLinearAdd", "QLinearMul", domain=_DOMAIN, commutative=False)
def qlinear_binary(node: Node) -> list[Type]:
    """Two quantized tensors (inputs 0 and 3), broadcast."""
    a, b = tensor(node, 0), tensor(node, 3)
    shape = None if a.shape is None or b.shape is None else broadcast(a.shape, b.shape)
    if shape is None and a.shape is not None and b.shape is not None:
        raise fail(node, 3, "a shape that broadcasts with input 0")
    return [_requantized(a, shape)]


@declare(Kind.OTHER, "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", domain=_DOMAIN)
def qlinear_unary(node: Node) -> list[Type]:
    """The input's element type and shape, with a new scale."""
    x = tensor(node, 0)
    return [_requantized(x, x.shape)]


@declare(Kind.OTHER, "QLinearGlobalAveragePool", domain=_DOMAIN)
def qlinear_global_average_pool(node: Node) -> list[Type]:
    """Spatial axes at size 1; they stand last, or between batch and channels."""
    x = tensor(node, 0)
    if x.shape is None:
        return [_requantized(x, None)]
    ones: tuple[Dim, ...] = (1,) * (len(x.shape) - 2)
    if integer(node, "channels_last", 0):
        return [_requantized(x, (x.shape[0], *ones, x.shape[-1]))]
    return [_requantized(x, (*x.shape[:2], *ones))]


@declare(Kind.OTHER, "QLinearConcat", domain=_DOMAIN)
def qlinear_concat(node: Node) -> list[Type]:
    """Triples (data, scale, zero point) from input 2 on, joined along ``axis``."""
    parts = [tensor(node, i) for i in range(2, len(node.inputs), 3)]
    shapes = [part.shape for part in parts if part.shape is not None]
    if not parts or len(shapes) != len(parts):
        return [TensorType(parts[0].dtype if parts else None, None)]
    at = axis(node, integer(node, "axis", 0), len(shapes[0]))
    if any(len(shape) != len(shapes[0]) for shape in shapes):
        raise fail(node, 2, "tensors of one rank")
    total: Dim = sum((shape[at] for shape in shapes), start=0)
    return [_requantized(parts[0], (*shapes[0][:at], total, *shapes[0][at + 1 :]))]


@declare(Kind.OTHER, "Attention", "MultiHeadAttention", domain=_DOMAIN)
def attention(node: Node) -> list[Type]:
    """(batch, sequence, hidden) of the query's type; the hidden size is the value's or that of the bias."""
    x = tensor(node, 0)
    if x.shape is None or len(x.shape) != 3:
        return [TensorType(x.dtype, None, moved_quant(x))]
    if node.op == "Attention":
        return [TensorType(x.dtype, (x.shape[0], x.shape[1], fresh(node, 0, 2)))]
    value = tensor(node, 2).shape if node.input(2) is not None else None
    hidden = value[2] if value is not None and len(value) == 3 else fresh(node, 0, 2)
    return [TensorType(x.dtype, (x.shape[0], x.shape[1], hidden))]
