"""A report as one HTML file that needs nothing else: plots as inline SVG, tables, machine, command."""

from __future__ import annotations

from html import escape

from graphopt.bench.compare import Comparison, EngineResult
from graphopt.bench.plot import svg_plot
from graphopt.bench.report import Report
from graphopt.page.html import page
from graphopt.units import counted

_STYLE = """
:root { --engine0: #2a78d6; --engine1: #d95926; --engine2: #1a9a6b; --engine3: #8a63c7; --engine4: #a8801c; }
@media (prefers-color-scheme: dark) { :root { --engine0: #5598e7; --engine1: #ee8250; --engine2: #35b886;
  --engine3: #ab8de0; --engine4: #c9a24a; } }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; width: 100%; }
.wide { overflow-x: auto; } th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid var(--line); color: var(--soft); font-weight: 500; }
th.name, td.name { text-align: left; } tr.first td { border-top: 1px solid var(--line); }
.soft, .soft td { color: var(--soft); } .best { font-weight: 650; } pre { overflow-x: auto; } svg { width: 100%; height: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dt { color: var(--soft); }
dd { margin: 0; }
"""

_COLUMNS = (
    "model", "engine", "ms", "spread", "ratio", "error", "first call ms", "load ms", "compile s", "memory MB",
    "disk MB",
)  # fmt: skip


def html_page(report: Report) -> str:
    """The page of a report; the first engine of the comparisons is the one that the others are set beside."""
    subject = next(iter(report.engines))
    parts = [
        f"<h1>{escape(report.engines[subject])} and other engines</h1>",
        f"<p>Milliseconds per call, the median of {counted(report.rounds, 'round')} of {report.seconds:g} s. Each engine "
        "has a process of its own and is alone while it is timed; rounds alternate. The spread is the "
        "slowest round minus the fastest, as a share of the median. The ratio is an engine's time by that "
        "of the fastest other engine, the error the largest difference from ONNX Runtime without "
        "optimizations as a share of the largest output. Memory is the peak above what importing the "
        "engine takes.</p>",
    ]
    for threads in report.threads:
        comparisons = report.of_threads(threads)
        parts.append(f"<h2>{threads} {'thread' if threads == 1 else 'threads'}</h2>")
        mean = report.mean_ratio(subject, threads)
        if mean is not None:
            parts.append(
                f"<p>Geometric mean of the ratios of {escape(subject)}: <span class=best>{mean:.2f}</span> "
                f"over {len(comparisons)} {'model' if len(comparisons) == 1 else 'models'}.</p>"
            )
        parts.append(svg_plot(comparisons, report.engines))
        parts.append(_table(comparisons))
    parts += [f"<p>Not measured: {escape(text)}</p>" for text in report.failed]
    parts += ["<h2>How to measure again</h2>", f"<pre>{escape(report.command)}</pre>", "<dl>"]
    for name, value in {**report.machine, "day": report.day}.items():
        parts.append(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>")
    parts += [f"<dt>{escape(name)}</dt><dd>{escape(title)}</dd>" for name, title in report.engines.items()]
    return page("Benchmark", "\n".join([*parts, "</dl>"]), style=_STYLE)


def _table(comparisons: list[Comparison]) -> str:
    lines = ['<div class="wide"><table><tr>']
    lines += [f"<th{_left(column)}>{column}</th>" for column in _COLUMNS]
    lines.append("</tr>")
    for comparison in comparisons:
        for index, result in enumerate(comparison.results):
            cells = _row(comparison, result)
            kinds = ["first"] * (index == 0) + ["soft"] * (not result.comparable)
            lines.append(f'<tr class="{" ".join(kinds)}">')
            shown = [comparison.model if index == 0 else "", *cells]
            if result.note:
                lines.append(
                    f'<td class="name">{escape(shown[0])}</td><td class="name">{escape(cells[0])}</td>'
                )
                lines.append(f'<td class="name" colspan="{len(_COLUMNS) - 2}">{escape(result.note)}</td>')
            else:
                lines += [
                    f"<td{_left(column)}>{escape(cell)}</td>"
                    for column, cell in zip(_COLUMNS, shown, strict=True)
                ]
            lines.append("</tr>")
    return "\n".join([*lines, "</table></div>"])


def _left(column: str) -> str:
    return ' class="name"' if column in ("model", "engine") else ""


def _row(comparison: Comparison, result: EngineResult) -> list[str]:
    """The cells of a table's row: engine, ms, spread, ratio, error, first, load, compile, memory, disk."""
    if result.note:
        return [result.title, *[""] * 9]
    ratio = comparison.ratio(result.engine)
    error = "" if result.max_error is None else f"{result.max_error:.1e}"
    return [
        result.title,
        f"{result.median:.3f}",
        f"{result.spread:.0%}",
        "lower precision" if result.lower_precision else "" if ratio is None else f"{ratio:.2f}",
        error,
        f"{result.first_ms:.1f}",
        f"{result.load_seconds * 1e3:.0f}",
        "" if result.compile_seconds is None else f"{result.compile_seconds:.1f}",
        f"{result.peak_bytes / 1e6:.1f}",
        f"{result.disk_bytes / 1e6:.1f}",
    ]
