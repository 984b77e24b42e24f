"""Modelled cycles of convolutions, by which one kernel is chosen over another."""

from __future__ import annotations

import math
from dataclasses import replace

from graphopt.backend.kernels.blocked.layout import block_lanes
from graphopt.backend.kernels.conv_spec import ConvSpec
from graphopt.backend.kernels.emit import ceil_div, static
from graphopt.backend.kernels.machine import Machine

FAR_BYTES = 4.5
"""Bytes per cycle that one core draws from beyond its L2 cache."""
UNHIDDEN = 0.25
"""Of two things that go on at once, the share of the shorter one that is not hidden."""
# Share of a direct convolution's multiply-adds in its cycles.
_DIRECT_SHARE = 0.9
# Pixels of an image whose sizes are not all known.
_TYPICAL_AREA = 1024


def typical(spec: ConvSpec) -> ConvSpec:
    """`spec` with numbers for its symbolic sizes: one image, its sides of one length."""
    known = [size for size in map(static, spec.spatial) if isinstance(size, int)]
    unknown = len(spec.spatial) - len(known)
    side = max(8, round((_TYPICAL_AREA / math.prod(known)) ** (1 / unknown))) if unknown else 0
    batch = static(spec.batch)
    # As many outputs as that, so that there are some whatever the kernel reaches.
    reach = [(k - 1) * d for k, d in zip(spec.kernel, spec.dilations, strict=True)]
    pads = map(sum, zip(spec.pads_begin, spec.pads_end, strict=True))
    spatial = tuple(
        size if isinstance(size, int) else max(side, side + more - (pad if isinstance(pad, int) else 0))
        for size, more, pad in zip(map(static, spec.spatial), reach, pads, strict=True)
    )
    return replace(spec, batch=batch if isinstance(batch, int) else 1, spatial=spatial)


def together(first: float, second: float) -> float:
    """Cycles of two things that go on at once."""
    return max(first, second) + UNHIDDEN * min(first, second)


def direct_cycles(spec: ConvSpec, machine: Machine) -> float:
    """Modelled cycles of direct convolution, which skips taps outside the image."""
    lanes = block_lanes(machine)
    sized = typical(spec)
    positions = float(sized.batch)
    for axis in sized.axes:
        ends = [min(axis.out, axis.size + axis.pad - tap) for tap in range(axis.kernel)]
        positions *= sum(max(0, end - max(0, axis.pad - tap)) for tap, end in enumerate(ends))
    blocks = ceil_div(spec.out_channels, lanes)
    compute = positions * spec.in_channels * blocks / 2 / _DIRECT_SHARE
    return together(compute, 4.0 * spec.taps * spec.in_channels * blocks * lanes / FAR_BYTES)
