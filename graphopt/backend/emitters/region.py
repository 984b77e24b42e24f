"""Emitting a whole region: emitters in program order, the last one straight into the result."""

from __future__ import annotations

from typing import Any

from graphopt.backend.emitters.attention import emit_attention
from graphopt.backend.emitters.attention_region import attention_in
from graphopt.backend.emitters.blocked import emit_blocked
from graphopt.backend.emitters.registry import EMITTERS, Sink, Work
from graphopt.backend.nests import emit_value
from graphopt.backend.readers import Context
from graphopt.backend.region import shape_of
from graphopt.ir.graph import Node, Value
from graphopt.ops import Kind, info


def emit_region(work: Work, results: dict[Value, Any]) -> None:
    """Emits loops that fill the flat buffers ``results``.

    Raises:
        CompileError: an operator, or this use of it, can't be compiled.
    """
    context = work.context
    attention = attention_in(context.region)
    if attention is not None:
        (buffer,) = results.values()
        emit_attention(work, attention, buffer)
        return
    pending = dict(results)
    emitted = [node for node in context.region.nodes if is_emitted(node)]
    needed = context.region.needed(results)
    for place, node in enumerate(emitted):
        wanted = {i: value for i, value in enumerate(node.outputs) if value in needed}
        if not wanted:
            continue
        last = place == len(emitted) - 1
        sinks: dict[int, Sink] = {}
        for index, value in wanted.items():
            final = next((f for f in pending if last and is_epilogue(context, f, value)), None)
            if final is not None:
                buffer = pending.pop(final)
                direct = final is value
                sinks[index] = (
                    work.sink_into(value, buffer) if direct else work.sink_through(value, final, buffer)
                )
            else:
                sinks[index] = work.sink_into(value, work.reserve(value))
        block = max(value.tensor.channel_block for value in results)
        if block == 1 or not emit_blocked(work, node, sinks, block):
            EMITTERS[node.op](work, node, sinks)
    for value, buffer in pending.items():
        emit_value(context, work.target, value, buffer)


def is_emitted(node: Node) -> bool:
    """Whether an emitter computes the node, rather than a reader."""
    return not node.domain and node.op in EMITTERS


def is_epilogue(context: Context, final: Value, value: Value) -> bool:
    """Whether ``final`` is an elementwise function of ``value`` at the same index, and of memory."""
    known: dict[Value, tuple[bool, bool]] = {}

    def look(current: Value) -> tuple[bool, bool]:
        """(depends on value, is elementwise in it)"""
        if current is value:
            return True, True
        node = current.producer
        if current in context.memory or node is None:
            return False, True
        if current not in known:
            seen = [look(operand) for operand in node.inputs if operand is not None]
            depends = any(d for d, _ in seen)
            kind = info(node)
            fits = kind is not None and kind.kind is Kind.ELEMENTWISE and shape_of(current) == shape_of(value)
            # A node that does not depend on the value must still be readable: no emitter may be left.
            clean = fits if depends else not is_emitted(node)
            known[current] = depends, clean and all(ok for _, ok in seen)
        return known[current]

    depends, elementwise = look(final)
    return depends and elementwise
