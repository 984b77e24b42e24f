"""Where values lie: concatenations and slices in place, memory used again, held against ONNX Runtime."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import golden_models
import graphopt as go
from graphopt.backend.assemble import assemble, lay_out
from graphopt.backend.calls import KernelCache, plan_calls
from graphopt.backend.compile import compile_graph
from graphopt.backend.constants import Constants
from graphopt.backend.layout import vector_bytes
from graphopt.backend.memory import LINE, Blocks, pack, size_of
from graphopt.ir.graph import Value
from graphopt.runtime.manifest import MemoryUse
from graphopt.targets import Target
from tests.backend.programs import NATIVE, Array, assert_close, expected_of, numbers, program

N = helper.make_node
V3, V4 = Target.parse("x86-64-v3"), Target.parse("x86-64-v4")
CPU = [V3, NATIVE]


def _conv(x: str, y: str, weight: str | None = None) -> onnx.NodeProto:
    return N("Conv", [x, weight or f"w_{y}"], [y])


def _weights(**channels: tuple[int, int]) -> dict[str, Array]:
    """Of 1x1 convolutions, by result, from (inputs, outputs)."""
    return {
        f"w_{name}": numbers(i, out, into, 1, 1) for i, (name, (into, out)) in enumerate(channels.items())
    }


def _check(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Array],
    constants: Mapping[str, Array],
    *,
    outputs: Sequence[str] = ("y",),
    target: Target = NATIVE,
    pipeline: str = "O2",
    **options: Any,
) -> tuple[dict[str, int], MemoryUse]:
    """Compiles, checks the plan and two runs on one and two threads; gives calls by kernel, and memory."""
    graph = program(nodes, inputs, constants, outputs=outputs, **options)
    expected = expected_of(graph, inputs)
    optimized = go.optimize(graph, pipeline, target=target)
    check_plan(optimized, target)
    artifact = compile_graph(optimized, target)
    for threads in (1, 2):
        with artifact.load(threads=threads) as executable:
            for _ in range(2):
                results = executable(dict(inputs))
                for ours, theirs in zip(results, expected, strict=True):
                    assert_close(np.asarray(ours), theirs)
                for result in results:
                    result[...] = 7  # it is the caller's: the next run must not care
    (variant,) = artifact.variants
    assert variant.memory is not None
    return {name: len(labels) for name, labels in variant.kernels.items()}, variant.memory


def check_plan(graph: go.Graph, target: Target) -> None:
    """Plays the calls on memory of which each byte knows who wrote it last.

    What a call reads must have been written, and by kernels that the value is made by according to the graph.
    """
    constants = Constants(graph)
    alignment = vector_bytes(target)
    blocks = Blocks(graph, constants.get, alignment)
    calls = plan_calls(graph, KernelCache(target, 0.0), constants, blocks)
    arena = lay_out(calls, blocks)
    memory: dict[object, Any] = {None: np.full(arena.size, -1)}

    def place(value: Value, offset: int = 0, like: Value | None = None) -> Any:
        block = blocks.of(value)
        if block is None:
            return None
        bytes_ = memory.setdefault(None if block.output is None else block, np.full(block.size, -1))
        begin = (arena.places[block] if block.output is None else 0) + block.offset(value) + offset
        assert begin % alignment == 0
        size = size_of(like or value)
        assert begin + size <= len(bytes_)
        return bytes_[begin : begin + size]

    makers: dict[Value, set[int]] = {}
    pieces: list[tuple[Value, int]] = []

    def made_by(value: Value) -> set[int]:
        if value in makers or value.producer is None:
            return makers.get(value, set())
        node = value.producer
        sources = [v for v in (node.inputs if node.op == "Concat" else node.inputs[:1]) if v is not None]
        copied = {index for whole, index in pieces if whole is value}
        return copied.union(*map(made_by, sources))

    for index, call in enumerate(calls):
        if call.lowered is None:
            continue
        for value in call.reads:
            seen = place(value) if constants.get(value) is None else None
            if seen is not None:
                assert set(np.unique(seen)) <= made_by(value), f"{call.region.label} reads {value}"
        if call.place is not None:
            place(call.place.whole, call.place.offset, call.place.part)[...] = index
            pieces.append((call.place.whole, index))
        for value in call.writes if call.region.nodes else ():
            makers[value] = {index}
            written = place(value)
            if written is not None:
                written[...] = index
    for value in graph.outputs:
        block = blocks.of(value)
        if block is not None:
            assert block.offset(value) == 0 and block.size == size_of(value)
            assert set(np.unique(place(value))) <= made_by(value)


@pytest.mark.parametrize("target", CPU, ids=str)
def test_pieces_are_written_where_they_belong(target: Target) -> None:
    """7x7 pixels of 8 channels are no whole cache line, but whole vectors."""
    nodes = [_conv("x", "a"), _conv("x", "b"), N("Concat", ["a", "b"], ["c"], axis=1), _conv("c", "y")]
    kernels, memory = _check(
        nodes, {"x": numbers(0, 1, 16, 7, 7)}, _weights(a=(16, 16), b=(16, 32), y=(48, 16)), target=target
    )
    assert not any("concat" in name for name in kernels)
    assert (memory.in_place, memory.moved, memory.dynamic) == (1, 0, 0)


def test_a_chain_of_concatenations_is_one_piece_of_memory() -> None:
    """As in DenseNet: the result of each is the first piece of the next."""
    nodes, constants, channels = [_conv("x", "c0")], {"w_c0": numbers(0, 32, 16, 1, 1)}, 32
    for i in range(4):
        nodes += [_conv(f"c{i}", f"a{i}"), N("Concat", [f"c{i}", f"a{i}"], [f"c{i + 1}"], axis=1)]
        constants[f"w_a{i}"] = numbers(i, 16, channels, 1, 1)
        channels += 16
    nodes.append(N("GlobalAveragePool", ["c4"], ["y"]))
    kernels, memory = _check(nodes, {"x": numbers(0, 1, 16, 8, 8)}, constants)
    assert not any("concat" in name for name in kernels)
    assert (memory.in_place, memory.moved) == (4, 0)
    assert memory.planned < memory.separate / 2


def test_lists_that_grow_are_one_piece_of_memory() -> None:
    """As torchvision writes DenseNet: each concatenation lists all pieces again."""
    nodes, constants, names = [_conv("x", "c0")], {"w_c0": numbers(0, 16, 16, 1, 1)}, ["c0"]
    for i in range(1, 4):
        nodes += [N("Concat", list(names), [f"l{i}"], axis=1)] if len(names) > 1 else []
        nodes.append(_conv(f"l{i}" if len(names) > 1 else "c0", f"c{i}"))
        constants[f"w_c{i}"] = numbers(i, 16, 16 * len(names), 1, 1)
        names.append(f"c{i}")
    nodes += [N("Concat", names, ["l"], axis=1), N("GlobalAveragePool", ["l"], ["y"])]
    kernels, memory = _check(nodes, {"x": numbers(0, 1, 16, 8, 8)}, constants)
    assert not any("concat" in name for name in kernels)
    assert (memory.in_place, memory.moved) == (3, 0)


def test_elementwise_operators_after_a_concatenation_read_it_in_place() -> None:
    nodes = [_conv("x", "a"), _conv("x", "b"), N("Concat", ["a", "b"], ["c"], axis=1),
             N("Mul", ["c", "s"], ["d"]), N("Relu", ["d"], ["e"]), _conv("e", "y")]  # fmt: skip
    constants = _weights(a=(16, 16), b=(16, 16), y=(32, 16)) | {"s": numbers(3, 32, 1, 1)}
    kernels, memory = _check(nodes, {"x": numbers(0, 1, 16, 8, 8)}, constants)
    assert (kernels["mul_relu"], memory.in_place) == (1, 1)


def test_a_piece_that_two_want_is_copied_for_the_smaller() -> None:
    nodes = [_conv("x", "a"), _conv("x", "b"), _conv("x", "c"),
             N("Concat", ["a", "b"], ["p"], axis=1), N("Concat", ["a", "c"], ["q"], axis=1),
             N("GlobalAveragePool", ["p"], ["y"]), N("GlobalAveragePool", ["q"], ["z"])]  # fmt: skip
    constants = _weights(a=(16, 16), b=(16, 16), c=(16, 48))
    kernels, memory = _check(nodes, {"x": numbers(0, 1, 16, 8, 8)}, constants, outputs=["y", "z"])
    assert not any("concat" in name for name in kernels)
    assert (kernels["copy"], memory.in_place, memory.moved) == (1, 2, 0)


@pytest.mark.parametrize(
    ("shape", "why"), [((2, 16, 8, 8), "a batch of two"), ((1, 16, 3, 5), "half vectors, row-major")]
)
def test_pieces_that_do_not_fit_are_copied(shape: tuple[int, ...], why: str) -> None:
    odd = 5 if shape[0] == 1 else 16
    nodes = [_conv("x", "a"), _conv("x", "b"), N("Concat", ["a", "b"], ["c"], axis=1),
             N("Softmax", ["c"], ["y"], axis=-1)]  # fmt: skip
    kernels, memory = _check(nodes, {"x": numbers(0, *shape)}, _weights(a=(16, odd), b=(16, odd)))
    assert (memory.in_place, memory.moved) == (0, 1), why
    assert kernels["concat"] == 1


def test_symbolic_sizes_are_left_to_the_call() -> None:
    nodes = [_conv("x", "a"), _conv("x", "b"), N("Concat", ["a", "b"], ["c"], axis=1), _conv("c", "y")]
    constants = _weights(a=(16, 16), b=(16, 16), y=(32, 16))
    x = {"x": numbers(0, 2, 16, 8, 8)}
    kernels, memory = _check(nodes, x, constants, dims={"x": ["n", 16, 8, 8]})
    assert (kernels["concat"], memory.planned, memory.in_place, memory.moved) == (1, 0, 0, 1)
    assert memory.dynamic == sum(kernels.values()) - 1  # but for the output


def test_an_output_of_the_graph_is_the_memory_of_its_pieces() -> None:
    nodes = [N("Relu", ["x"], ["a"]), N("Softmax", ["x"], ["b"]), N("Concat", ["a", "b"], ["y"], axis=0)]
    kernels, memory = _check(nodes, {"x": numbers(0, 4, 32)}, {}, pipeline="O0")
    assert (kernels, memory.planned) == ({"relu": 1, "softmax": 1}, 0)


def test_an_output_of_the_graph_is_no_piece() -> None:
    nodes = [N("Relu", ["x"], ["a"]), N("Softmax", ["x"], ["b"]), N("Concat", ["a", "b"], ["c"], axis=0),
             N("Neg", ["c"], ["y"])]  # fmt: skip
    kernels, memory = _check(nodes, {"x": numbers(0, 4, 32)}, {}, outputs=["y", "a"], pipeline="O0")
    assert kernels == {"relu": 1, "softmax": 1, "copy": 1, "neg": 1}
    assert memory.in_place == 1


def test_parts_are_read_in_place() -> None:
    """Split, Slice along one axis and across two, and what reads the whole."""
    nodes = [N("Softmax", ["x"], ["a"]), N("Split", ["a"], ["p", "q"], axis=0, num_outputs=2),
             N("Slice", ["a", "two", "three", "zero"], ["r"]), N("Slice", ["a", "starts", "ends"], ["s"]),
             *(N("Softmax", [v], [f"y_{v}"], axis=0) for v in "apqrs")]  # fmt: skip
    constants = {"zero": np.array([0]), "two": np.array([2]), "three": np.array([3]),
                 "starts": np.array([-1, 1]), "ends": np.array([9, 3])}  # fmt: skip
    kernels, memory = _check(
        nodes,
        {"x": numbers(0, 4, 4, 32)},
        constants,
        outputs=[f"y_{value}" for value in "apqrs"],
        pipeline="O0",
    )
    assert set(kernels) == {"softmax", *(f"softmax_{i}" for i in range(1, 5))}
    assert (memory.in_place, memory.moved) == (3, 0)


@pytest.mark.parametrize(
    ("bounds", "steps"), [((0, 4), 2), ((1, 3), 1)], ids=["every second", "not at a whole vector"]
)
def test_parts_that_do_not_lie_right_are_copied(bounds: tuple[int, int], steps: int) -> None:
    nodes = [N("Softmax", ["x"], ["a"]), N("Slice", ["a", "from", "to", "axes", "steps"], ["b"]),
             N("Softmax", ["b"], ["y"])]  # fmt: skip
    constants = {"from": np.array(bounds[:1]), "to": np.array(bounds[1:]),
                 "axes": np.array([0]), "steps": np.array([steps])}  # fmt: skip
    kernels, memory = _check(nodes, {"x": numbers(0, 4, 5)}, constants, pipeline="O0")
    assert (kernels["slice"], memory.in_place, memory.moved) == (1, 0, 1)


def test_a_part_that_is_returned_is_a_copy() -> None:
    nodes = [N("Softmax", ["x"], ["a"]), N("Split", ["a"], ["p", "q"], axis=0, num_outputs=2)]
    kernels, _ = _check(nodes, {"x": numbers(0, 4, 16)}, {}, outputs=["p", "q"], pipeline="O0")
    assert kernels == {"softmax": 1, "split": 1, "split_1": 1}


def test_parts_of_a_part_go_into_a_concatenation() -> None:
    """As in networks that split their channels: both halves and what is made of one, side by side."""
    nodes = [N("Softmax", ["x"], ["a"]), N("Split", ["a"], ["p", "q"], axis=1, num_outputs=2),
             N("Softmax", ["q"], ["r"]), N("Concat", ["p", "q", "r"], ["c"], axis=1),
             N("Softmax", ["c"], ["y"])]  # fmt: skip
    kernels, memory = _check(nodes, {"x": numbers(0, 1, 4, 16)}, {}, pipeline="O0")
    assert (sum(kernels.values()), memory.in_place, memory.moved) == (3, 2, 0)


@pytest.mark.parametrize("slices", [False, True], ids=["split", "slices"])
def test_channels_taken_apart_and_joined_stay_in_blocks(slices: bool) -> None:
    """Half of the channels goes through two convolutions, and all are joined: nothing is moved between."""
    parts = [N("Split", ["a"], ["p", "q"], axis=1, num_outputs=2)]
    if slices:
        parts = [N("Slice", ["a", "c0", "c32", "c1"], ["p"]), N("Slice", ["a", "c32", "c64", "c1"], ["q"])]
    nodes = [_conv("x", "a"), *parts, _conv("q", "r"), _conv("r", "s"),
             N("Concat", ["p", "q", "s"], ["c"], axis=1), _conv("c", "y")]  # fmt: skip
    constants = _weights(a=(32, 64), r=(32, 32), s=(32, 32), y=(96, 16))
    constants |= {f"c{i}": np.array([i]) for i in (0, 1, 32, 64) if slices}
    kernels, memory = _check(nodes, {"x": numbers(0, 1, 32, 20, 20)}, constants)
    assert {name.split("_")[0] for name in kernels} == {"conv", "identity"}
    assert sum(count for name, count in kernels.items() if "identity" in name) == 2
    assert (memory.in_place, memory.moved) == (3 if slices else 2, 0)


def test_the_plan_of_densenet_has_no_concatenation() -> None:
    """Calls of kernels and the memory of a network with 58 of them."""
    graph = go.load(golden_models.path("light-densenet121"))
    assembled = assemble(go.optimize(graph, "O2", target=V4), V4)
    assert not [name for name in assembled.kernels if "concat" in name or "copy" in name]
    assert (assembled.memory.in_place, assembled.memory.moved, assembled.memory.dynamic) == (58, 0, 0)
    assert assembled.memory.planned == 8_028_160
    assert assembled.memory.separate > 10 * assembled.memory.planned


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(0, 12), st.integers(0, 12)), max_size=14))
@settings(deadline=None, max_examples=200)
def test_what_is_in_use_together_does_not_overlap(blocks: list[tuple[int, int, int]]) -> None:
    """An arena is as large as what is in use at one step at least, and as all together at most."""
    steps: list[list[int]] = [[] for _ in range(13)]
    for index, (_, *ends) in enumerate(blocks):
        for step in set(ends):
            steps[step].append(index)
    arena = pack(steps, lambda index: blocks[index][0])
    assert set(arena.places) == set(range(len(blocks)))
    spans = {i: (place, place + blocks[i][0]) for i, place in arena.places.items()}
    alive = [
        [i for i, (_, *ends) in enumerate(blocks) if min(ends) <= step <= max(ends)] for step in range(13)
    ]
    for together in alive:
        ordered = sorted(spans[i] for i in together)
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(ordered))
    assert all(place % LINE == 0 for place in arena.places.values())
    least = max((sum(blocks[i][0] for i in together) for together in alive), default=0)
    assert least <= arena.size <= sum(-(-size // LINE) * LINE for size, _, _ in blocks)


@st.composite
def _graphs(draw: st.DrawFn) -> tuple[list[onnx.NodeProto], dict[str, Array], list[str], int]:
    """Nodes that join, take apart and compute values of ``[batch, channels, 3, 3]``, and some outputs."""
    batch = draw(st.sampled_from([1, 1, 1, 2]))
    channels = {"x": 16}
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Array] = {}

    def add(name: str, made: int) -> str:
        channels[name] = made
        return name

    for i in range(draw(st.integers(3, 9))):
        kind = draw(
            st.sampled_from(["conv", "conv", "relu", "concat", "concat", "split", "slice", "reshape"])
        )
        source = draw(st.sampled_from(list(channels)))
        count = channels[source]
        if kind == "conv":
            made = draw(st.sampled_from([16, 16, 32, 8, 5]))
            constants[f"w{i}"] = numbers(i, made, count, 1, 1)
            nodes.append(_conv(source, add(f"v{i}", made), f"w{i}"))
        elif kind == "relu":
            nodes.append(N(draw(st.sampled_from(["Relu", "Neg"])), [source], [add(f"v{i}", count)]))
        elif kind == "concat":
            pieces = [source, *draw(st.lists(st.sampled_from(list(channels)), min_size=1, max_size=3))]
            total = sum(channels[piece] for piece in pieces)
            if total <= 256:
                nodes.append(N("Concat", pieces, [add(f"v{i}", total)], axis=1))
        elif kind == "split" and count > 1:
            first = draw(st.sampled_from([count // 2, 1, min(16, count - 1)]))
            constants[f"s{i}"] = np.array([first, count - first])
            made_of = [add(f"v{i}", first), add(f"u{i}", count - first)]
            nodes.append(N("Split", [source, f"s{i}"], made_of, axis=1))
        elif kind == "slice":
            start = draw(st.sampled_from([0, count // 2 - count // 2 % 8]))
            end = draw(st.integers(start + 1, count))
            constants[f"b{i}"], constants[f"e{i}"], constants["one"] = (
                *map(np.array, ([start], [end])),
                np.array([1]),
            )
            nodes.append(N("Slice", [source, f"b{i}", f"e{i}", "one"], [add(f"v{i}", end - start)]))
        elif kind == "reshape":
            constants["flat"], constants[f"r{i}"] = np.array([-1, 9]), np.array([batch, count, 3, 3])
            nodes.append(N("Reshape", [source, "flat"], [f"f{i}"]))
            nodes.append(N("Reshape", [f"f{i}", f"r{i}"], [add(f"v{i}", count)]))
    names = [name for name in channels if name != "x"]
    if not names:
        nodes, names = [N("Relu", ["x"], ["v"])], ["v"]
    outputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    if names[-1] not in outputs:
        outputs.append(names[-1])
    return nodes, constants, outputs, batch


def _check_any(
    drawn: tuple[list[onnx.NodeProto], dict[str, Array], list[str], int],
    target: Target,
    pipeline: str,
    symbolic: bool,
) -> None:
    nodes, constants, outputs, batch = drawn
    dims: dict[str, Sequence[int | str]] = {"x": ["n", 16, 3, 3]} if symbolic else {}
    if symbolic:  # what a reshape gives is the drawn batch
        nodes = [node for node in nodes if node.op_type != "Reshape"]
        made = {"x", *constants, *(name for node in nodes for name in node.output)}
        kept: list[onnx.NodeProto] = []
        for node in nodes:
            if set(node.input) <= made - {n for other in nodes if other not in kept for n in other.output}:
                kept.append(node)
        nodes = kept
        made = {name for node in nodes for name in node.output}
        outputs = [name for name in outputs if name in made] or sorted(made)[-1:]
        if not outputs:
            return
    used = {name for node in nodes for name in node.input}
    kept_constants = {name: data for name, data in constants.items() if name in used}
    _check(nodes, {"x": numbers(0, batch, 16, 3, 3)}, kept_constants, outputs=outputs, target=target,
           pipeline=pipeline, dims=dims)  # fmt: skip


@given(
    _graphs(),
    st.sampled_from(CPU),
    st.sampled_from(["O2", "O2", "O0"]),
    st.sampled_from([False] * 4 + [True]),
)
@settings(deadline=None, max_examples=20)
def test_any_graph_of_pieces_and_parts(
    drawn: tuple[list[onnx.NodeProto], dict[str, Array], list[str], int],
    target: Target,
    pipeline: str,
    symbolic: bool,
) -> None:
    _check_any(drawn, target, pipeline, symbolic)


@pytest.mark.sweep
@given(
    _graphs(),
    st.sampled_from(CPU),
    st.sampled_from(["O2", "O2", "O0"]),
    st.sampled_from([False] * 4 + [True]),
)
@settings(deadline=None, max_examples=600)
def test_many_graphs_of_pieces_and_parts(
    drawn: tuple[list[onnx.NodeProto], dict[str, Array], list[str], int],
    target: Target,
    pipeline: str,
    symbolic: bool,
) -> None:
    _check_any(drawn, target, pipeline, symbolic)
