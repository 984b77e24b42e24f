"""What no sample runs, what draws random numbers and what no engine knows: compared where it can be, else named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from planted import model

from graphopt import NumericFault, api
from graphopt.cli.opt_command import command as opt_command
from graphopt.ir.graph import Graph, Node
from graphopt.ir.rewriter import Rewriter
from graphopt.pipeline import Context, Effect, Pass, Pipeline, Report
from graphopt.pipeline.numeric import checker_of
from graphopt.verify.expressions import Application, Expressions


@dataclass(frozen=True)
class Swap(Pass):
    """Puts an operator in the place of another, wherever it stands."""

    name = "swap"
    old: str = ""
    new: str = ""

    def run(self, rewriter: Rewriter, context: Context) -> None:
        for node in [node for node in rewriter.graph.walk() if node.op == self.old]:
            with rewriter.rewrite("swap", node):
                rewriter.replace_node(node, rewriter.create(self.new, node.inputs).outputs)


def swapped(graph: Graph, old: str, new: str, **inputs: object) -> Report:
    samples = [{name: np.asarray(value) for name, value in inputs.items()}] if inputs else []
    return Pipeline((Swap(old, new),)).run(graph, context=Context(inputs=samples), verify="numeric")


# --- regions that no sample runs --------------------------------------------------------------------

BRANCHES = (
    "g (bool c, float[3] x) => (float[3] y) { y = If (c) <then_branch = t () => (float[3] a) { a = Neg(x) }, "
    "else_branch = e () => (float[3] b) { b = Relu(x) }> }"
)
X = np.float32([-1, 0, 2])


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("old", ["Neg", "Relu"])
def test_a_wrong_change_in_either_branch_is_found_whichever_the_sample_takes(old: str, taken: bool) -> None:
    seen = (old == "Neg") == taken
    branch = "then_branch" if old == "Neg" else "else_branch"
    with pytest.raises(NumericFault, match='output "y" changed') as found:
        swapped(model(BRANCHES), old, "Abs", c=taken, x=X)
    assert (f'with {branch} of If "y" made to run' in found.value.message) != seen
    assert found.value.rewrite is not None and found.value.rewrite.rule == "swap"
    assert found.value.reproducer is not None


def test_a_right_change_in_a_branch_that_is_not_taken_is_compared() -> None:
    report = swapped(model(BRANCHES), "Relu", "Abs", c=True, x=np.abs(X))
    assert (report.rewrites, report.left_out) == (1, [])
    assert report.rows[0].distance == {"y": 0.0}


def test_a_branch_that_fails_when_it_is_made_to_run_is_named() -> None:
    graph = model(
        "g (bool c, float[3] x, int64[1] s) => (float[k] y) { y = If (c) "
        "<then_branch = t () => (float[3] a) { a = Neg(x) }, "
        "else_branch = e () => (float[m] b) { r = Reshape(x, s) b = Relu(r) }> }"
    )
    report = swapped(graph, "Relu", "Abs", c=True, x=X, s=np.int64([7]))
    (text,) = report.left_out
    assert text.startswith('else_branch of If "y": no sample runs it, and made to run it fails: ')


def test_a_branch_that_fails_only_after_the_pass_is_a_fault() -> None:
    graph = model(
        "g (bool c, float[3] x, int64[2] s) => (float[k,3] y) <int64[1] zero = {0}> { y = If (c) "
        "<then_branch = t () => (float[1,3] a) { a = Unsqueeze(x, zero) }, "
        "else_branch = e () => (float[m,3] b) { b = Expand(x, s) }> }"
    )
    with pytest.raises(NumericFault, match="run"):
        swapped(graph, "Expand", "Reshape", c=True, x=X, s=np.int64([2, 3]))


LOOP = (
    "g (int64 trips, float[3] x) => (float[3] y) <bool go = {1}> { y = Loop (trips, go, x) "
    "<body = b (int64 i, bool again, float[3] h) => (bool on, float[3] next) "
    "{ on = Identity(again) next = Relu(h) }> }"
)


@pytest.mark.parametrize("trips", [0, 3])
def test_the_body_of_a_loop_is_compared_though_the_sample_makes_no_trip(trips: int) -> None:
    with pytest.raises(NumericFault, match='output "y" changed') as found:
        swapped(model(LOOP), "Relu", "Abs", trips=np.int64(trips), x=X)
    assert ('with body of Loop "y" made to run' in found.value.message) == (trips == 0)
    assert swapped(model(LOOP), "Relu", "Abs", trips=np.int64(trips), x=np.abs(X)).left_out == []


def test_a_loop_that_might_not_end_is_not_made_to_run() -> None:
    text = (
        LOOP.replace("int64 trips, ", "bool go, ")
        .replace("<bool go = {1}>", "")
        .replace("(trips, go", '("", go')
    )
    report = swapped(model(text), "Relu", "Abs", go=False, x=X)
    assert report.left_out == ['body of Loop "y": no sample runs it, and made to run it might not end']
    text = LOOP.replace("float[3] x)", "bool go, float[3] x)").replace(
        "<bool go = {1}>", "<int64 trips = {1000}>"
    )
    report = swapped(model(text.replace("int64 trips, bool", "bool")), "Relu", "Abs", go=False, x=X)
    assert report.left_out == ['body of Loop "y": no sample runs it, and made to run it might not end']


def test_what_takes_the_place_of_an_if_is_compared_as_the_samples_run_it() -> None:
    def put(rewriter: Rewriter, context: Context) -> None:
        (node,) = rewriter.graph.nodes
        with rewriter.rewrite("put", node):
            rewriter.replace_node(node, rewriter.create("Neg", [rewriter.graph.inputs[1]]).outputs)

    @dataclass(frozen=True)
    class Put(Pass):
        name = "put"

        def run(self, rewriter: Rewriter, context: Context) -> None:
            put(rewriter, context)

    context = Context(inputs=[{"c": np.asarray(True), "x": X}])
    report = Pipeline((Put(),)).run(model(BRANCHES), context=context, verify="numeric")
    assert report.left_out == [
        'else_branch of If "y": no sample runs it, and the pass put something else in its node\'s place'
    ]


def test_a_condition_that_no_input_changes_leaves_a_branch_dead() -> None:
    text = BRANCHES.replace("bool c, ", "").replace("{ y = If", "<bool k = {1}> { c = Not(k) y = If", 1)
    assert swapped(model(text), "Neg", "Abs", x=X).left_out == []  # the then_branch


def test_control_flow_inside_of_control_flow_is_named() -> None:
    inner = BRANCHES[BRANCHES.index("If (c)") : -2]
    text = f"g (bool c, float[3] x) => (float[3] z) {{ z = If (c) <then_branch = o () => (float[3] y) {{ y = {inner} }}, "
    text += "else_branch = p () => (float[3] w) { w = Exp(x) }> }"
    report = swapped(model(text), "Relu", "Abs", c=True, x=np.abs(X))
    assert report.left_out == ['control flow inside of If "z": only what the samples run of it is compared']


def test_what_depends_on_a_condition_that_is_turned_is_computed_anew() -> None:
    @dataclass(frozen=True)
    class Sink(Pass):
        name = "sink"

        def run(self, rewriter: Rewriter, context: Context) -> None:
            (cast,) = [node for node in rewriter.graph.nodes if node.op == "Cast"]
            for node in [node for node in rewriter.graph.walk() if node.op == "Mul"]:
                with rewriter.rewrite("sink", node):
                    inner = rewriter.create("Cast", cast.inputs, cast.attrs).output
                    rewriter.replace_node(node, rewriter.create("Mul", [node.inputs[0], inner]).outputs)

    graph = model(
        "g (bool c, float[3] x) => (float[3] y) { f = Cast<to = 1>(c) y = If (c) "
        "<then_branch = t () => (float[3] a) { a = Mul(x, f) }, else_branch = e () => (float[3] b) { b = Relu(x) }> }"
    )
    context = Context(inputs=[{"c": np.asarray(False), "x": X}])
    report = Pipeline((Sink(),)).run(graph, context=context, verify="numeric")
    assert (report.rewrites, report.left_out, report.rows[0].distance) == (1, [], {"y": 0.0})


def test_a_branch_that_differs_on_what_it_may_never_get_is_named() -> None:
    text = BRANCHES.replace("bool c, ", "").replace(
        "{ y = If", "<float z = {0}> { m = ReduceMin<keepdims = 0>(x) c = Greater(m, z) y = If", 1
    )
    report = swapped(model(text.replace("Neg", "Abs")), "Abs", "Relu", x=X)  # right, as x is positive there
    (found,) = report.left_out
    assert found.startswith(
        'then_branch of If "y": no sample runs it, and made to run it differs, on numbers that it may never get: '
    )
    assert report.rows[0].distance == {"y": 0.0}


def test_a_branch_beside_one_that_captures_more_has_not_changed() -> None:
    @dataclass(frozen=True)
    class Capture(Pass):
        name = "capture"

        def run(self, rewriter: Rewriter, context: Context) -> None:
            _, _, k = rewriter.graph.inputs
            (choice,) = [node for node in rewriter.graph.nodes if node.op == "If"]
            (neg,) = choice.regions["then_branch"]
            with rewriter.rewrite("capture", neg):
                rewriter.replace(neg.output, rewriter.create("Add", [neg.inputs[0], k]).output)

    text = BRANCHES.replace("float[3] x)", "float[3] x, float[3] k)").replace(
        "b = Relu(x)", "r = Relu(x) b = Exp(r)"
    )
    context = Context(inputs=[{"c": np.asarray(True), "x": X, "k": -2 * X}])
    report = Pipeline((Capture(),)).run(model(text), context=context, verify="numeric")
    assert (report.rewrites, report.left_out) == (1, [])
    table = Expressions()
    keys = []
    for captured in (text, text.replace("Neg(x)", "Add(x, k)")):
        ids = table.number(graph := model(captured))
        made = table.table[ids[graph.outputs[0]]]
        assert isinstance(made, Application)
        keys.append(made.region_keys)
    assert keys[0]["else_branch"] == keys[1]["else_branch"]
    assert keys[0]["then_branch"] != keys[1]["then_branch"]


def test_a_region_that_is_replaced_together_with_other_nodes_is_named() -> None:
    @dataclass(frozen=True)
    class Wrong(Pass):
        name = "wrong"

        def run(self, rewriter: Rewriter, context: Context) -> None:
            x = rewriter.graph.inputs[1]
            (relu,) = [node for node in rewriter.graph.nodes if node.op == "Relu"]
            (choice,) = [node for node in rewriter.graph.nodes if node.op == "If"]
            with rewriter.rewrite("wrong", relu):
                (inner,) = [node for node in choice.regions["else_branch"] if node.op == "Relu"]
                rewriter.replace(inner.output, x)
                rewriter.replace(relu.output, choice.output)

    text = BRANCHES.replace("(float[3] y)", "(float[3] z)")[:-1] + " z = Relu(y) }"
    context = Context(inputs=[{"c": np.asarray(True), "x": -np.abs(X)}])
    report = Pipeline((Wrong(),)).run(model(text), context=context, verify="numeric")
    assert report.left_out == [
        'else_branch of If "y": no sample runs it, and the pass put it in the place of something else'
    ]


COUNTDOWN = (
    'l = Loop ("", go, n) <body = b (int64 i, bool again, float h) => (bool on, float next) '
    "{ next = Sub(h, one) s = Cast<to = 9>(next) on = Identity(s) }>"
)


def test_a_branch_with_a_loop_that_no_count_bounds_is_not_made_to_run() -> None:
    text = "g (float n, float[3] x) => (float[3] y) <float zero = {0}, float one = {1}, bool go = {1}> { c = Greater(n, zero) "
    text += f"y = If (c) <then_branch = t () => (float[3] a) {{ {COUNTDOWN} p = Abs(x) a = Mul(p, l) }}, "
    text += "else_branch = e () => (float[3] b) { b = Relu(x) }> }"
    report = swapped(model(text), "Abs", "Neg", n=np.float32(-2.5), x=X)
    assert report.left_out == ['control flow inside of If "y": only what the samples run of it is compared']


# --- what can't be compared -------------------------------------------------------------------------

PARTS = (
    "g (float[n,4] x) => (float[n,4] y, float[n,4] z) {{ a = Relu(x) r = {opaque}(a) z = Exp(r) y = Neg(a) }}"
)
OPAQUE = {
    "RandomNormalLike": 'RandomNormalLike "r" draws random numbers',
    "Bernoulli": 'Bernoulli "r" draws random numbers',
    "custom.Foo": 'no engine can run custom.Foo "r"',
}


def parts(opaque: str) -> Graph:
    from onnx import parser

    from graphopt.onnx_io import load

    head = '<ir_version: 10, opset_import: ["": 20, "custom": 1]> '
    return load(parser.parse_model(head + PARTS.format(opaque=opaque)))


@pytest.mark.parametrize("opaque", OPAQUE)
def test_what_does_not_depend_on_an_opaque_operator_is_verified(opaque: str) -> None:
    report = swapped(parts(opaque), "Sin", "Cos")
    assert report.left_out == [f'{OPAQUE[opaque]}: 2 values come of it, output "z" among them']
    assert [row.unverified for row in report.rows] == [""]
    with pytest.raises(NumericFault, match="%a changed"):
        swapped(parts(opaque), "Relu", "Abs")
    with pytest.raises(NumericFault, match='output "y" changed'):
        swapped(parts(opaque), "Neg", "Abs")
    assert swapped(parts(opaque), "Exp", "Abs").rows[0].rewrites == 1


def test_dropout_that_trains_is_random() -> None:
    text = "g (float[n,4] x) => (float[n,4] y, float[n,4] z) <float r = {0.5}, bool t = {1}> "
    report = swapped(model(text + "{ y = Neg(x) z = Dropout(x, r, t) }"), "Sin", "Cos")
    assert report.left_out == ['Dropout "z" draws random numbers: 1 value comes of it, output "z" among them']


def test_a_value_that_becomes_random_is_a_fault() -> None:
    graph = model("g (float[n,4] x) => (float[n,4] y, float[n,4] z) { y = Neg(x) z = Exp(x) }")
    with pytest.raises(NumericFault, match='output "z" changed'):
        swapped(graph, "Exp", "RandomNormalLike")


def test_what_was_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    api.optimize(parts("Bernoulli"), "O1", verify="numeric")
    api.optimize(model("g (float[2] x) => (float[2] y) { y = Bernoulli(x) }"), "O1", verify="numeric")
    assert [record.message for record in caplog.records] == [
        f'verify="numeric" did not compare: {OPAQUE["Bernoulli"]}: 2 values come of it, output "z" among them',
        'verify="numeric" compared nothing: Bernoulli "y" draws random numbers',
    ]
    api.save(parts("Bernoulli"), tmp_path / "net.onnx")
    words = [str(tmp_path / "net.onnx"), "-o", str(tmp_path / "o.onnx"), "-p", "O1", "--verify", "numeric"]
    done = CliRunner().invoke(opt_command, words)
    assert done.exit_code == 0, done.output
    assert 'note: not compared: Bernoulli "r" draws random numbers: 2 values come of it' in done.stderr


# --- generated samples ------------------------------------------------------------------------------


def wrong_where(is_hidden: Callable[[Node], bool]) -> Pass:
    @dataclass(frozen=True)
    class Wrong(Pass):
        name = "wrong"
        effect = Effect.EXACT

        def run(self, rewriter: Rewriter, context: Context) -> None:
            for node in [node for node in rewriter.graph.nodes if is_hidden(node)]:
                with rewriter.rewrite("wrong", node):
                    rewriter.replace(node.output, node.inputs[0])

    return Wrong()


@pytest.mark.parametrize(
    ("text", "op"),
    [
        # Each is a mistake that a sample of masks of ones, of zeros and ones, or of the default hides.
        ("g (int64[n,8] h, int64[n,8] mask) => (int64[n,8] y) { y = Mul(h, mask) }", "Mul"),
        ("g (int64[n,8] k) => (int64[n,8] y) { y = Abs(k) }", "Abs"),
        ("g (float[n,8] x) => (float[n,8] y) <float[8] b = {0,0,0,0,0,0,0,0}> { y = Add(x, b) }", "Add"),
    ],
)
def test_a_second_sample_shows_what_a_benign_one_hides(text: str, op: str) -> None:
    graph = model(text)
    if op == "Add":
        from onnx import helper

        from graphopt.onnx_io import load, to_proto

        proto = to_proto(graph)
        proto.graph.input.append(helper.make_tensor_value_info("b", 1, [8]))
        graph = load(proto)
        assert [value.name for value in graph.inputs] == ["x", "b"]
    pipeline = Pipeline((wrong_where(lambda node: node.op == op),))
    with pytest.raises(NumericFault, match="changed") as found:
        pipeline.run(graph, verify="numeric")
    assert found.value.mismatches[0].sample == 1


def test_a_model_that_does_not_run_on_the_second_sample_is_verified_on_the_first() -> None:
    graph = model(
        "g (int64[n,8] k, float[2] t) => (float[n,8] y) { a = Add(k, k) b = Sub(a, k) y = Gather(t, b) }"
    )
    report = swapped(graph, "Sin", "Cos")
    assert report.left_out == ["a second, wilder sample: the model does not run on it"]
    assert report.rows[0].unverified == ""


@pytest.mark.parametrize("count", ['""', "most"])
def test_a_loop_that_no_count_bounds_gets_no_second_sample(count: str) -> None:
    graph = model(
        "g (int64[n,8] k) => (int64 l, int64[n,8] y) <int64 one = {1}, int64 most = {9223372036854775807}> "
        "{ y = Neg(k) m = ReduceMin<keepdims = 0>(k) go = Cast<to = 9>(m) "
        f"l = Loop ({count}, go, m) <body = b (int64 i, bool again, int64 h) => (bool on, int64 next) "
        "{ next = Sub(h, one) s = Cast<to = 9>(next) on = Identity(s) }> }"
    )
    report = swapped(graph, "Sin", "Cos")
    assert report.left_out == ["a second, wilder sample: a loop that no count bounds might not end on it"]


def test_a_model_whose_outputs_no_input_changes_lacks_no_second_sample() -> None:
    graph = model("g (float[2] x) => (float[2] y) <float[2] k = {1,2}> { y = Neg(k) }")
    assert swapped(graph, "Sin", "Cos").left_out == []


@pytest.mark.parametrize("more", ["", " z = NonZero(y)"])
def test_a_model_that_takes_long_is_run_once(more: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.pipeline import numeric

    monkeypatch.setattr(numeric, "DEAR", 10)
    outputs = "float[4,8] y, int64[2,k] z" if more else "float[4,8] y"
    graph = model(f"g (float[4,8] x, bool c) => ({outputs}) {{ y = Neg(x){more} }}")
    report = swapped(graph, "Sin", "Cos")
    assert report.left_out == ["a second, wilder sample: a run takes 3.2e+01 operations"]


def test_generated_sizes_fit_the_types() -> None:
    """ONNX Runtime runs a window that is larger than its input; artifacts, and the types, do not know that."""
    graph = model(
        "g (float[1,1,h,2] x) => (float[1,1,k,2] y) { y = MaxPool<kernel_shape=[64,1], strides=[64,1]>(x) }"
    )
    for sample in checker_of(graph, []).values.samples:
        assert sample["x"].shape[2] >= 64
