"""Independent references and helpers for kernel tests."""

from __future__ import annotations

import numpy as np

from graphopt.backend.kernels.conv import ConvSpec
from graphopt.backend.kernels.machine import MachineSpec
from graphopt.backend.kernels.transposed.phases import TransposedSpec

# Three shapes of register file; all run on any x86-64-v3 host, wide vectors in halves.
WIDE = MachineSpec(256, 16, 32 << 10, 1 << 20, ("avx2", "fma"))
TINY_CACHE = MachineSpec(128, 16, 1 << 10, 8 << 10)
WIDEST = MachineSpec(512, 32, 48 << 10, 2 << 20, ("avx512f",))
MACHINES = {"x86-64-v3": WIDE, "small cache": TINY_CACHE, "512 bits": WIDEST}
CPU = {"kind": "llvm", "mcpu": "x86-64-v3"}


def conv_reference(spec: ConvSpec, x: np.ndarray, w: np.ndarray, padding: float = 0) -> np.ndarray:
    """Convolution by summing shifted slices, in the type of `x` and `w`."""
    rank = len(spec.kernel)
    pads = [(0, 0), (0, 0), *zip(spec.pads_begin, spec.pads_end, strict=True)]
    padded = np.pad(x, pads, constant_values=padding)
    out_spatial = tuple(
        (padded.shape[2 + i] - (spec.kernel[i] - 1) * spec.dilations[i] - 1) // spec.strides[i] + 1
        for i in range(rank)
    )
    out = np.zeros((x.shape[0], spec.out_channels, *out_spatial), x.dtype)
    for group in range(spec.groups):
        inputs = padded[:, group * spec.group_in : (group + 1) * spec.group_in]
        rows = slice(group * spec.group_out, (group + 1) * spec.group_out)
        for taps in np.ndindex(*spec.kernel):
            window = tuple(
                slice(t * d, t * d + (o - 1) * s + 1, s)
                for t, d, o, s in zip(taps, spec.dilations, out_spatial, spec.strides, strict=True)
            )
            values = inputs[(slice(None), slice(None), *window)]
            out[:, rows] += np.einsum("nc...,oc->no...", values, w[(rows, slice(None), *taps)])
    return out


def transposed_reference(spec: TransposedSpec, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Transposed convolution by scattering every input, in the type of `x` and `w`."""
    columns = list(zip(spec.spatial, spec.kernel, spec.strides, spec.dilations, strict=True))
    whole = [(size - 1) * s + (k - 1) * d + 1 for size, k, s, d in columns]
    room = [max(w, pad + out) for w, pad, out in zip(whole, spec.pads_begin, spec.out_spatial, strict=True)]
    out = np.zeros((x.shape[0], spec.out_channels, *room), x.dtype)
    for group in range(spec.groups):
        inputs = slice(group * spec.group_in, (group + 1) * spec.group_in)
        outputs = slice(group * spec.group_out, (group + 1) * spec.group_out)
        for taps in np.ndindex(*spec.kernel):
            window = tuple(
                slice(t * d, t * d + (size - 1) * s + 1, s)
                for t, (size, _, s, d) in zip(taps, columns, strict=True)
            )
            products = np.einsum("nc...,co->no...", x[:, inputs], w[(inputs, slice(None), *taps)])
            out[(slice(None), outputs, *window)] += products
    kept = (slice(pad, pad + size) for pad, size in zip(spec.pads_begin, spec.out_spatial, strict=True))
    return out[(slice(None), slice(None), *kept)]
