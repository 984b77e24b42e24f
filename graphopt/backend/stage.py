"""From a region to a TIR function made of tensor expressions, for targets that are scheduled by rules."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from graphopt.backend.arguments import Arguments
from graphopt.backend.emitters import EMITTERS, Stages, Work, is_emitted
from graphopt.backend.readers import Context, Memory, variables_of
from graphopt.backend.refusal import refuse
from graphopt.backend.region import KernelRegion, dtype_of, shape_of
from graphopt.backend.symbolic import Expr, Symbols
from graphopt.ir.graph import Value
from graphopt.targets import Target

_STAGED = frozenset(
    {
        "ArgMax", "ArgMin", "CumProd", "CumSum", "GroupNormalization", "ScatterElements", "ScatterND", "TopK",
    }
)  # fmt: skip
"""Operators with no tensor expression yet."""


def stage_region(
    region: KernelRegion, target: Target, context: Context, symbols: Symbols, outputs: tuple[int, ...]
) -> tuple[Any, tuple[int, ...], tuple[str, ...]]:
    """The function of a region, the positions of the inputs that it reads, and its symbols.

    Raises:
        CompileError: an operator has no tensor expression.
    """
    placeholders: dict[int, Any] = {}

    def leaf(position: int, value: Value) -> Memory:
        def load(indices: tuple[Expr, ...]) -> Expr:
            if position not in placeholders:
                shape = symbols.shape(shape_of(value))
                placeholders[position] = te.placeholder(shape, dtype_of(value), name=f"p{position}")
            return placeholders[position](*indices)

        return Memory(load)

    context.inline = True
    context.memory.update({value: leaf(i, value) for i, value in enumerate(region.inputs)})
    stages = Stages()
    work = Work(context, Arguments(region, symbols, target), target, target, stages)
    needed = region.needed(region.outputs[i] for i in outputs)
    for node in region.nodes:
        wanted = {i: work.shape(value) for i, value in enumerate(node.outputs) if value in needed}
        if not is_emitted(node) or not wanted:
            continue
        if node.op in _STAGED:
            raise refuse(node, f"it has no kernel for {target} yet")
        EMITTERS[node.op](work, node, stages.begin(wanted))
        for i in wanted:
            context.memory[node.outputs[i]] = _memory(stages.results[i])
    results = [_result(context, stages, work, region.outputs[i]) for i in outputs]
    return _finish(placeholders, symbols, results)


def _memory(tensor: Any) -> Memory:
    return Memory(lambda indices: tensor(*indices))


def _result(context: Context, stages: Stages, work: Work, value: Value) -> Any:
    return stages.compute(
        work.shape(value),
        lambda *at: context.expression(value, [index.astype("int64") for index in at]),
    )


def _finish(
    placeholders: dict[int, Any], symbols: Symbols, results: list[Any]
) -> tuple[Any, tuple[int, ...], tuple[str, ...]]:
    kept = dict(sorted(placeholders.items()))
    tensors = [*kept.values(), *results]
    probe = te.create_prim_func([*kept.values(), *symbols.variables.values(), *results])
    used = frozenset(tirx.analysis.undefined_vars(probe.body, []))
    for tensor in tensors:
        used = used.union(*(variables_of(extent) for extent in tensor.shape))
    passed = {name: variable for name, variable in symbols.variables.items() if variable in used}
    function = te.create_prim_func([*kept.values(), *passed.values(), *results])
    return function, tuple(kept), tuple(passed)
