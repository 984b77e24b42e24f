"""Convolutions: plain, integer, quantized, deformable and transposed."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from graphopt.ir.dims import Dim, Shape
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, QuantScheme, TensorType, Type
from graphopt.ops.access import (
    bad_attr,
    fail,
    fresh,
    fresh_shape,
    integer,
    integers,
    possible,
    same_dtype,
    tensor,
    text,
)
from graphopt.ops.registry import Kind, declare
from graphopt.ops.shapes import at_most, same_padding_output, transposed_output, window_output
from graphopt.units import counted


@dataclass(frozen=True, slots=True)
class Window:
    """Attributes of a sliding window, one entry for each spatial axis."""

    kernel: tuple[Dim, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    auto_pad: str

    @property
    def is_same(self) -> bool:
        """Whether the padding is chosen so that the output is as large as the input over the stride."""
        return self.auto_pad in ("SAME_UPPER", "SAME_LOWER")

    def output(self, spatial: Shape, ceil: bool = False) -> Shape:
        """Output sizes for input sizes."""
        if self.is_same:
            return tuple(same_padding_output(d, s) for d, s in zip(spatial, self.strides, strict=True))
        return tuple(
            window_output(d, k, s, dilation, begin, end, ceil)
            for d, k, s, dilation, begin, end in zip(
                spatial, self.kernel, self.strides, self.dilations, self.begins, self.ends, strict=True
            )
        )


def window(node: Node, kernel: tuple[Dim, ...]) -> Window:
    """The window that ``node`` slides, with defaults filled in for ``len(kernel)`` spatial axes.

    Raises:
        TypeInferenceError: an attribute has another number of axes, or an impossible value.
    """
    rank = len(kernel)
    auto_pad = text(node, "auto_pad", "NOTSET") or "NOTSET"
    if auto_pad not in ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"):
        raise bad_attr(node, "auto_pad", "NOTSET, SAME_UPPER, SAME_LOWER or VALID")
    pads = _per_axis(node, "pads", 2 * rank, 0) if auto_pad == "NOTSET" else (0,) * (2 * rank)
    strides, dilations = _per_axis(node, "strides", rank, 1), _per_axis(node, "dilations", rank, 1)
    for name, values in (("strides", strides), ("dilations", dilations)):
        if any(value < 1 for value in values):
            raise bad_attr(node, name, "numbers ≥ 1")
    return _shared_window(kernel, strides, dilations, pads[:rank], pads[rank:], auto_pad)


_shared_window = functools.lru_cache(maxsize=4096)(Window)  # a model has few, and asks for them often


def _per_axis(node: Node, name: str, count: int, default: int) -> tuple[int, ...]:
    values = integers(node, name)
    if not values:
        return (default,) * count
    if len(values) != count:
        raise bad_attr(node, name, counted(count, "value"))
    return values


def kernel_of(node: Node, weight: TensorType, rank: int | None) -> tuple[Dim, ...] | None:
    """Spatial kernel size: the weight's, else ``kernel_shape``; None if neither is known.

    Raises:
        TypeInferenceError: they differ, or have another number of axes than ``rank``.
    """
    declared = integers(node, "kernel_shape") or None
    kernel: tuple[Dim, ...] | None = weight.shape[2:] if weight.shape is not None else declared
    if kernel is None:
        return None
    if rank is not None and len(kernel) != rank:
        raise bad_attr(node, "kernel_shape", f"{rank} spatial axes, the weight has {len(kernel)}")
    if declared is not None:
        if len(declared) != len(kernel):
            raise bad_attr(
                node, "kernel_shape", f"{counted(len(kernel), 'value')} as the weight has spatial axes"
            )
        for mine, given in zip(kernel, declared, strict=True):
            if isinstance(mine, int) and mine != given:
                raise bad_attr(
                    node, "kernel_shape", f"({', '.join(str(k) for k in kernel)}) as in the weight"
                )
        kernel = declared
    return kernel


def _convolve(
    node: Node, data: int, weight: int, dtype: DType | None, quant: QuantScheme | None = None
) -> TensorType:
    x, w = tensor(node, data), tensor(node, weight)
    for index, type in ((data, x), (weight, w)):
        if type.shape is not None and len(type.shape) < 3:
            raise fail(node, index, "rank 3 or more: batch, channels, spatial axes")
    rank = len(x.shape) if x.shape is not None else len(w.shape) if w.shape is not None else None
    if rank is None:
        return TensorType(dtype, None, quant)
    if w.shape is not None and len(w.shape) != rank:
        raise fail(node, weight, f"rank {rank} as of the data")
    kernel = kernel_of(node, w, rank - 2)
    channels = fresh(node, 0, 1) if w.shape is None else w.shape[0]
    shape = x.shape
    if kernel is None or shape is None:
        batch = fresh(node, 0, 0) if shape is None else shape[0]
        return TensorType(dtype, (batch, channels, *(fresh(node, 0, i) for i in range(2, rank))), quant)
    slide = window(node, kernel)
    _check_room(node, data, shape, slide)
    spatial = slide.output(shape[2:])
    group = integer(node, "group", 1)
    if w.shape is not None and isinstance(w.shape[1], int) and isinstance(shape[1], int):
        if w.shape[1] * group != shape[1]:
            raise fail(node, weight, f"{shape[1]} input channels in {group} groups")
        if isinstance(channels, int) and group > 0 and channels % group:
            raise fail(node, weight, f"output channels divisible by {group} groups")
    return TensorType(dtype, possible(node, data, (shape[0], channels, *spatial)), quant)


def _check_room(node: Node, data: int, shape: Shape, slide: Window) -> None:
    if slide.is_same:
        return
    columns = zip(shape[2:], slide.begins, slide.ends, slide.kernel, slide.dilations, strict=True)
    for axis, (size, begin, end, kernel, dilation) in enumerate(columns, 2):
        room, reach = size + begin + end, (kernel - 1) * dilation + 1
        if isinstance(room, int) and isinstance(reach, int) and room < reach:
            raise fail(node, data, f"axis {axis} at least {reach} long with its padding, as the kernel is")


@declare(Kind.HEAVY, "Conv")
def conv(node: Node) -> list[Type]:
    """(N, C, spatial...) with weights (M, C/group, kernel...) to (N, M, spatial...)."""
    return [_convolve(node, 0, 1, same_dtype(node, range(len(node.inputs))))]


@declare(Kind.HEAVY, "DeformConv")
def deform_conv(node: Node) -> list[Type]:
    """As Conv; offsets and mask don't change the shape."""
    return [_convolve(node, 0, 1, same_dtype(node, range(len(node.inputs))))]


