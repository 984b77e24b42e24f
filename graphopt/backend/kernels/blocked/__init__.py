"""Convolutions on the blocked layout (see layout.py): which kernel computes one, and its weights.

    emit_blocked_conv(spec, machine, x, w, store, plain_input=...)

`x` is a flat buffer of the input's memory, in the blocked layout or, with `plain_input`, as plain
N, C, *spatial; the result is always blocked. `store(value, (n, o, *spatial))` is called in vectorised
loops over the lanes of one block, `o` being `block * B + lane` written so.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from graphopt.backend.kernels.blocked import depthwise, direct, direct_plan
from graphopt.backend.kernels.blocked.layout import block_lanes
from graphopt.backend.kernels.conv_spec import ConvSpec, Store
from graphopt.backend.kernels.emit import Buffer
from graphopt.backend.kernels.machine import Machine

__all__ = ["applies", "blocked_conv_shape", "emit_blocked_conv", "pack_blocked_conv"]

Array = npt.NDArray[np.generic]


def applies(spec: ConvSpec, machine: Machine, *, plain_input: bool) -> bool:
    """Whether a kernel here computes `spec`, from a plain or a blocked input."""
    lanes = block_lanes(machine)
    if spec.dtype != "float32":
        return False
    if plain_input:
        return spec.groups == 1 and spec.in_channels < lanes
    if spec.groups == 1 or depthwise.is_depthwise(spec):
        return True
    return spec.group_in % lanes == 0 and spec.group_out % lanes == 0


def blocked_conv_shape(spec: ConvSpec, machine: Machine, *, plain_input: bool) -> tuple[int, ...]:
    """Shape of the packed weights."""
    if depthwise.is_depthwise(spec):
        return depthwise.weight_shape(spec, machine)
    return direct_plan.weight_shape(spec, machine, plain_input)


def pack_blocked_conv(spec: ConvSpec, machine: Machine, w: Array, *, plain_input: bool) -> Array:
    """Weights [out, in/groups, *kernel] in the order in which the kernel reads them."""
    if depthwise.is_depthwise(spec):
        return depthwise.pack_weights(spec, machine, w)
    return direct.pack_weights(spec, machine, w, plain_input)


def emit_blocked_conv(
    spec: ConvSpec, machine: Machine, x: Buffer, w: Buffer, store: Store, *, plain_input: bool
) -> None:
    """Emit out[n, o, *p] = sum over c, taps of x * w, each handed to store(value, (n, o, *p)).

    Args:
        spec: one for which `applies` holds.
        x: the input's memory as one axis.
        w: what `pack_blocked_conv` returned.
    """
    if depthwise.is_depthwise(spec):
        depthwise.emit_depthwise(spec, machine, x, w, store)
    else:
        direct.emit_direct(spec, machine, x, w, store, plain_input)
