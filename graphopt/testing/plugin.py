"""The pytest plugin: golden graphs, and graphs verified on their way through a pipeline.

It is loaded wherever graphopt and pytest are installed, so what it needs is imported when a test uses it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph

MARKER = "graphopt_verify"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--update-golden``."""
    parser.getgroup("graphopt").addoption(
        "--update-golden",
        action="store_true",
        help="write golden graphs anew where they differ; review the diff",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declares the marker."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(pipeline): runs every graph among the test's arguments through the pipeline first, with its "
        "numbers verified after each pass",
    )


class GoldenGraph:
    """Compares graphs with files, and writes the files when pytest was given ``--update-golden``."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._update = bool(request.config.getoption("--update-golden"))
        test: Path = request.path
        words = request.node.nodeid.partition("::")[2].replace("::", ".")  # classes count
        name = "".join(c if c.isalnum() or c in "-_.[]" else "_" for c in words)
        self._default = test.with_name("golden") / test.stem / f"{name}.gir"
        self._is_taken = False

    def __call__(
        self,
        graph: Any,
        path: str | Path | None = None,
        *,
        weights: Any = "exact",
        names: bool = True,
    ) -> None:
        """Asserts that ``graph`` equals the one in a file.

        Args:
            graph: a graph, or anything that :func:`graphopt.testing.graph_of` takes.
            path: by default ``golden/TEST FILE/TEST.gir`` beside the test, ``CLASS.TEST.gir`` in a class; for one
                graph of a test.
            weights, names: see :func:`graphopt.testing.assert_graphs_equal`.

        Raises:
            AssertionError: they differ, or there is no such file, or none that can be read.
            UsageError: a second graph of a test without a path.
        """
        from graphopt.errors import GraphoptError
        from graphopt.ir.text import load_gir, save_gir
        from graphopt.testing import assert_graphs_equal, graph_of

        if path is None and self._is_taken:
            raise pytest.UsageError(f"{self._default.name} holds the first graph of this test: give a path")
        self._is_taken |= path is None
        file, actual = Path(path or self._default), graph_of(graph)
        if file.exists():
            try:
                expected = load_gir(file)
            except GraphoptError as error:
                self._fail(file, str(error))
            else:
                try:
                    assert_graphs_equal(actual, expected, weights=weights, names=names)
                    return
                except AssertionError as error:
                    self._fail(file, str(error))
        else:
            self._fail(file, "there is no such file")
        file.parent.mkdir(parents=True, exist_ok=True)
        save_gir(actual, file)

    def text(self, text: str, path: str | Path, differences: Callable[[str, str], str] | None = None) -> None:
        """Asserts that ``text``, made of a graph in a way of the test's own, is the one in a file.

        Args:
            differences: (text, text of the file) -> in words what differs, "" if nothing that counts.

        Raises:
            AssertionError: they differ, or there is no such file.
        """
        from graphopt.ir.files import replacing

        file = Path(path)
        expected = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
        found = differences(text, expected) if differences is not None else _lines_differ(text, expected)
        if found:
            self._fail(file, found)
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as partial:
                partial.write_text(text, encoding="utf-8", newline="\n")

    def _fail(self, file: Path, reason: str) -> None:
        """Raises, unless golden files are being written anew."""
        if not self._update:
            raise AssertionError(f"{file.name} (--update-golden writes it anew): {reason[:4000]}")


def _lines_differ(text: str, expected: str) -> str:
    import difflib

    lines = difflib.unified_diff(
        expected.splitlines(), text.splitlines(), "expected", "actual", lineterm="", n=1
    )
    return "\n".join(lines)


@pytest.fixture
def golden_graph(request: pytest.FixtureRequest) -> GoldenGraph:
    """Compares graphs with files beside the test; see :class:`GoldenGraph`."""
    return GoldenGraph(request)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Before a marked test: its graphs go through the pipeline."""
    marker = pyfuncitem.get_closest_marker(MARKER)
    if marker is not None:
        _verify_all(marker, pyfuncitem.funcargs)
    return (yield)


def _verify_all(marker: pytest.Mark, arguments: dict[str, Any]) -> None:
    from graphopt.ir.graph import Graph

    graphs = {name: value for name, value in arguments.items() if isinstance(value, Graph)}
    if len(marker.args) != 1 or not isinstance(marker.args[0], str) or not graphs:
        given = ", ".join(arguments) or "none"
        raise pytest.UsageError(
            f"@pytest.mark.{MARKER} takes the text of a pipeline, and the test a Graph among its arguments "
            f"(a fixture or a parameter); the arguments are {given}"
        )
    for name, graph in graphs.items():
        _verify(name, graph, marker.args[0])


def _verify(name: str, graph: Graph, pipeline: str) -> None:
    from graphopt.errors import VerifyError
    from graphopt.ir.builder import copy_graph
    from graphopt.pipeline import Pipeline

    try:
        report = Pipeline.parse(pipeline).run(copy_graph(graph), verify="numeric")
    except VerifyError as error:
        raise AssertionError(f"{name}: {error}") from error
    if report.unverified:
        raise AssertionError(f"{name} can't be verified: {report.unverified}")
    for text in report.left_out:
        warnings.warn(pytest.PytestWarning(f"{name}: not compared: {text}"), stacklevel=2)