@declare(Kind.HEAVY, "ConvInteger")
def conv_integer(node: Node) -> list[Type]:
    """As Conv, accumulated in i32."""
    return [_convolve(node, 0, 1, DType.I32)]


@declare(Kind.HEAVY, "QLinearConv")
def qlinear_conv(node: Node) -> list[Type]:
    """As Conv on quantized data; the output has the element type of its zero point (input 7)."""
    dtype = tensor(node, 7).dtype
    quant = None if dtype is None else QuantScheme(dtype.bits, dtype.is_signed)
    return [_convolve(node, 0, 3, dtype, quant)]


@declare(Kind.HEAVY, "ConvTranspose")
def conv_transpose(node: Node) -> list[Type]:
    """(N, C, spatial...) with weights (C, M/group, kernel...) to (N, M, spatial...)."""
    dtype = same_dtype(node, range(len(node.inputs)))
    x, w = tensor(node, 0), tensor(node, 1)
    if x.shape is None:
        return [TensorType(dtype, fresh_shape(node, 0, None if w.shape is None else len(w.shape)))]
    rank = len(x.shape)
    if rank < 3:
        raise fail(node, 0, "rank 3 or more: batch, channels, spatial axes")
    if w.shape is not None and len(w.shape) != rank:
        raise fail(node, 1, f"rank {rank} as of the data")
    unknown = fresh_shape(node, 0, rank)
    assert unknown is not None
    inner = (w.shape[0], x.shape[1]) if w.shape is not None else (0, 0)
    if all(isinstance(dim, int) for dim in inner) and inner[0] != inner[1]:
        raise fail(node, 1, f"{inner[1]} input channels")
    channels: Dim = unknown[1] if w.shape is None else w.shape[1] * integer(node, "group", 1)
    kernel = kernel_of(node, w, rank - 2)
    spatial = unknown[2:] if kernel is None else _transposed_sizes(node, x.shape[2:], window(node, kernel))
    return [TensorType(dtype, possible(node, 0, (x.shape[0], channels, *spatial)))]


def _transposed_sizes(node: Node, spatial: Shape, slide: Window) -> Shape:
    given = integers(node, "output_shape")
    if given:
        # Some exporters write batch and channels too.
        return given[-len(spatial) :]
    extra = _per_axis(node, "output_padding", len(spatial), 0)
    columns = zip(
        spatial, slide.kernel, slide.strides, slide.dilations, slide.begins, slide.ends, extra, strict=True
    )
    sizes = tuple(transposed_output(*column) for column in columns)
    if not slide.is_same:
        return sizes
    # Padding makes it input times stride, but padding is never negative.
    wanted = [size * stride for size, stride in zip(spatial, slide.strides, strict=True)]
    return tuple(at_most(w, full) for full, w in zip(sizes, wanted, strict=True))
