"""From a region to one TIR function."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from tvm import s_tir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from graphopt.backend.arguments import Arguments, Packed
from graphopt.backend.emitters import Work, emit_region
from graphopt.backend.kernels import math
from graphopt.backend.kernels.knobs import Choices
from graphopt.backend.readers import Context, variables_of
from graphopt.backend.region import KernelRegion
from graphopt.backend.stage import stage_region
from graphopt.backend.symbolic import Symbols
from graphopt.ir.graph import Value
from graphopt.targets import Target

_VECTOR_MATH = {
    "exp": math.exp,
    "log": math.log,
    "tanh": math.tanh,
    "sigmoid": math.sigmoid,
    "erf": math.erf,
}


@dataclass(frozen=True)
class Lowered:
    """A kernel.

    Attributes:
        function: parameters are the inputs used, then symbols, then outputs.
        inputs: positions in the region's inputs of those that the kernel reads.
        packed: for some of them, the form in which they are read.
        symbols: names of the dimensions that are passed as numbers.
        outputs: positions in the region's outputs.
        consulted: what the code depends on beside the region's key.
        name: a C identifier that says what it computes, and by what method where that is not the plain one.
        knobs: what could be chosen otherwise, and how; see :mod:`graphopt.backend.kernels.knobs`.
    """

    function: tirx.PrimFunc
    inputs: tuple[int, ...]
    packed: Mapping[int, Packed]
    symbols: tuple[str, ...]
    outputs: tuple[int, ...]
    consulted: Mapping[tuple[str, int, int], Hashable]
    name: str
    knobs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def kernel_digest(region: KernelRegion, target: Target, outputs: tuple[int, ...], kernel_error: float) -> str:
    """What a kernel is known by when its choices are kept: equal for the same function on the same target."""
    text = repr((target.text, region.key, outputs, kernel_error))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def lower_region(
    region: KernelRegion,
    target: Target,
    outputs: tuple[int, ...],
    kernel_error: float,
    answers: Mapping[str, str] = MappingProxyType({}),
    *,
    scheduled: bool = True,
) -> Lowered:
    """The kernel that computes these outputs of a region.

    Args:
        kernel_error: bound of what fast kernels may add to the relative error of a convolution or product.
        answers: for some knobs the option to take; the models decide the others.
        scheduled: False for loops straight from the operators' definitions, as a GPU's are before its schedule.

    Raises:
        CompileError: an operator, or this use of it, can't be compiled.
    """
    staged = target.kind == "cuda" or not scheduled
    symbols = Symbols(opaque=not staged)
    arguments = Arguments(region, symbols, target)
    context = Context(region, symbols, None if staged else _VECTOR_MATH)
    if staged:
        function, inputs, passed = stage_region(region, target, context, symbols, outputs)
        return Lowered(function, inputs, {}, passed, outputs, _consulted(region, context), region.name)
    context.memory.update({value: arguments.leaf(value) for value in region.inputs})
    values = [region.outputs[position] for position in outputs]
    results = [arguments.result(position) for position in outputs]
    flat_results = [arguments.view(buffer, value) for buffer, value in zip(results, values, strict=True)]
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(region.name)
        machine = Choices(target, answers)
        work = Work(context, arguments, target, machine, kernel_error=kernel_error)
        emit_region(work, dict(zip(values, flat_results, strict=True)))
    lowered = _finish(region, context, arguments, results, builder.get().body, outputs)
    return replace(lowered, name="_".join([region.name, *work.methods]), knobs=machine.knobs)


def _finish(
    region: KernelRegion,
    context: Context,
    arguments: Arguments,
    results: list[Any],
    body: Any,
    outputs: tuple[int, ...],
) -> Lowered:
    """The function around a body: views declared, arguments that are not read left out."""
    used = frozenset(tirx.analysis.undefined_vars(body, []))
    declared = [(flat, buffer) for flat, buffer in arguments.views if flat in used]
    statements = [
        *arguments.symbols.definitions(),
        *(tirx.DeclBuffer(flat, data=buffer.data) for flat, buffer in declared),
        body,
    ]
    whole = tirx.SeqStmt(statements) if len(statements) > 1 else body
    needed = frozenset(tirx.analysis.undefined_vars(whole, []))
    kept = {position: buffer for position, buffer in sorted(arguments.buffers.items()) if buffer in needed}
    block = s_tir.SBlockRealize([], tirx.const(True, "bool"), s_tir.SBlock([], [], [], "root", whole))
    for buffer in (*kept.values(), *results):
        needed = needed.union(*(variables_of(extent) for extent in buffer.shape))
    passed = {name: v for name, v in arguments.symbols.variables.items() if v in needed}
    function = tirx.PrimFunc([*kept.values(), *passed.values(), *results], block)
    function = function.with_attr("tirx.noalias", True).with_attr("s_tir", True)
    return Lowered(
        function,
        tuple(kept),
        {position: packed for position, packed in arguments.packed.items() if position in kept},
        tuple(passed),
        outputs,
        _consulted(region, context),
        region.name,
    )


def _consulted(region: KernelRegion, context: Context) -> dict[tuple[str, int, int], Hashable]:
    return {(kind, *place_of(region, value)): found for (kind, value), found in context.consulted.items()}


def place_of(region: KernelRegion, value: Value) -> tuple[int, int]:
    """Where a value stands in its region: input ``(-1, i)`` or output ``i`` of node ``row``."""
    if value in region.inputs:
        return -1, region.inputs.index(value)
    node = value.producer
    assert node is not None
    return region.nodes.index(node), value.index


def value_at(region: KernelRegion, place: tuple[int, int]) -> Value:
    """The inverse of :func:`place_of`."""
    row, index = place
    return region.inputs[index] if row < 0 else region.nodes[row].outputs[index]
