"""The phases of a transposed convolution, and the convolutions that compute them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from graphopt.backend.kernels.conv_spec import ConvSpec
from graphopt.backend.kernels.emit import Expr, unflatten

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class TransposedSpec:
    """A transposed convolution in ONNX terms, its padding resolved to numbers.

    `batch` and `spatial` may hold 64-bit expressions. Along each axis the output has
    `size * stride + surplus` positions.
    """

    batch: Expr
    in_channels: int
    out_channels: int
    spatial: tuple[Expr, ...]
    kernel: tuple[int, ...]
    groups: int
    strides: tuple[int, ...]
    pads_begin: tuple[int, ...]
    surplus: tuple[int, ...]
    dilations: tuple[int, ...]
    dtype: str = "float32"

    @property
    def out_spatial(self) -> tuple[Expr, ...]:
        """Output sizes along the spatial axes."""
        columns = zip(self.spatial, self.strides, self.surplus, strict=True)
        return tuple(size * stride + surplus for size, stride, surplus in columns)

    @property
    def group_in(self) -> int:
        """Input channels of one group."""
        return self.in_channels // self.groups

    @property
    def group_out(self) -> int:
        """Output channels of one group."""
        return self.out_channels // self.groups

    @property
    def is_depthwise(self) -> bool:
        """Whether every output channel has one input channel of its own."""
        return self.groups == self.in_channels == self.out_channels and self.groups > 1


@dataclass(frozen=True)
class AxisPhases:
    """Phases of one axis that are computed together: residues `first`, `first + step`, ..."""

    first: int
    step: int
    taps: tuple[tuple[int, ...], ...]
    """For each phase, the taps in the order of the inputs that they read."""
    dilation: int
    pad: int
    pad_end: int

    @property
    def residues(self) -> range:
        """The residues of outputs modulo the stride."""
        return range(self.first, self.first + self.step * len(self.taps), self.step)


def axis_phases(spec: TransposedSpec, axis: int, together: bool) -> list[AxisPhases]:
    """The phases of an axis that have taps, those that need the same convolution `together`."""
    stride, dilation = spec.strides[axis], spec.dilations[axis]
    pad, kernel = spec.pads_begin[axis], spec.kernel[axis]
    step = math.gcd(stride, dilation)
    found: list[AxisPhases] = []
    for residue in range(stride):
        taps = tuple(t for t in reversed(range(kernel)) if (residue + pad - t * dilation) % stride == 0)
        if not taps:
            continue
        begin = -((residue + pad - taps[0] * dilation) // stride)
        # Outputs of the phase are ceil((size * stride + surplus - residue) / stride).
        longer = -((residue - spec.surplus[axis]) // stride)
        distance = dilation // step
        phase = AxisPhases(
            residue, step, (taps,), distance, begin, longer + (len(taps) - 1) * distance - begin
        )
        last = found[-1] if found else None
        if together and last is not None and _continues(last, phase):
            found[-1] = replace(last, taps=(*last.taps, taps))
        else:
            found.append(phase)
    size = spec.spatial[axis]
    return [p for p in found if not isinstance(size, int) or size + _growth(p) > 0]


def _continues(last: AxisPhases, phase: AxisPhases) -> bool:
    return (
        phase.first == last.residues[-1] + last.step
        and len(phase.taps[0]) == len(last.taps[0])
        and (phase.pad, phase.pad_end) == (last.pad, last.pad_end)
    )


def _growth(phase: AxisPhases) -> int:
    """Outputs less inputs."""
    return phase.pad + phase.pad_end - (len(phase.taps[0]) - 1) * phase.dilation


@dataclass(frozen=True)
class Phases:
    """One convolution: the phases along each axis that are computed together.

    Its output channels are those of all phases, group by group, phase by phase, each phase's being
    `width` of which the last ones may be there to fill a block.
    """

    spec: TransposedSpec
    axes: tuple[AxisPhases, ...]
    width: int

    @property
    def counts(self) -> tuple[int, ...]:
        """Phases along each axis."""
        return tuple(len(axis.taps) for axis in self.axes)

    @property
    def count(self) -> int:
        """Phases in all."""
        return math.prod(self.counts)

    @property
    def conv(self) -> ConvSpec:
        """The convolution."""
        spec = self.spec
        return ConvSpec(
            batch=spec.batch,
            in_channels=spec.in_channels,
            out_channels=spec.groups * self.count * self.width,
            spatial=spec.spatial,
            kernel=tuple(len(axis.taps[0]) for axis in self.axes),
            groups=spec.groups,
            pads_begin=tuple(axis.pad for axis in self.axes),
            pads_end=tuple(axis.pad_end for axis in self.axes),
            dilations=tuple(axis.dilation for axis in self.axes),
            dtype=spec.dtype,
        )

    def weights(self, w: Array) -> Array:
        """Of weights [in, out/groups, *kernel] those of the convolution, [out, in/groups, *kernel]."""
        spec = self.spec
        grouped = w.reshape(spec.groups, spec.group_in, spec.group_out, *spec.kernel).swapaxes(1, 2)
        filled = [(0, 0)] * grouped.ndim
        filled[1] = (0, self.width - spec.group_out)
        grouped = np.pad(grouped, filled)
        channels = [range(extent) for extent in grouped.shape[:3]]
        parts = [
            grouped[np.ix_(*channels, *taps)]
            for taps in itertools.product(*(axis.taps for axis in self.axes))
        ]
        return np.stack(parts, axis=1).reshape(-1, spec.group_in, *self.conv.kernel)

    def split(self, channel: Expr, width: Expr) -> tuple[Expr, tuple[Expr, ...]]:
        """Output channel and residues of the phase for an output channel of the convolution.

        Args:
            channel: counted in channels, or in blocks.
            width: `self.width`, counted alike.
        """
        item = channel // width
        indices = unflatten(item % self.count, self.counts)
        residues = tuple(a.first + index * a.step for a, index in zip(self.axes, indices, strict=True))
        return item // self.count * width + channel % width, residues

    def place(self, position: Sequence[Expr], residues: Sequence[Expr]) -> tuple[Expr, ...]:
        """Where an output of the convolution stands among all outputs."""
        columns = zip(position, self.spec.strides, residues, strict=True)
        return tuple(q * stride + residue for q, stride, residue in columns)


def phases_of(spec: TransposedSpec, width: int, *, together: bool) -> list[Phases]:
    """The convolutions that make `spec`."""
    axes = [axis_phases(spec, axis, together) for axis in range(len(spec.kernel))]
    return [Phases(spec, combination, width) for combination in itertools.product(*axes)]


def covers(spec: TransposedSpec, parts: list[Phases]) -> bool:
    """Whether every output has taps."""
    return sum(part.count for part in parts) == math.prod(spec.strides)
