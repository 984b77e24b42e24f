"""Running pipelines: order, reports, fuel, dumps, instruments, structural verification, failures."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
from pass_samples import Lossy, Swap, do, graph_of, ops

from graphopt.errors import GraphoptError, PassError, TypeInferenceError, VerifyError
from graphopt.ir.builder import copy_graph
from graphopt.ir.equality import graphs_equal
from graphopt.ir.graph import Graph
from graphopt.ir.rewriter import Rewriter
from graphopt.ir.text import load_gir
from graphopt.ir.types import tensor
from graphopt.ir.verifier import verify
from graphopt.pipeline import Context, Instrument, Pass, PassRun, Pipeline

BODY = '%a: T = Neg(%x)\n%b: T = Neg(%a) "keep"\n%c: T = Relu(%b)\n%r: T = Neg(%c)'


def test_the_report_tells_what_each_pass_did() -> None:
    graph = graph_of("const %k: f32[2] = [1.0, 2.0]\n" + BODY)
    report = Pipeline((Swap(), Lossy(new="Sqrt"), Swap(old="Abs", new="Neg"))).run(graph)
    first, second, third = report.rows
    assert (first.spec, first.effect, first.rewrites) == ("swap", "exact", 2)
    assert (first.nodes_before, first.nodes_after) == (4, 4)
    assert (first.constant_bytes_before, first.constant_bytes_after) == (8, 8)
    count = first.rules.rules["swap-op"]
    assert (count.attempts, count.hits) == (3, 2)
    assert count.as_dict()["refusals"] == [{"reason": "marked keep", "count": 1}]
    assert (second.effect, second.rewrites, third.rewrites) == ("lossy", 0, 2)
    assert 0 < first.seconds <= report.seconds
    assert report.rewrites == 4
    assert ops(graph) == ["Neg", "Neg", "Relu", "Neg"]
    assert json.loads(json.dumps(report.as_dict()))["passes"][0]["rules"]["swap-op"]["hits"] == 2


def test_fuel_is_for_the_whole_pipeline_and_ends_passes_quietly() -> None:
    whole = graph_of(BODY)
    pipeline = Pipeline((Swap(), Swap(old="Relu", new="Sqrt")))
    total = pipeline.run(whole).rewrites
    assert total == 3
    for fuel in range(total + 2):
        graph = graph_of(BODY)
        report = pipeline.run(graph, fuel=fuel)
        assert report.rewrites == min(fuel, total)
        verify(graph)
    graph = graph_of(BODY)
    report = pipeline.run(graph, fuel=1)
    assert ops(graph) == ["Abs", "Neg", "Relu", "Neg"]
    assert [row.out_of_fuel for row in report.rows] == [True, True]


def test_the_same_run_gives_the_same_graph_and_counts() -> None:
    graphs = [graph_of(BODY), graph_of(BODY)]
    reports = [Pipeline((Swap(),)).run(graph) for graph in graphs]
    assert graphs_equal(*graphs) is None
    assert reports[0].rows[0].rules.rules["swap-op"].hits == reports[1].rows[0].rules.rules["swap-op"].hits


def test_dumps_are_numbered_and_parse(tmp_path: Path) -> None:
    graph = graph_of(BODY)
    before = copy_graph(graph)
    Pipeline((Swap(), Lossy())).run(graph, dump_dir=tmp_path / "new" / "folder")
    files = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert files == ["000_input.gir", "001_swap.gir", "002_lossy.gir"]
    assert graphs_equal(load_gir(tmp_path / "new" / "folder" / files[0]), before) is None
    assert graph.metadata == {"graphopt.pipeline": "swap,lossy"}
    graph.metadata["graphopt.pipeline"] = "swap"
    assert graphs_equal(load_gir(tmp_path / "new" / "folder" / files[1]), graph) is None


class Tape(Instrument):
    def __init__(self, skip: str = "") -> None:
        self.skip = skip
        self.log: list[str] = []

    def should_run(self, pass_: Pass, graph: Graph) -> bool:
        return pass_.name != self.skip

    def begin(self, graph: Graph) -> None:
        self.log.append("begin")

    def before(self, run: PassRun) -> None:
        self.log.append(f"before {run.pass_.name}")

    def after(self, run: PassRun) -> None:
        self.log.append(f"after {run.pass_.name}: {run.row.rewrites}, {run.row.seconds > 0}")

    def end(self, graph: Graph) -> None:
        self.log.append("end")


def test_instruments_hear_of_passes_and_can_skip_them() -> None:
    tape, other, calls = Tape(skip="lossy"), Tape(), []
    report = Pipeline((Swap(), Lossy(old="Relu"))).run(
        graph_of(BODY), instruments=[tape, other], progress=lambda *call: calls.append(call)
    )
    assert tape.log == other.log == ["begin", "before swap", "after swap: 2, True", "end"]
    assert [row.skipped for row in report.rows] == [False, True]
    assert calls == [(0, 2, "swap"), (1, 2, "lossy")]


@pytest.mark.parametrize("hook", ["should_run", "begin", "before", "after", "end"])
def test_a_fault_of_an_instrument_is_told_with_its_line(hook: str) -> None:
    class Clumsy(Instrument):
        pass

    def fail(*arguments: object) -> None:
        raise KeyError("lost")

    clumsy = Clumsy()
    setattr(clumsy, hook, fail)
    with pytest.raises(PassError, match=r"instrument Clumsy: KeyError: 'lost' \(.*test_runner.py:\d+\)"):
        Pipeline((Swap(),)).run(graph_of(BODY), instruments=[clumsy])


def test_a_pass_can_note_facts_for_the_report() -> None:
    def note(rewriter: Rewriter, context: Context) -> None:
        context.notes["pruned"] = 3
        context.logger.info("seed %d", context.seed)

    report = Pipeline((do(note), do(lambda rewriter, context: None))).run(
        graph_of(BODY), context=Context(seed=7, logger=logging.getLogger("t"))
    )
    assert [row.notes for row in report.rows] == [{"pruned": 3}, {}]


def test_a_fault_of_a_pass_names_pass_rule_and_node_and_keeps_what_was_committed() -> None:
    def fail(rewriter: Rewriter, context: Context) -> None:
        first, second, *_ = rewriter.graph.nodes
        with rewriter.rewrite("good", first):
            rewriter.set_attr(first, "done", 1)
        with rewriter.rewrite("bad", second):
            rewriter.set_attr(second, "half", 1)
            raise IndexError("oops")

    graph = graph_of(BODY)
    with pytest.raises(PassError) as caught:
        Pipeline((do(fail),)).run(graph)
    said, _, place = caught.value.message.rpartition(" (")
    assert said == 'pass "do": rule "bad" failed at Neg "keep": IndexError: oops'
    assert re.fullmatch(r".*pass_samples\.py:\d+\)", place)  # the class's file, though a helper raised it
    assert isinstance(caught.value.__cause__, IndexError)
    assert [node.attrs for node in graph.nodes[:2]] == [{"done": 1}, {}]
    verify(graph)


def test_an_error_of_graphopt_keeps_its_kind_and_gains_the_place() -> None:
    def fail(rewriter: Rewriter, context: Context) -> None:
        with rewriter.rewrite("reshape", rewriter.graph.nodes[0]):
            raise TypeInferenceError("ranks differ")

    with pytest.raises(TypeInferenceError) as caught:
        Pipeline((do(fail),)).run(graph_of(BODY))
    assert caught.value.message == 'pass "do": rule "reshape" failed at Neg "a": ranks differ'


def wrong_type(rewriter: Rewriter, context: Context) -> None:
    node = rewriter.graph.nodes[1]
    with rewriter.rewrite("retype", node):
        rewriter.set_type(node.output, tensor("i64", 2))


def behind_the_gate(rewriter: Rewriter, context: Context) -> None:
    rewriter.graph.nodes[1].output.type = tensor("i64", 2)


def test_a_pass_that_breaks_the_graph_is_found_out_at_once() -> None:
    graph = graph_of(BODY)
    with pytest.raises(VerifyError) as caught:
        Pipeline((Swap(), do(wrong_type), Swap())).run(graph)
    assert caught.value.message.startswith('pass "do": the graph is not valid: ')
    assert '  %b: i64[2] = Neg(%a) "keep"\n> %c: f32[2] = Relu(%b)' in caught.value.message


def test_a_change_behind_the_rewriter_is_found_at_the_end() -> None:
    with pytest.raises(VerifyError, match="the graph is not valid"):
        Pipeline((do(behind_the_gate),)).run(graph_of(BODY))


def test_verification_can_be_switched_off() -> None:
    Pipeline((do(wrong_type),)).run(graph_of(BODY), verify="off")


def test_every_error_of_a_run_is_one_of_ours() -> None:
    def fail(rewriter: Rewriter, context: Context) -> None:
        raise KeyError("x")

    with pytest.raises(GraphoptError, match='pass "do": KeyError'):
        Pipeline((do(fail),)).run(graph_of(BODY))


def test_a_pass_can_not_end_the_process() -> None:
    def leave(rewriter: Rewriter, context: Context) -> None:
        raise SystemExit(0)

    with pytest.raises(PassError, match=r'pass "do": SystemExit: 0 \(.*pass_samples.py:\d+\)') as caught:
        Pipeline((do(leave),)).run(graph_of(BODY))
    assert "GRAPHOPT_DEBUG" in (caught.value.hint or "")


def test_the_model_remembers_the_passes_of_every_run() -> None:
    graph = graph_of(BODY)
    Pipeline((Swap(),)).run(graph)
    Pipeline((Lossy(new="Sqrt"), do(lambda rewriter, context: None))).run(graph)
    assert graph.metadata == {"graphopt.pipeline": "swap,lossy{new=Sqrt},do"}
    untouched = graph_of(BODY)
    Pipeline(()).run(untouched)
    assert untouched.metadata == {}
