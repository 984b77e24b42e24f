"""Random graphs over common operators: dynamic shapes, broadcasting, fan-out, shape arithmetic.

A graph is drawn as a list of steps; each takes values made before and adds one. Only shapes that
certainly fit are combined, so every graph runs for any size of the dynamic dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from pass_graphs import Model

from graphopt.ir.dims import Dim, sym
from graphopt.ir.graph import Graph, Value

N = sym("n")
Draw = Callable[[Any], Any]
Step = Callable[[Model, Draw, list[Value]], Value]


def _shape(value: Value) -> tuple[Dim, ...]:
    assert value.tensor.shape is not None
    return value.tensor.shape


def _numbers(draw: Draw, *shape: int) -> Any:
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    kind = draw(st.sampled_from(["normal", "ones", "zeros", "halves"]))
    normal = rng.standard_normal(shape)
    return {
        "normal": normal,
        "ones": np.ones(shape),
        "zeros": np.zeros(shape),
        "halves": np.full(shape, 0.5),
    }[kind]


def _unary(m: Model, draw: Draw, pool: list[Value]) -> Value:
    names = ["Relu", "Neg", "Abs", "Sigmoid", "Tanh", "Identity", "Erf", "HardSigmoid", "Floor", "Sign"]
    return m(draw(st.sampled_from(names)), draw(st.sampled_from(pool)))  # type: ignore[no-any-return]


def _binary(m: Model, draw: Draw, pool: list[Value]) -> Value:
    a = draw(st.sampled_from(pool))
    others = [v for v in pool if _shape(v) == _shape(a)]
    b = draw(st.sampled_from(others))
    return m(draw(st.sampled_from(["Add", "Sub", "Mul", "Max", "Min"])), a, b)  # type: ignore[no-any-return]


def _with_constant(m: Model, draw: Draw, pool: list[Value]) -> Value:
    x = draw(st.sampled_from(pool))
    last = _shape(x)[-1:]
    shape = last if last and isinstance(last[0], int) and draw(st.booleans()) else ()
    c = m.const(_numbers(draw, *shape))
    name = draw(st.sampled_from(["Add", "Sub", "Mul", "Div" if np.all(c.const.numpy()) else "Add"]))  # type: ignore[union-attr]
    return m(name, *((c, x) if draw(st.booleans()) and name != "Div" else (x, c)))  # type: ignore[no-any-return]


def _folded(m: Model, draw: Draw, pool: list[Value]) -> Value:
    c = m("Mul", m("Exp", m.const(_numbers(draw))), m.const(_numbers(draw)))
    return m("Add", draw(st.sampled_from(pool)), c)  # type: ignore[no-any-return]


def _reduced(m: Model, draw: Draw, pool: list[Value]) -> Value:
    x = draw(st.sampled_from(pool))
    if not _shape(x):
        return x
    centre = m("ReduceMean", x, m.ints(-1))
    return m("Sub", x, centre) if draw(st.booleans()) else m("Softmax", x, axis=-1)  # type: ignore[no-any-return]


def _transposed(m: Model, draw: Draw, pool: list[Value]) -> Value:
    x = draw(st.sampled_from(pool))
    return m("Transpose", x, perm=tuple(draw(st.permutations(range(len(_shape(x)))))))  # type: ignore[no-any-return]


def _unsqueezed(m: Model, draw: Draw, pool: list[Value]) -> Value:
    x = draw(st.sampled_from(pool))
    if len(_shape(x)) > 3:
        return x
    y = m("Unsqueeze", x, m.ints(draw(st.integers(0, len(_shape(x))))))
    return m("Squeeze", y, m.ints(0)) if _shape(y)[0] == 1 and draw(st.booleans()) else y  # type: ignore[no-any-return]


def _reshaped(m: Model, draw: Draw, pool: list[Value]) -> Value:
    """To rows and back by arithmetic on shapes, as exporters write it."""
    x = draw(st.sampled_from(pool))
    if len(_shape(x)) < 2:
        return x
    shape = m("Shape", x)
    first = m("Unsqueeze", m("Gather", shape, m.const(0, dtype=np.int64)), m.ints(0))
    rows = m("Reshape", x, m("Concat", first, m.ints(-1), axis=0))
    return m("Reshape", rows, shape) if draw(st.booleans()) else rows  # type: ignore[no-any-return]


def _sliced(m: Model, draw: Draw, pool: list[Value]) -> Value:
    x = draw(st.sampled_from(pool))
    if not _shape(x) or not isinstance(_shape(x)[-1], int):
        return x
    start = draw(st.integers(0, int(_shape(x)[-1]) - 1))  # type: ignore[arg-type]
    return m("Slice", x, m.ints(start), m.ints(1 << 40), m.ints(-1))  # type: ignore[no-any-return]


def _joined(m: Model, draw: Draw, pool: list[Value]) -> Value:
    x = draw(st.sampled_from(pool))
    if not _shape(x):
        return x
    count = draw(st.integers(1, 3))
    return m("Concat", *[x] * count, axis=draw(st.integers(0, len(_shape(x)) - 1)))  # type: ignore[no-any-return]


def _product(m: Model, draw: Draw, pool: list[Value]) -> Value:
    x = draw(st.sampled_from(pool))
    if len(_shape(x)) < 2 or not isinstance(_shape(x)[-1], int):
        return x
    y = m("MatMul", x, m.const(_numbers(draw, int(_shape(x)[-1]), 3)))  # type: ignore[arg-type]
    return m("Add", y, m.const(_numbers(draw, 3))) if draw(st.booleans()) else y  # type: ignore[no-any-return]


def _convolved(m: Model, draw: Draw, pool: list[Value]) -> Value:
    images = [v for v in pool if len(_shape(v)) == 4 and isinstance(_shape(v)[1], int)]
    if not images:
        return pool[0]
    x = draw(st.sampled_from(images))
    channels = int(_shape(x)[1])  # type: ignore[arg-type]
    y = m("Conv", x, m.const(_numbers(draw, 4, channels, 1, 1)))
    if draw(st.booleans()):
        y = m(
            "BatchNormalization",
            y,
            *[m.const(_numbers(draw, 4)) for _ in range(3)],
            m.const([1.0, 2, 3, 0.5]),
        )
    return y  # type: ignore[no-any-return]


def _mixed(m: Model, draw: Draw, pool: list[Value]) -> Value:
    x = draw(st.sampled_from(pool))
    y = m("Cast", m("Cast", x, to=11), to=1)
    return m("Where", m("Greater", y, m.const(0.0)), x, m("Mul", y, m.const(0.5)))  # type: ignore[no-any-return]


STEPS: tuple[Step, ...] = (
    _unary, _binary, _with_constant, _folded, _reduced, _transposed, _unsqueezed, _reshaped, _sliced, _joined,
    _product, _convolved, _mixed,
)  # fmt: skip


@st.composite
def graphs(draw: Draw, max_steps: int = 14) -> Graph:
    """A graph with inputs ``x[n, 4]``, ``y[4]`` and ``image[n, 3, 2, 4]``, and one to three outputs."""
    m = Model()
    pool = [m.input("x", N, 4), m.input("y", 4), m.input("image", N, 3, 2, 4)]
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=max_steps)):
        pool.append(step(m, draw, pool))
    made = list(dict.fromkeys(pool[3:]))
    ends = [v for v in made if not v.num_uses] or made[-1:]
    extra = [draw(st.sampled_from(made))] if draw(st.booleans()) else []
    return m.done(*list(dict.fromkeys([*ends[-2:], *extra])))


def inputs(n: int) -> dict[str, Any]:
    """Inputs of these graphs, with zeros of both signs among them."""
    rng = np.random.default_rng(n)
    shapes = {"x": (n, 4), "y": (4,), "image": (n, 3, 2, 4)}
    made = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    made["y"][:2] = 0.0, -0.0
    return made
