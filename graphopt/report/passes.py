"""The section on passes: a row for each, which opens to its rules and what was measured."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.pipeline import PassRow, Report
from graphopt.report.html import bar, card, table, tag, wrap
from graphopt.report.recording import Run
from graphopt.units import counted, human_bytes, human_count

_MOST_VALUES = 12
"""Values whose distance is shown, the largest first."""
_HEAD = ("", "pass", "nodes", "constants", "operations", "rewrites", "time", "distance")


def passes_section(run: Run) -> str:
    """Cards for the whole pipeline and a row for each pass."""
    rows = run.report.rows
    most = max((max(row.nodes_before, row.nodes_after) for row in rows), default=0)
    slowest = max((row.seconds for row in rows), default=0.0)
    idle = sum(_is_idle(row) for row in rows)
    parts = [_cards(run)]
    if idle:
        parts.append(
            f'<label class="quiet"><input type="checkbox"> hide {idle} {"pass" if idle == 1 else "passes"} '
            "that changed nothing</label>"
        )
    head = wrap("div", (tag("span", name) for name in _HEAD), "row head")
    body = (_pass(row, run, most or 1, slowest or 1.0) for row in rows)
    parts.append(wrap("div", [wrap("div", [head, *body], "passes")], "wide"))
    parts.append(tag("p", _footnote(run), "soft"))
    return "".join(parts)


def _is_idle(row: PassRow) -> bool:
    return not row.rewrites


def _cards(run: Run) -> str:
    rows = run.report.rows
    if not rows:
        return tag("p", "The pipeline has no passes.", "soft")
    ran = [row for row in rows if not row.skipped] or rows
    first, last = ran[0], ran[-1]
    before, after = run.flops.get(-1), run.flops.get(last.index)
    cards = [
        _change("Nodes", first.nodes_before, last.nodes_after, str, _outside(run)),
        _change("Constants", first.constant_bytes_before, last.constant_bytes_after, human_bytes),
    ]
    if before is not None and after is not None:
        cards.append(_change("Operations", before, after, human_count, _at(run)))
    cards.append(card("Rewrites", str(run.report.rewrites), f"by {counted(_rules(rows), 'rule')}"))
    checking = sum(row.verify_seconds for row in rows)
    note = f"and {seconds(checking)} to verify" if checking else ""
    cards.append(card("Passes took", seconds(sum(row.seconds for row in rows)), note))
    cards.append(_verified(run.report))
    return wrap("div", cards, "cards")


def _rules(rows: list[PassRow]) -> int:
    return len({name for row in rows for name, count in row.rules.rules.items() if count.hits})


def _change(name: str, before: int, after: int, text: Callable[[int], str], about: str = "") -> str:
    change = f"{after / before - 1:+.0%}".replace("-", "−") if before and after != before else "unchanged"
    if change in ("+0%", "−0%"):
        change = "about the same"
    shown = text(after) if text(before) == text(after) else f"{text(before)} → {text(after)}"
    return card(name, shown, f"{change}, {about}" if about else change)


def _at(run: Run) -> str:
    """Which sizes are counted with; a card has no room for many."""
    if len(run.sizes) > 1:
        return "at 1 for every open size"
    return "".join(f"at {name} = {size}" for name, size in run.sizes.items())


def _outside(run: Run) -> str:
    """How many nodes there are when a fused region counts as one."""
    fused = any(node.is_fused for node in run.after.nodes)
    return f"{len(run.after.nodes)} when a fused region is one" if fused else ""


def _verified(report: Report) -> str:
    if report.verify != "numeric":
        value = "off" if report.verify == "off" else "structure"
        return card("Verification", value, "--verify numeric compares values too")
    if report.unverified:
        return card("Verification", "not possible", report.unverified)
    worst = max((max(row.distance.values()) for row in report.rows if row.distance), default=0.0)
    about = "every pass within its tolerance"
    if report.left_out:
        about += f"; not compared: {'; '.join(report.left_out)}"
    return card("Largest distance", _number(worst), about)


def _footnote(run: Run) -> str:
    text = "Operations count each node as its definition says, a multiply-add as two"
    if run.sizes:
        text += f"; here with {', '.join(f'{name} = {size}' for name, size in run.sizes.items())}"
    text += ". A distance is the largest difference of a value from the graph before the pass, by its largest magnitude."
    return text


def _pass(row: PassRow, run: Run, most: int, slowest: float) -> str:
    name, _, options = row.spec.partition("{")
    fired = [(rule, count) for rule, count in row.rules.rules.items() if count.hits]
    chips = [wrap("span", [tag("span", rule), tag("b", f"×{count.hits}")], "chip") for rule, count in fired]
    title = [tag("b", name), *([tag("code", "{" + options)] if options else []), *_badges(row)]
    cells = [
        tag("span", str(row.index + 1), "soft"),
        wrap("span", [wrap("span", title, "title"), wrap("span", chips, "chips") if chips else ""]),
        wrap("span", [_step(row.nodes_before, row.nodes_after, str), bar(row.nodes_after / most)]),
        wrap("span", [_step(row.constant_bytes_before, row.constant_bytes_after, human_bytes)]),
        tag("span", _flops(run.flops.get(row.index))),
        tag("span", str(row.rewrites)),
        wrap("span", [tag("span", seconds(row.seconds)), bar(row.seconds / slowest)]),
        _distance(row, run.report.verify),
    ]
    kind = "idle" if _is_idle(row) else ""
    return wrap("details", [wrap("summary", cells, "row"), wrap("div", _details(row), "inside")], kind)


def _badges(row: PassRow) -> list[str]:
    found = [] if row.effect == "exact" else [row.effect]
    found += ["skipped"] if row.skipped else []
    found += ["out of fuel"] if row.out_of_fuel else []
    return [tag("em", text, "badge") for text in found]


def _step(before: int, after: int, text: Callable[[int], str]) -> str:
    if before == after:
        return tag("span", text(after), "same")
    if text(before) == text(after):
        sign = "−" if after < before else "+"
        return tag(
            "span", f"{text(after)} ({sign}{text(abs(after - before))})", "less" if after < before else "more"
        )
    return tag("span", f"{text(before)} → {text(after)}", "less" if after < before else "more")


def _flops(count: int | None) -> str:
    return "–" if count is None else human_count(count)


def _distance(row: PassRow, verify: str) -> str:
    if row.unverified:
        return tag("span", "not verified", "soft", row.unverified)
    if not row.distance:
        return tag("span", "unchanged" if verify == "numeric" and not row.skipped else "–", "soft")
    worst = max(row.distance, key=lambda name: row.distance[name])
    return tag("span", f"{_number(row.distance[worst])} ✓", "good", row.tolerance.get(worst, ""))


def _details(row: PassRow) -> list[str]:
    """Rules that were tried, values that were measured, and what the pass noted."""
    parts: list[str] = []
    tried = {name: count for name, count in row.rules.rules.items() if count.attempts or count.hits}
    if tried:
        rows = []
        for name, count in tried.items():
            declined = "; ".join(f"{first} (×{times})" for times, first in count.refusals.values())
            rows.append([name, str(count.hits), str(count.attempts), seconds(count.seconds), declined])
        parts.append(table(["rule", "fired", "tried", "time", "declined because"], rows, frozenset({0, 4})))
    elif row.rules.rules:
        parts.append(tag("p", f"{counted(len(row.rules.rules), 'rule')}, and nothing that fits one.", "soft"))
    if row.distance:
        worst = sorted(row.distance, key=lambda name: -row.distance[name])
        rows = [
            [f"%{name}", _number(row.distance[name]), row.tolerance.get(name, "computed as before")]
            for name in worst[:_MOST_VALUES]
        ]
        parts.append(table(["value", "distance", "allowed"], rows, frozenset({0, 2})))
        if len(worst) > _MOST_VALUES:
            parts.append(tag("p", f"and {len(worst) - _MOST_VALUES} more values, no further away", "soft"))
    if row.notes:
        parts.append(
            table(["noted", ""], [[name, str(value)] for name, value in row.notes.items()], frozenset({0, 1}))
        )
    return parts or [
        tag("p", "Nothing to tell." if row.skipped or not row.rewrites else "It has no rules.", "soft")
    ]


def _number(distance: float) -> str:
    return f"{distance:.1e}" if distance else "0"


def seconds(time: float) -> str:
    """A time with a unit in which it is easy to read."""
    if time < 1e-3:
        return f"{time * 1e6:.0f} µs"
    return f"{time * 1e3:.1f} ms" if time < 1 else f"{time:.2f} s"
