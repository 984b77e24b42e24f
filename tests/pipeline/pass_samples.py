"""Passes for tests of the runner, each with one property."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse_graph
from graphopt.ir.rewriter import Rewriter
from graphopt.pipeline import Context, Effect, Pass, PatternPass
from graphopt.rewrite import Match, Rule, op, refuse, var


def graph_of(body: str, *, type: str = "f32[2]", result: str = "r") -> Graph:
    """A graph with the input x; ``T`` stands for its type."""
    text = f'gir 1\ngraph "g" opset 26 {{\ninput %x: T\n{body}\nreturn %{result} as "out"\n}}'
    return parse_graph(text.replace(": T", f": {type}"))


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.walk()]


@dataclass(frozen=True)
class Swap(PatternPass):
    """Replaces one operator by another."""

    name = "swap"
    old: str = "Neg"
    new: str = "Abs"

    def rules(self) -> Sequence[Rule]:
        def check(match: Match) -> object:
            return refuse("marked {}", match.root.name) if match.root.name == "keep" else None

        def rewrite(rewriter: Rewriter, match: Match) -> object:
            return rewriter.create(self.new, [match["x"]]).output

        return [Rule("swap-op", op(self.old, var("x")), rewrite, check)]  # type: ignore[arg-type]


@dataclass(frozen=True)
class Lossy(Swap):
    """As Swap, and says that it loses something."""

    name = "lossy"
    effect = Effect.LOSSY


@dataclass(frozen=True)
class Approximate(Swap):
    """As Swap, and says that it changes roundings."""

    name = "approximate"
    effect = Effect.APPROXIMATE


@dataclass(frozen=True)
class Scale(Pass):
    """Multiplies the first constant by a factor: a fault that only the numbers show."""

    name = "scale"
    by: float = 1.0

    def run(self, rewriter: Rewriter, context: Context) -> None:
        old = next(iter(rewriter.graph.constants.values()))
        assert old.const is not None
        with rewriter.rewrite("scale", old.users[0]):
            data = old.const.numpy()
            rewriter.replace(old, rewriter.constant((data * self.by).astype(data.dtype)))


def do(action: Callable[[Rewriter, Context], None]) -> Pass:
    """A pass named ``do`` that runs a function."""

    @dataclass(frozen=True)
    class Do(Pass):
        name = "do"

        def run(self, rewriter: Rewriter, context: Context) -> None:
            action(rewriter, context)

    return Do()


def close(a: float, b: float) -> bool:
    return bool(np.isclose(a, b, rtol=1e-3))
