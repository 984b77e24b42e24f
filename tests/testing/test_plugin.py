"""The pytest plugin, in sessions of its own."""

from __future__ import annotations

import subprocess
import sys

# Pytester forgets what was loaded in a session, and these can't be loaded twice.
import ml_dtypes  # noqa: F401
import numpy as np  # noqa: F401
import onnx  # noqa: F401
import onnxruntime  # noqa: F401
import pytest

pytest_plugins = ["pytester"]

GRAPH = "input %x: f32[n, 4]  %y = Relu(%x)  return %y"


def test_golden_graphs(pytester: pytest.Pytester) -> None:
    test = """
        def test_small(golden_graph):
            golden_graph({graph!r})
    """
    pytester.makepyfile(test_it=test.format(graph=GRAPH))
    failed = pytester.runpytest_inprocess()
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(["*test_small.gir (--update-golden writes it anew): there is no such file"])

    pytester.runpytest_inprocess("--update-golden").assert_outcomes(passed=1)
    written = pytester.path / "golden" / "test_it" / "test_small.gir"
    assert "Relu(%x)" in written.read_text()
    pytester.runpytest_inprocess().assert_outcomes(passed=1)

    # Other names are the same graph: nothing is written anew.
    before = written.stat().st_mtime_ns
    pytester.makepyfile(
        test_it=test.format(
            graph=GRAPH.replace("%y", "%other").replace("return %other", 'return %other as "y"')
        )
    )
    pytester.runpytest_inprocess("--update-golden").assert_outcomes(passed=1)
    assert written.stat().st_mtime_ns == before

    pytester.makepyfile(test_it=test.format(graph=GRAPH.replace("Relu", "Tanh")))
    failed = pytester.runpytest_inprocess()
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(["*the graphs differ (- expected, + actual):*"])
    pytester.runpytest_inprocess("--update-golden").assert_outcomes(passed=1)
    assert "Tanh(%x)" in written.read_text()


def test_golden_files_are_not_shared(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it=f"""
        GRAPH = {GRAPH!r}

        class TestA:
            def test_x(self, golden_graph):
                golden_graph(GRAPH)

        class TestB:
            def test_x(self, golden_graph):
                golden_graph(GRAPH.replace("Relu", "Tanh"))

        def test_twice(golden_graph):
            golden_graph(GRAPH, "named.gir")
            golden_graph(GRAPH)
            golden_graph(GRAPH.replace("Relu", "Tanh"))
        """
    )
    first = pytester.runpytest_inprocess("--update-golden")
    first.assert_outcomes(passed=2, failed=1)
    first.stdout.fnmatch_lines(
        ["*UsageError: test_twice.gir holds the first graph of this test: give a path"]
    )
    folder = pytester.path / "golden" / "test_it"
    assert sorted(file.name for file in folder.iterdir()) == [
        "TestA.test_x.gir", "TestB.test_x.gir", "test_twice.gir",
    ]  # fmt: skip
    pytester.runpytest_inprocess().assert_outcomes(passed=2, failed=1)

    (folder / "TestA.test_x.gir").write_text("gir 1\n<<<<<<< ours\n")
    failed = pytester.runpytest_inprocess("-k", "TestA")
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(
        ["*AssertionError: TestA.test_x.gir (--update-golden writes it anew): *line 2*"]
    )
    pytester.runpytest_inprocess("-k", "TestA", "--update-golden").assert_outcomes(passed=1)
    assert "Relu(%x)" in (folder / "TestA.test_x.gir").read_text()


def test_golden_texts(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_text(golden_graph):
            golden_graph.text("a\\nb\\n", "some.txt")
        """
    )
    pytester.runpytest_inprocess("--update-golden").assert_outcomes(passed=1)
    assert (pytester.path / "some.txt").read_text() == "a\nb\n"
    (pytester.path / "some.txt").write_text("a\nc\n")
    failed = pytester.runpytest_inprocess()
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(["*some.txt*", "*-c", "*+b"])


def test_marked_tests_verify_their_graphs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"""
        from dataclasses import dataclass
        import pytest
        import graphopt as go
        from graphopt.rewrite import Rule, op, var
        from graphopt.testing import graph_of

        @go.register_pass("plugin-test-fault")
        @dataclass(frozen=True)
        class Fault(go.PatternPass):
            "Takes Relu for Abs."

            def rules(self):
                return [Rule("fault", op("Relu", var("x")), lambda r, m: r.create("Abs", [m["x"]]).output)]

        @pytest.fixture
        def model():
            return graph_of({GRAPH!r})

        @pytest.mark.graphopt_verify("O2")
        def test_right(model):
            assert [node.op for node in model.nodes] == ["Relu"]

        @pytest.mark.graphopt_verify("O1,plugin-test-fault")
        def test_wrong(model):
            pass

        @pytest.mark.graphopt_verify("O1")
        def test_without_a_graph(tmp_path):
            pass
        """
    )
    done = pytester.runpytest_inprocess("--strict-markers")
    done.assert_outcomes(passed=1, failed=2)
    done.stdout.fnmatch_lines(['*model: pass "plugin-test-fault": output "y" changed by*'])
    done.stdout.fnmatch_lines(
        ["*takes the text of a pipeline, and the test a Graph among its arguments*tmp_path*"]
    )


def test_marked_tests_say_what_could_not_be_compared(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from graphopt.testing import graph_of

        @pytest.fixture(params=["return %a, %r", "return %r"])
        def model(request):
            random = "RandomNormalLike(%x)"
            return graph_of(f"input %x: f32[4] %a: f32[4] = Relu(%x) %r: f32[4] = {random} {request.param}")

        @pytest.mark.graphopt_verify("O1")
        def test_it(model):
            pass
        """
    )
    done = pytester.runpytest_inprocess("--strict-markers")
    done.assert_outcomes(passed=1, failed=1, warnings=1)
    done.stdout.fnmatch_lines(["*model: not compared: RandomNormalLike*draws random numbers*"])
    done.stdout.fnmatch_lines(["*model can't be verified: RandomNormalLike*draws random numbers*"])


def test_the_plugin_costs_pytest_nothing() -> None:
    """Where no test asks for it, nothing but this one module and the light top of graphopt is loaded."""
    code = (
        "import sys, pytest\n"
        "before = set(sys.modules)\n"
        "import graphopt.testing.plugin\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"graphopt", "graphopt.testing", "graphopt.testing.plugin"}
