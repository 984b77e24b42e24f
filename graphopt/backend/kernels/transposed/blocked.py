"""Transposed convolution where channels lie in blocks: the store puts each phase where it belongs."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.blocked.layout import block_count, block_lanes, channel_index
from graphopt.backend.kernels.choice import ConvPlan, plan_conv
from graphopt.backend.kernels.conv_spec import Store
from graphopt.backend.kernels.emit import Buffer, Expr, bind, loop_for, product, serial, unflatten
from graphopt.backend.kernels.knobs import part_of
from graphopt.backend.kernels.machine import Machine
from graphopt.backend.kernels.temporaries import vectorized
from graphopt.backend.kernels.transposed.phases import Phases, TransposedSpec, covers, phases_of
from graphopt.backend.kernels.transposed.plan import (
    TransposedPlan,
    joined_size,
    joined_weights,
    own_machines,
    split_weights,
)


def plan_blocked(
    spec: TransposedSpec, machine: Machine, *, plain_input: bool, max_error: float
) -> TransposedPlan | None:
    """The kernel for a result, and an input unless `plain_input`, whose channels lie in blocks.

    Args:
        max_error: bound of the relative error that Winograd's transforms may add.

    Returns:
        None where no kernel applies.
    """
    lanes = block_lanes(machine)
    together = not spec.is_depthwise
    width = spec.group_out
    if spec.groups == 1:
        width = block_count(width, lanes) * lanes
    elif together and width % lanes:
        return None
    parts = phases_of(spec, width, together=together)
    plans = _plans(parts, own_machines(parts, machine), plain_input, max_error)
    if len({plan.dtype for plan in plans}) > 1:
        plans = _plans(parts, own_machines(parts, part_of(machine, "alike")), plain_input, 0.0)
    if not plans or len(plans) < len(parts):
        return None
    shapes = [plan.weight_shape for plan in plans]

    def emit(x: Buffer, w: Buffer, store: Store) -> None:
        if not covers(spec, parts):
            _emit_zeros(spec, parts, lanes, store)
        for part, plan, weights in zip(parts, plans, split_weights(w, shapes), strict=True):
            plan.emit(x, weights, _interleaved(part, lanes, store))

    return TransposedPlan(
        (
            "transposed",
            spec.groups,
            spec.kernel,
            *((p.axes, p.width, plan.form, plan.weight_shape) for p, plan in zip(parts, plans, strict=True)),
        ),
        (joined_size(shapes),),
        lambda w: joined_weights(
            shapes, plans[0].dtype, (q.pack(p.weights(w)) for p, q in zip(parts, plans, strict=True))
        ),
        emit,
        plans[0].dtype,
        tuple(dict.fromkeys(method for plan in plans for method in plan.methods)),
    )


def _plans(
    parts: list[Phases], machines: list[Machine], plain_input: bool, max_error: float
) -> list[ConvPlan]:
    """A kernel for each part that has one."""
    plans = []
    for part, machine in zip(parts, machines, strict=True):
        # Only direct convolution leaves inputs out at the borders.
        bound = max_error if min(*part.conv.pads_begin, *part.conv.pads_end) >= 0 else 0.0
        plans.append(plan_conv(part.conv, machine, plain_input=plain_input, max_error=bound))
    return [plan for plan in plans if plan is not None]


def _interleaved(part: Phases, lanes: int, store: Store) -> Store:
    """A store for the convolution of `part`."""

    def one(value: Expr, index: tuple[Expr, ...]) -> None:
        image, channel, *position = index
        block, lane = channel.a.a, channel.b  # as `channel_index` writes it
        block, residues = part.split(block, block_count(part.width, lanes))
        store(value, (image, channel_index(block, lanes, lane), *part.place(position, residues)))

    return one


def _emit_zeros(spec: TransposedSpec, parts: list[Phases], lanes: int, store: Store) -> None:
    """Stores zero for the outputs without taps."""
    blocks = block_count(spec.out_channels, lanes)
    extents = (spec.batch, blocks, *spec.out_spatial)
    with loop_for(product(extents))(product(extents[:-1])) as item:
        image, block, *rows = (bind(i) for i in unflatten(item, extents[:-1]))
        with serial(extents[-1]) as column:
            place = (*rows, column)
            with T.If(tirx.Not(_has_taps(spec, parts, place))), T.Then(), vectorized(lanes) as lane:
                store(T.float32(0), (image, channel_index(block, lanes, lane), *place))


def _has_taps(spec: TransposedSpec, parts: list[Phases], place: tuple[Expr, ...]) -> Expr:
    """Whether the output at `place` is one of `parts`."""
    conditions = []
    for axis, (position, stride) in enumerate(zip(place, spec.strides, strict=True)):
        residues = sorted({residue for part in parts for residue in part.axes[axis].residues})
        if len(residues) < stride:
            conditions.append(tirx.any(*(position % stride == residue for residue in residues)))
    return tirx.all(*conditions)
