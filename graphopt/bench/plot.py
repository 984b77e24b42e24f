"""Times of engines relative to each other as a dot plot, in SVG of our own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from graphopt.bench.compare import Comparison, EngineResult

_WIDTH, _LEFT, _RIGHT, _TOP = 920, 210, 20, 44
_STEP, _GAP = 15, 12
_TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)


def svg_plot(comparisons: Sequence[Comparison], engines: Mapping[str, str]) -> str:
    """A dot for the median of each engine and a line from its fastest to its slowest round.

    The axis is logarithmic and relative: 1 is the fastest engine other than the first one.
    """
    colours = {name: f"var(--engine{index % 5})" for index, name in enumerate(engines)}
    rows = [(c, unit, [r for r in c.results if r.rounds]) for c in comparisons if (unit := _unit(c))]
    if not rows:
        return ""
    values = [time / unit for _, unit, results in rows for result in results for time in result.rounds]
    low, high = min(*values, 0.7) / 1.1, max(*values, 1.5) * 1.1
    height = _TOP + sum(_STEP * len(results) + _GAP for _, _, results in rows) + 30

    def across(value: float) -> float:
        share = math.log(value / low) / math.log(high / low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" font-size="12" fill="currentColor" '
        'aria-label="time of each engine by that of the fastest engine beside the first">',
        *_legend(engines, colours),
        *_axis(across, low, high, height),
    ]
    y = _TOP + _GAP
    for comparison, unit, results in rows:
        middle = y + _STEP * (len(results) - 1) / 2 + 4
        parts.append(
            f'<text x="{_LEFT - 14}" y="{middle:.1f}" text-anchor="end">{escape(comparison.model)}</text>'
        )
        for result in results:
            parts.append(_mark(result, unit, across, y, colours[result.engine]))
            y += _STEP
        y += _GAP
    return "\n".join([*parts, "</svg>"])


def _unit(comparison: Comparison) -> float | None:
    """The time that counts as 1: of the fastest comparable engine behind the first, or of the first."""
    times = [result.median for result in comparison.results[1:] if result.comparable]
    times = times or [result.median for result in comparison.results[:1] if result.rounds]
    return min(times, default=None)


def _legend(engines: Mapping[str, str], colours: Mapping[str, str]) -> list[str]:
    parts, x = [], _LEFT
    for name, title in engines.items():
        parts.append(f'<circle cx="{x}" cy="12" r="5" fill="{colours[name]}"/>')
        parts.append(f'<text x="{x + 10}" y="16">{escape(title)}</text>')
        x += 30 + 7 * len(title)
    return parts


def _axis(across: Callable[[float], float], low: float, high: float, height: int) -> list[str]:
    parts = []
    for tick in _TICKS:
        if low <= tick <= high:
            x = across(tick)
            width = 'stroke="currentColor"' if tick == 1 else 'stroke="var(--line)"'
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 8}" y2="{height - 26}" {width}/>')
            parts.append(
                f'<text x="{x:.1f}" y="{height - 10}" text-anchor="middle" fill="var(--soft)">{tick:g}×</text>'
            )
    return parts


def _mark(result: EngineResult, unit: float, across: Callable[[float], float], y: float, colour: str) -> str:
    low, middle, high = (across(t / unit) for t in (min(result.rounds), result.median, max(result.rounds)))
    fill = "var(--ground)" if result.lower_precision else colour
    said = f"{result.title}: {result.median:.3f} ms, {result.median / unit:.2f}×"
    said += ", lower precision" if result.lower_precision else ""
    return (
        f'<g stroke="{colour}" stroke-width="2"><title>{escape(said)}</title>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'
        f'<circle cx="{middle:.1f}" cy="{y}" r="5" fill="{fill}"/></g>'
    )
