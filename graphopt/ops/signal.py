"""Fourier transforms."""

from __future__ import annotations

from graphopt.ir.dims import Dim, floordiv
from graphopt.ir.graph import Node
from graphopt.ir.types import TensorType, Type
from graphopt.ops.access import axis, fresh, fresh_shape, integer, tensor, value_of
from graphopt.ops.content import static_content, symbolic_content
from graphopt.ops.registry import Kind, declare


@declare(Kind.HEAVY, "DFT")
def dft(node: Node) -> list[Type]:
    """The input with ``dft_length`` along ``axis`` (half of it when onesided); real and imaginary part last."""
    x = tensor(node, 0)
    if x.shape is None:
        return [TensorType(x.dtype, None)]
    rank = len(x.shape)
    axes = (-2,) if node.input(2) is None else static_content(value_of(node, 2))
    if axes is None:
        return [TensorType(x.dtype, fresh_shape(node, 0, rank))]
    at = axis(node, integer(node, "axis", axes[0]), rank)
    size: Dim = x.shape[at]
    if node.input(1) is not None:
        length = symbolic_content(value_of(node, 1))
        size = fresh(node, 0, at) if length is None else length[0]
    onesided, inverse = integer(node, "onesided", 0), integer(node, "inverse", 0)
    if onesided and not inverse:
        size = floordiv(size, 2) + 1
    elif onesided and node.input(1) is None:
        # Half a spectrum of n bins comes from a real signal of 2 (n - 1) samples.
        size = (size - 1) * 2
    dims = [*x.shape[:-1], 1 if onesided and inverse else 2]
    dims[at] = size
    return [TensorType(x.dtype, tuple(dims))]


@declare(Kind.HEAVY, "STFT")
def stft(node: Node) -> list[Type]:
    """(batch, samples, 1 or 2) to (batch, frames, bins, 2)."""
    x = tensor(node, 0)
    step = symbolic_content(value_of(node, 1))
    length: Dim | None = None
    if node.input(3) is not None:
        content = symbolic_content(value_of(node, 3))
        length = content[0] if content else None
    elif node.input(2) is not None:
        window = tensor(node, 2).shape
        length = window[0] if window else None
    batch: Dim = fresh(node, 0, 0) if x.shape is None else x.shape[0]
    frames, bins = fresh(node, 0, 1), fresh(node, 0, 2)
    if length is not None:
        bins = floordiv(length, 2) + 1 if integer(node, "onesided", 1) else length
        if x.shape is not None and step is not None and isinstance(step[0], int) and step[0] > 0:
            frames = floordiv(x.shape[1] - length, step[0]) + 1
    return [TensorType(x.dtype, (batch, frames, bins, 2))]
