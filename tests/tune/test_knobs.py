"""However a kernel's knobs are set, it computes the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

import graphopt as go
from graphopt.backend.compile import compile_graph
from graphopt.backend.kernels.knobs import Choices, around, choose, part_of
from graphopt.backend.kernels.machine import MachineSpec
from graphopt.backend.lower import lower_region
from graphopt.targets import Target
from graphopt.tune.candidates import subjects_of
from tests.backend.programs import NATIVE, Array, assert_close, expected_of, numbers, program

N = helper.make_node
TARGETS = {"native": NATIVE, "x86-64-v3": Target.parse("x86-64-v3")}
BOUND = 1e-4

Program = tuple[list[onnx.NodeProto], dict[str, Array], dict[str, Array]]


@st.composite
def convolutions(draw: st.DrawFn) -> Program:
    """One or two spatial axes; dense, in groups or depthwise, in blocks of channels between two others."""
    rank = draw(st.sampled_from([1, 2, 2, 2]))
    kernel = tuple(draw(st.sampled_from([1, 1, 3, 3, 5])) for _ in range(rank))
    kind = draw(st.sampled_from(["dense", "dense", "dense", "depthwise", "groups"]))
    channels = draw(st.sampled_from([3, 16, 24, 32, 40])) if kind == "dense" else draw(st.integers(2, 5)) * 8
    groups = {"dense": 1, "depthwise": channels, "groups": 2}[kind]
    out = channels if kind == "depthwise" else draw(st.integers(4, 40)) * 2
    size = tuple(draw(st.integers(max(k, 2), 24)) for k in kernel)
    x = numbers(0, draw(st.integers(1, 2)), channels, *size)
    w = numbers(1, out, channels // groups, *kernel)
    stride = draw(st.sampled_from([1, 1, 2]))
    nodes = [
        N(
            "Conv",
            ["x", "w", "b"],
            ["c"],
            group=groups,
            strides=[stride] * rank,
            pads=[k // 2 for k in kernel] * 2,
        ),
        N("Relu", ["c"], ["r"]),
        N("Conv", ["r", "v"], ["y"]),
    ]
    return nodes, {"x": x}, {"w": w, "b": numbers(2, out), "v": numbers(3, 32, out, *[1] * rank)}


@st.composite
def products(draw: st.DrawFn) -> Program:
    """Matrix products with a constant and with a computed operand."""
    m, n, k = (draw(st.integers(1, 70)) for _ in range(3))
    a = {"x": numbers(0, draw(st.integers(1, 2)), m, k)}
    if draw(st.booleans()):
        return [N("MatMul", ["x", "w"], ["y"])], a, {"w": numbers(1, k, n)}
    return [N("MatMul", ["x", "z"], ["y"])], {**a, "z": numbers(1, k, n)}, {}


@st.composite
def attentions(draw: st.DrawFn) -> Program:
    """Two heads without a mask."""
    queries, keys, depth = (draw(st.integers(1, n)) for n in (40, 40, 20))
    arrays = {
        "q": numbers(0, 1, 2, queries, depth),
        "k": numbers(1, 1, 2, depth, keys),
        "v": numbers(2, 1, 2, keys, draw(st.integers(1, 20))),
    }
    nodes = [
        N("MatMul", ["q", "k"], ["s"]),
        N("Softmax", ["s"], ["p"], axis=-1),
        N("MatMul", ["p", "v"], ["y"]),
    ]
    return nodes, arrays, {}


@st.composite
def transposed(draw: st.DrawFn) -> Program:
    """Phases of unequal taps, so that what they ask differs; in rows or in blocks."""
    channels = draw(st.sampled_from([5, 16, 24]))
    kernel, stride = draw(st.sampled_from([(3, 2), (4, 2), (5, 2), (5, 3), (2, 2)]))
    size = draw(st.integers(4, 12))
    attributes = {"strides": [stride] * 2, "pads": [draw(st.integers(0, 1))] * 4}
    nodes = [N("ConvTranspose", ["x", "w"], ["c"], **attributes), N("Conv", ["c", "v"], ["y"])]
    arrays = {"w": numbers(1, channels, 24, kernel, kernel), "v": numbers(2, 16, 24, 1, 1)}
    return nodes, {"x": numbers(0, 1, channels, size, size)}, arrays


def _draw_choices(data: st.DataObject, graph: go.Graph, target: Target) -> dict[str, dict[str, str]]:
    """Any option of each knob of each kernel, and of the knobs that show up then."""
    choices = {}
    for subject in subjects_of(graph, target, BOUND).tunable:
        answers: dict[str, str] = {}
        while True:
            knobs = lower_region(subject.region, target, subject.outputs, BOUND, answers).knobs
            fresh = [knob for knob in knobs if knob not in answers]
            if not fresh:
                break
            answers[fresh[0]] = data.draw(st.sampled_from(knobs[fresh[0]]), label=fresh[0])
        choices[subject.digest] = answers
    return choices


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", [convolutions, products, attentions, transposed])
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_choice_computes_the_same(kind: Any, target: str, data: st.DataObject) -> None:
    nodes, inputs, constants = data.draw(kind())
    graph = program(nodes, inputs, constants)
    expected = expected_of(graph, inputs)[0]
    optimized = go.optimize(graph, "O2", target=TARGETS[target])
    choices = _draw_choices(data, optimized, TARGETS[target])
    artifact = compile_graph(optimized, TARGETS[target], kernel_error=BOUND, choices=choices)
    with artifact.load(threads=data.draw(st.integers(1, 2))) as executable:
        assert_close(np.asarray(executable(inputs)[0]), expected, 2e-4)


MACHINE = MachineSpec(512, 32)


def test_without_answers_the_first_option_is_taken() -> None:
    assert choose(MACHINE, "tile", [6, 8]) == 6
    machine = Choices(MACHINE, {})
    assert choose(machine, "tile", [6, 8]) == 6
    assert machine.knobs == {"tile": ("6", "8")}


def test_answers_count_where_they_are_on_offer() -> None:
    machine = Choices(MACHINE, {"tile": "8", "other": "3"})
    assert choose(machine, "tile", [6, 8]) == 8
    assert choose(machine, "tile", [6, 7]) == 6
    assert choose(machine, "part", (True, False), lambda flag: "yes" if flag else "no") is True


def test_parts_of_a_kernel_have_knobs_of_their_own() -> None:
    machine = Choices(MACHINE, {"tile": "8", "right: tile": "7"})
    left, right = part_of(machine, "left"), part_of(machine, "right")
    assert [choose(each, "tile", [6, 7, 8]) for each in (machine, left, right)] == [8, 6, 7]
    assert choose(part_of(right, "inner"), "tile", [1, 2]) == 1
    assert list(machine.knobs) == ["tile", "left: tile", "right: tile", "right: inner: tile"]
    assert part_of(MACHINE, "left") is MACHINE


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", [convolutions, products, attentions, transposed])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_knob_means_one_thing_in_a_kernel(kind: Any, target: str, data: st.DataObject) -> None:
    """Asked again, it offers the same: what was tuned for one place is not taken, or ignored, in another."""
    nodes, inputs, constants = data.draw(kind())
    optimized = go.optimize(program(nodes, inputs, constants), "O2", target=TARGETS[target])
    subjects = subjects_of(optimized, TARGETS[target], BOUND).tunable
    choices = _draw_choices(data, optimized, TARGETS[target])
    asked: dict[str, tuple[str, ...]] = {}

    def recorded(machine: Choices, knob: str, options: Mapping[str, Any]) -> Any:
        name = machine._prefix + knob
        assert asked.setdefault(name, tuple(options)) == tuple(options), name
        return take(machine, knob, options)

    take = Choices.take
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Choices, "take", recorded)
        for subject in subjects:
            asked.clear()
            lower_region(subject.region, TARGETS[target], subject.outputs, BOUND, choices[subject.digest])


def test_a_choice_is_a_machine() -> None:
    machine = Choices(MachineSpec(256, 16, 1, 2, ("fma",)), {})
    assert (machine.vector_bits, machine.vector_registers, machine.l1_bytes, machine.l2_bytes) == (
        256,
        16,
        1,
        2,
    )
    assert machine.has("fma") and not machine.has("avx512f")


def test_sizes_around_one() -> None:
    assert around(8, 1, 30) == [8, 16, 4, 2, 30]
    assert around(1, 1, 2) == [1, 2]
    assert around(5, 5, 5) == [5]


def test_few_options_are_offered() -> None:
    machine = Choices(MACHINE, {"n": "9"})
    assert choose(machine, "n", range(100)) == 0
    assert len(machine.knobs["n"]) == 8
