"""Numeric verification: run before and after in ONNX Runtime, compare or report."""

from __future__ import annotations

import numpy as np
import pytest
from pass_samples import Approximate, Lossy, Scale, Swap, close, do, graph_of

from graphopt.errors import InputError, VerifyError
from graphopt.ir.rewriter import Rewriter
from graphopt.pipeline import Context, Effect, Pipeline
from graphopt.pipeline.numeric import distance
from graphopt.pipeline.pipeline import Verify

INPUTS = [{"x": np.array([0.5, -2.0], np.float32)}]


def run(graph_text: str, *passes: object, inputs: object = INPUTS) -> list[object]:
    graph = graph_of(graph_text)
    report = Pipeline(passes).run(graph, context=Context(inputs=inputs), verify="numeric")  # type: ignore[arg-type]
    return list(report.rows)


def test_an_exact_pass_that_is_right_passes_with_its_distance() -> None:
    rows = run("%a: T = Relu(%x)\n%r: T = Abs(%a)", Swap(old="Abs", new="Relu"), Swap(old="Sin"))
    assert rows[1].distance == {}  # type: ignore[attr-defined]
    assert rows[0].distance == {"out": 0.0}  # type: ignore[attr-defined]
    assert rows[0].unverified == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize("pass_", [Swap(), Approximate()])
def test_a_wrong_pass_is_named_with_output_and_error(pass_: Swap) -> None:
    # -x instead of |x|: x[0] changes sign, an error of 1.0 beside a largest value of 2.0.
    with pytest.raises(
        VerifyError, match=rf'pass "{pass_.name}": output "out" changed by 0.5 of its largest'
    ):
        run("%r: T = Neg(%x)", pass_)


def test_a_lossy_pass_only_reports_its_distance() -> None:
    (row,) = run("%r: T = Neg(%x)", Lossy())
    assert close(row.distance["out"], 0.5)  # type: ignore[attr-defined]


CONST = "const %k: f32[2] = [1.0, 3.0]\n%r: T = Mul(%x, %k)"


@pytest.mark.parametrize(("by", "passes"), [(1 + 3e-7, True), (1 + 1e-5, False)])
def test_exact_passes_may_differ_by_a_rounding_only(by: float, passes: bool) -> None:
    if passes:
        assert run(CONST, Scale(by=by))[0].distance["out"] < 1e-6  # type: ignore[attr-defined]
    else:
        with pytest.raises(VerifyError, match="a pass that is exact may change it by 1e-06"):
            run(CONST, Scale(by=by))


def test_inputs_are_generated_when_none_are_given() -> None:
    with pytest.raises(VerifyError, match='output "out"'):
        run(CONST, Scale(by=2.0), inputs=())


def test_a_graph_that_can_not_run_is_noted_not_refused() -> None:
    (row,) = run("%r: T = com.nobody.Foo(%x)", Swap(old="Foo"))
    assert "Foo" in row.unverified  # type: ignore[attr-defined]
    (row,) = run("%a: T = RandomNormalLike(%x)\n%r: T = Neg(%a)", Swap())
    assert "draws random numbers" in row.unverified  # type: ignore[attr-defined]


def test_a_graph_that_stops_running_is_an_error() -> None:
    def break_it(rewriter: Rewriter, context: Context) -> None:
        node = rewriter.graph.nodes[0]
        with rewriter.rewrite("break", node):
            new = rewriter.create("NoSuchOp", [node.inputs[0]], domain="com.nobody", types=[node.output.type])
            rewriter.replace_node(node, new.outputs)

    with pytest.raises(
        VerifyError, match='pass "do": the graph ran before this pass and does not run after it'
    ):
        run("%r: T = Neg(%x)", do(break_it))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("actual", "expected", "far"),
    [
        (np.float32([1, 2]), np.float32([1, 2]), 0.0),
        (np.float32([1, 3]), np.float32([1, 2]), 0.5),
        (np.float32([0, 1]), np.float32([0, 0]), 1.0),
        (np.float32([NAN, 2]), np.float32([NAN, 2]), 0.0),
        (np.float32([NAN, 2]), np.float32([1, 2]), INF),
        (np.float32([INF, 2]), np.float32([-INF, 2]), INF),
        (np.float32([INF, 2]), np.float32([INF, 2]), 0.0),
        (np.float32([1]), np.float32([1, 2]), INF),
        (np.float64([1]), np.float32([1]), INF),
        (np.int64([5]), np.int64([4]), 0.25),
        (np.array(["a"]), np.array(["b"]), INF),
        (np.array([True]), np.array([True]), 0.0),
        (np.complex64([1j]), np.complex64([2j]), 0.5),
        ([np.float32([1])], [np.float32([2])], 0.5),
        ([], [np.float32([2])], INF),
        (None, None, 0.0),
        (None, np.float32([1]), INF),
        (np.float32([]), np.float32([]), 0.0),
        (np.uint8([0]), np.uint8([255]), 1.0),
    ],
)
def test_distances(actual: object, expected: object, far: float) -> None:
    measured, allowed = distance(actual, expected, Effect.EXACT)
    assert measured == far
    assert (measured <= allowed) == (far == 0.0)


def test_one_step_of_an_8_bit_output_is_within_an_approximate_pass() -> None:
    for dtype, ok in ((np.uint8, True), (np.int8, True), (np.int64, False)):
        for step in (1, 2):
            measured, allowed = distance(
                np.array([99 + step, 3], dtype), np.array([99, 3], dtype), Effect.APPROXIMATE
            )
            assert (measured <= allowed) == (ok and step == 1)


@pytest.mark.parametrize("verify", ["numeric", "structure"])
@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"x": np.zeros(3, np.float32)}, r'sample 2: input "x" has shape \[3\].*axis 0 must be 2'),
        ({"x": np.zeros((2, 1), np.float32)}, r'sample 2: input "x" has shape \[2, 1\]'),
        ({"x": np.zeros(2)}, 'sample 2: input "x" is float64, the graph wants float32'),
        ({"z": np.zeros(2, np.float32)}, 'sample 2: there is no input "z"'),
        ({}, 'sample 2: input "x" is missing'),
    ],
)
def test_samples_that_do_not_fit_are_refused_however_it_is_verified(
    sample: dict[str, np.ndarray], message: str, verify: Verify
) -> None:
    graph = graph_of("%r: T = Neg(%x)")
    with pytest.raises(InputError, match=message):
        Pipeline((Swap(),)).run(graph, context=Context(inputs=[*INPUTS, sample]), verify=verify)
    assert [node.op for node in graph.walk()] == ["Neg"]


def test_a_sample_without_elements_verifies_nothing_and_is_refused() -> None:
    graph = graph_of("%r: T = Neg(%x)", type="f32[n]")
    with pytest.raises(InputError, match="sample 1: its inputs have no elements"):
        Pipeline((Swap(),)).run(graph, context=Context(inputs=[{"x": np.zeros(0, np.float32)}]))


def test_a_sample_on_which_the_model_fails_is_the_users_not_unverified() -> None:
    graph = graph_of("const %d: f32[3] = [1.0, 2.0, 3.0]\n%r: f32[2] = Gather(%d, %x)", type="i64[2]")
    pipeline = Pipeline((Swap(),))
    with pytest.raises(InputError, match="the model fails on sample 1: ONNX Runtime failed at Gather"):
        pipeline.run(graph, context=Context(inputs=[{"x": np.array([0, 7])}]), verify="numeric")
    pipeline.run(graph, context=Context(inputs=[{"x": np.array([0, 2])}]), verify="numeric")
