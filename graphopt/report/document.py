"""The page: a section for each thing, of which one is seen at a time."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from graphopt.page import asset, page
from graphopt.report.html import tag, wrap
from graphopt.report.passes import passes_section
from graphopt.report.recording import Run

LARGEST_DRAWN = 5000
"""Nodes of a graph up to which it is drawn."""
_LINES = 400
"""Lines that say what changed, where graphs are not drawn."""


def html_page(model: str, runs: Sequence[Run], *, artifact: Path | None = None) -> str:
    """A page that needs nothing else.

    Args:
        model: what was optimized, such as the name of a file.
        runs: one for each target.
        artifact: the artifact that was written, when code was built.
    """
    sections: list[str] = []
    drawings: dict[str, Any] = {}
    for number, run in enumerate(runs):
        about = f" · {_short(run)}" if len(runs) > 1 else ""
        sections.append(_section(f"passes{number or ''}", f"Passes{about}", passes_section(run)))
        graphs, drawing = _graphs(run, f"pair{number}")
        sections.append(_section(f"graphs{number or ''}", f"Graphs{about}", graphs))
        drawings |= {f"pair{number}": drawing} if drawing else {}
        if run.build is not None:
            from graphopt.report.kernels import files_section, kernels_section

            text = kernels_section(run, run.build) + (files_section(artifact) if artifact is not None else "")
            sections.append(_section(f"kernels{number or ''}", f"Kernels{about}", text))
    title = f"{model} → {artifact.name}" if artifact is not None else model
    head = [tag("h1", title), tag("span", "graphopt report", "soft"), '<nav role="tablist"></nav>']
    body = [wrap("header", head), *sections, wrap("footer", [_pipeline(runs)])]
    return page(
        f"{title} · graphopt report", "\n".join(body), style=asset("report.css"), scripts=[asset("report.js")],
        data=drawings,
    )  # fmt: skip


def _section(name: str, title: str, inside: str) -> str:
    heading = tag("h2", title)
    return f'<section id="panel-{name}" data-name="{name}" data-title="{escape(title)}">{heading}{inside}</section>'


def _short(run: Run) -> str:
    """A target as a tab has room for."""
    return run.build.variant.target.partition("{")[0].partition("+")[0] if run.build is not None else "graph"


def _pipeline(runs: Sequence[Run]) -> str:
    from importlib.metadata import version

    text = runs[0].report.pipeline.replace(",", ", ") if runs else ""
    return tag("span", f"graphopt {version('graphopt')}") + (
        tag("code", text, title="the pipeline") if text else ""
    )


def _graphs(run: Run, name: str) -> tuple[str, str]:
    """The section on graphs, and the page of the two drawings that it frames; empty for graphs too large."""
    from graphopt.diff import diff

    found = diff(run.before, run.after)
    sizes = [sum(1 for _ in graph.walk()) for graph in (run.before, run.after)]
    if max(sizes) > LARGEST_DRAWN:
        said = f"The graphs have {sizes[0]:,} and {sizes[1]:,} nodes; above {LARGEST_DRAWN:,} they are not drawn."
        return tag("p", f"{said} What differs:") + tag("pre", found.text(limit=_LINES)), ""
    from graphopt.diff.page import pair

    drawing = pair(found, ("before", "after"))
    frame = f'<iframe data-page="{name}" title="the graph before and after"></iframe>'
    return f"{frame}<noscript>The graphs are drawn with JavaScript.</noscript>", drawing.html()
