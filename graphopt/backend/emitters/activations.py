"""The activation functions that recurrent layers name in their attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from tvm import tirx

from graphopt.backend.readers import Context
from graphopt.backend.readers.elementwise import sigmoid
from graphopt.backend.readers.scalars import const
from graphopt.backend.refusal import refuse
from graphopt.backend.symbolic import Expr
from graphopt.ir.graph import Node

_DEFAULTS: dict[str, tuple[float | None, float | None]] = {
    "sigmoid": (None, None), "tanh": (None, None), "relu": (None, None), "softsign": (None, None),
    "softplus": (None, None), "affine": (1.0, 0.0), "leakyrelu": (0.01, None),
    "thresholdedrelu": (1.0, None), "scaledtanh": (1.0, 1.0), "hardsigmoid": (0.2, 0.5), "elu": (1.0, None),
}  # fmt: skip
"""For each function its alpha and beta where none are given; None where it has none."""


@dataclass(frozen=True)
class Activation:
    """A function of one number, with its parameters."""

    name: str
    alpha: float | None
    beta: float | None

    def __call__(self, context: Context, x: Expr) -> Expr:
        """The function of ``x``, which may be used more than once."""
        zero, one = const(0, x), const(1, x)
        alpha, beta = (const(0.0 if v is None else v, x) for v in (self.alpha, self.beta))
        if self.name == "sigmoid":
            return sigmoid(context, x)
        if self.name == "tanh":
            return context.math("tanh", x)
        if self.name == "scaledtanh":
            return alpha * context.math("tanh", context.bind(beta * x))
        if self.name == "softplus":
            return tirx.max(x, zero) + context.math("log", one + context.math("exp", -tirx.abs(x)))
        if self.name == "elu":
            return tirx.Select(x < zero, alpha * (context.math("exp", x) - one), x)
        return {
            "relu": lambda: tirx.max(x, zero),
            "softsign": lambda: x / (one + tirx.abs(x)),
            "affine": lambda: alpha * x + beta,
            "leakyrelu": lambda: tirx.Select(x < zero, alpha * x, x),
            "thresholdedrelu": lambda: tirx.Select(x > alpha, x, zero),
            "hardsigmoid": lambda: tirx.max(zero, tirx.min(one, alpha * x + beta)),
        }[self.name]()


def activations(node: Node, defaults: Sequence[str], direction: int) -> tuple[Activation, ...]:
    """The functions of one direction of a recurrent layer.

    Raises:
        CompileError: one of them is not known.
    """
    given = cast("tuple[object, ...]", node.attrs.get("activations", ()))
    names = [n.decode() if isinstance(n, bytes) else str(n) for n in given] or [*defaults] * (direction + 1)
    parameters = [
        list(cast("tuple[float, ...]", node.attrs.get(f"activation_{which}", ())))
        for which in ("alpha", "beta")
    ]
    found: list[Activation] = []
    for name in names[: len(defaults) * (direction + 1)]:
        if name.lower() not in _DEFAULTS:
            raise refuse(node, f"its activation {name} is not known")
        # Parameters are given for the functions that have them, in order.
        own = [
            values.pop(0) if values and default is not None else default
            for values, default in zip(parameters, _DEFAULTS[name.lower()], strict=True)
        ]
        found.append(Activation(name.lower(), own[0], own[1]))
    return tuple(found[len(defaults) * direction :])
