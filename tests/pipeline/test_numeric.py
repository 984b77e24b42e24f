"""Numeric verification: run before and after in ONNX Runtime, compare or report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from pass_samples import Approximate, Lossy, Scale, Swap, close, do, graph_of

from graphopt import NumericFault
from graphopt.errors import InputError, VerifyError
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.transaction import Relation
from graphopt.pipeline import Context, Effect, Pass, Pipeline
from graphopt.pipeline.settings import Limits, Verify

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


def test_a_lossy_pass_makes_no_nan_of_a_number() -> None:
    with pytest.raises(VerifyError, match=r'output "out" changed \(nan for 2 at \[1\]\)'):
        run("%r: T = Neg(%x)", Lossy(new="Sqrt"), inputs=[{"x": np.float32([4, -2])}])


def quantizing(operands: list[np.ndarray[Any, Any]], attrs: dict[str, int]) -> Pass:
    """A pass that puts a DequantizeLinear of ``operands`` in the place of the weight."""

    @dataclass(frozen=True)
    class Quantize(Pass):
        name = "quantize"
        effect = Effect.LOSSY

        def run(self, rewriter: Rewriter, context: Context) -> None:
            (node,) = rewriter.graph.nodes
            weight = node.inputs[1]
            assert weight is not None
            with rewriter.rewrite("quantize", node):
                made = [rewriter.constant(array) for array in operands]
                restored = rewriter.create("DequantizeLinear", made, attrs).output
                rewriter.replace(weight, restored, Relation.QUANTIZED)

    return Quantize()


@pytest.mark.parametrize(
    ("dtype", "wrong", "message"),
    [
        (np.int8, 0, None),
        (
            np.int8,
            3,
            r"%k changed by .* \(0\.123 for 0\.12 at \[1, 1\]\); allowed: half a step of the grid, 0\.001",
        ),
        (np.int32, 0, None),
        (np.int32, 3, r"allowed: half a step of the grid, 0\.001"),
    ],
)
def test_each_channel_of_quantized_weights_is_held_to_its_own_grid(
    dtype: type, wrong: int, message: str
) -> None:
    """Channels in steps of 1 and 0.001: three of the second are no more than noise beside the first."""
    numbers = np.array([[-100, 7], [50, 120 + wrong]], dtype)
    quantize = quantizing([numbers, np.float32([1.0, 0.001])], {"axis": 1})
    text = "const %k: f32[2, 2] = [-100.3, 0.007, 50.2, 0.12]\n%r: f32[2] = MatMul(%x, %k)"
    if message is None:
        run(text, quantize)
    else:
        with pytest.raises(VerifyError, match=message):
            run(text, quantize)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (0, None),
        (3, r"%k changed by .* \(0\.123 for 0\.12 at \[2, 1\]\); allowed: half a step of the grid, 0\.001"),
    ],
)
def test_each_block_of_quantized_weights_is_held_to_its_own_grid(wrong: int, message: str | None) -> None:
    """Rows 0 and 1 are one block in steps of 1, row 2 is what there is of the next, in steps of 0.001."""
    numbers = np.array([[-100, 7], [50, 20], [7, 120 + wrong]], np.int8)
    steps, zeros = np.float32([[1.0, 1.0], [0.001, 0.001]]), np.int8([[0, 0], [0, 0]])
    quantize = quantizing([numbers, steps, zeros], {"axis": 0, "block_size": 2})
    graph = graph_of(
        "const %k: f32[3, 2] = [-100.3, 7.2, 50.2, 20.1, 0.007, 0.12]\n%r: f32[2] = MatMul(%x, %k)",
        type="f32[3]",
    )
    context = Context(inputs=[{"x": np.float32([1, 2, 3])}])
    if message is None:
        Pipeline((quantize,)).run(graph, context=context, verify="numeric")
    else:
        with pytest.raises(VerifyError, match=message):
            Pipeline((quantize,)).run(graph, context=context, verify="numeric")


CONST = "const %k: f32[2] = [1.0, 3.0]\n%r: T = Mul(%x, %k)"


@pytest.mark.parametrize(("by", "passes"), [(1 + 3e-7, True), (1 + 1e-5, False)])
def test_exact_passes_may_differ_by_a_rounding_only(by: float, passes: bool) -> None:
    if passes:
        assert run(CONST, Scale(by=by))[0].distance["out"] < 1e-6  # type: ignore[attr-defined]
    else:
        with pytest.raises(
            VerifyError,
            match=r"%k changed by 1e-05 of its largest value .*allowed: f32, 1 op deep, exact pass: 1e-06",
        ):
            run(CONST, Scale(by=by))


def test_inputs_are_generated_when_none_are_given() -> None:
    with pytest.raises(VerifyError, match="%k changed by 1 of"):
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


LONG = "%a: T = Tanh(%x)\n%b: T = Relu(%a)\n%c: T = Elu(%b)\n%d: T = Sigmoid(%c)\n%r: T = Neg(%d)"


@pytest.mark.parametrize("way", ["raises", "exits", "loops"])
def test_a_fault_is_told_though_the_pass_fails_on_parts_of_the_graph(way: str) -> None:
    def wrong(rewriter: Rewriter, context: Context) -> None:
        nodes = {node.op: node for node in rewriter.graph.walk()}
        if "Tanh" not in nodes:
            if way == "exits":
                raise SystemExit(3)
            while way == "loops":
                pass
            nodes["Tanh"]
        with rewriter.rewrite("bad", nodes["Neg"]):
            new = rewriter.create("Abs", nodes["Neg"].inputs)
            rewriter.replace_node(nodes["Neg"], new.outputs)

    graph = graph_of(LONG)
    with pytest.raises(NumericFault, match='output "out" changed') as found:
        Pipeline((do(wrong),)).run(graph, verify="numeric", limits=Limits(pass_timeout=0.3))
    assert found.value.rewrite is not None and found.value.rewrite.rule == "bad"
    # The whole graph is the one part on which the pass shows it, unless time is up before.
    assert (found.value.reproducer is None) == (way == "loops")


def test_a_fault_is_told_though_the_pass_fails_whenever_it_runs_again() -> None:
    runs = []

    def wrong(rewriter: Rewriter, context: Context) -> None:
        runs.append(rewriter)
        assert len(runs) == 1
        (node,) = rewriter.graph.nodes
        with rewriter.rewrite("bad", node):
            rewriter.replace_node(node, rewriter.create("Abs", node.inputs).outputs)

    with pytest.raises(NumericFault, match=r'output "out" changed by 0\.5') as found:
        run("%r: T = Neg(%x)", do(wrong))
    assert len(runs) > 1 and found.value.rewrite is None and found.value.mismatches


def test_a_model_that_runs_on_no_generated_inputs_is_not_passed_off_as_verified() -> None:
    text = "const %s: i64[2] = [5, 3]\n%r: f32[5, 3] = Reshape(%x, %s)"
    graph = graph_of(text, type="f32[m]")
    with pytest.raises(InputError, match=r"fails on all inputs that were generated: .* at Reshape") as found:
        Pipeline((Swap(),)).run(graph, verify="numeric")
    assert "512" in found.value.message  # the last try's size
    assert found.value.hint is not None and "--inputs" in found.value.hint
    inputs = [{"x": np.ones(15, np.float32)}]
    (row,) = Pipeline((Swap(),)).run(graph, context=Context(inputs=inputs), verify="numeric").rows
    assert not row.unverified
