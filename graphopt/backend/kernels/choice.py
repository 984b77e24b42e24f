"""Which kernel computes a convolution into channels in blocks: the one modelled fastest."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy.typing as npt

from graphopt.backend.kernels import blocked
from graphopt.backend.kernels.amx import conv as amx
from graphopt.backend.kernels.amx.parts import choose_parts
from graphopt.backend.kernels.blocked import winograd
from graphopt.backend.kernels.blocked.cost import direct_cycles
from graphopt.backend.kernels.blocked.winograd_plan import winograd_cycles
from graphopt.backend.kernels.conv_spec import ConvSpec, Store
from graphopt.backend.kernels.emit import Buffer
from graphopt.backend.kernels.knobs import choose
from graphopt.backend.kernels.machine import Machine

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ConvPlan:
    """A chosen kernel: how it wants its weights, and its loops.

    Attributes:
        form: equal for equal ways of packing.
        methods: what to say of it in the kernel's name.
        pack: weights ``[out, in / groups, *kernel]`` in the order in which ``emit`` reads them.
        emit: emit(x, w, store), see :func:`graphopt.backend.kernels.blocked.emit_blocked_conv`.
    """

    form: Hashable
    weight_shape: tuple[int, ...]
    pack: Callable[[Array], Array]
    emit: Callable[[Buffer, Buffer, Store], None]
    methods: tuple[str, ...] = ()
    dtype: str = "float32"
    """Of the packed weights."""


def plan_conv(spec: ConvSpec, machine: Machine, *, plain_input: bool, max_error: float) -> ConvPlan | None:
    """The kernel for a convolution whose result, and input unless ``plain_input``, lie in blocks.

    Args:
        max_error: bound of the relative error that Winograd's transforms or split numbers may add.

    Returns:
        None where no kernel applies.
    """
    parts = choose_parts(max_error)
    if parts is not None and not plain_input and amx.applies(spec, machine):
        best = winograd.winograd_options(spec, machine, max_error)[0]
        other = direct_cycles if best is None else partial(winograd_cycles, choice=best)
        faster = amx.conv_cycles(spec, parts) < other(spec, machine=machine)
        if choose(machine, "matrix unit", (faster, not faster)):
            return ConvPlan(
                ("amx", parts),
                amx.conv_product(spec, parts).weight_shape,
                lambda w: amx.pack_weights(spec, parts, w),
                lambda x, w, store: amx.emit_conv(spec, machine, parts, x, w, store),
                (parts.name,),
                "int32",
            )
    choice = None if plain_input else winograd.winograd_choice(spec, machine, max_error)
    if choice is not None:
        return ConvPlan(
            choice,
            winograd.winograd_shape(spec, choice, machine),
            lambda w: winograd.pack_winograd(spec, choice, machine, w),
            lambda x, w, store: winograd.emit_winograd(spec, choice, machine, x, w, store),
            ("winograd" + "x".join(map(str, choice.tile)),),
        )
    if not blocked.applies(spec, machine, plain_input=plain_input):
        return None
    return ConvPlan(
        ("direct", plain_input),
        blocked.blocked_conv_shape(spec, machine, plain_input=plain_input),
        lambda w: blocked.pack_blocked_conv(spec, machine, w, plain_input=plain_input),
        lambda x, w, store: blocked.emit_blocked_conv(spec, machine, x, w, store, plain_input=plain_input),
    )
