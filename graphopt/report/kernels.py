"""The section on code: kernels, memory between them, sizes, and what compiling took."""

from __future__ import annotations

from pathlib import Path

from graphopt.analysis import flops
from graphopt.ir.graph import Node
from graphopt.report.html import bar, card, table, tag, wrap
from graphopt.report.passes import seconds
from graphopt.report.recording import Build, Run
from graphopt.units import counted, human_bytes, human_count

_MOST_NODES = 8
"""Nodes of a kernel that are named."""


def kernels_section(run: Run, build: Build) -> str:
    """Cards, the kernels in the order in which they are made, and the memory plan."""
    variant = build.variant
    nodes = sum(len(labels) for labels in variant.kernels.values())
    stages = ", ".join(f"{name} {seconds(time)}" for name, time in build.seconds.items() if time >= 1e-3)
    cards = [
        card("Kernels", str(len(variant.kernels)), f"for {counted(nodes, 'node')}"),
        card("Code", human_bytes(build.code_bytes)),
        card("Weights", human_bytes(build.weight_bytes), "packed and derived ones included"),
        card("It took", seconds(sum(build.seconds.values())), stages),
    ]
    facts = {"target": variant.target, "triple": variant.triple, **_memory(build)}
    parts = [
        wrap("div", cards, "cards"),
        "<h3>Kernels</h3>",
        _kernels(run, build),
        "<h3>Memory and target</h3>",
    ]
    parts.append(wrap("dl", (tag("dt", name) + tag("dd", text) for name, text in facts.items())))
    return "".join(parts)


def files_section(artifact: Path) -> str:
    """What lies in the artifact."""
    files = sorted(
        (file for file in artifact.rglob("*") if file.is_file()), key=lambda file: -file.stat().st_size
    )
    sizes = [file.stat().st_size for file in files]
    rows = [
        [str(file.relative_to(artifact)), human_bytes(size)] for file, size in zip(files, sizes, strict=True)
    ]
    return f"<h3>Files</h3>{table(['file', 'size'], [*rows, ['in all', human_bytes(sum(sizes))]])}"


def _kernels(run: Run, build: Build) -> str:
    known = {node.label: node for node in run.after.nodes}
    work = {
        name: [flops(known[label], run.sizes) if label in known else None for label in labels]
        for name, labels in build.variant.kernels.items()
    }
    counts = {name: sum(n or 0 for n in found) for name, found in work.items()}
    most = max(counts.values(), default=0) or 1
    rows = []
    for name, labels in build.variant.kernels.items():
        unknown = all(count is None for count in work[name])
        named = [_described(known.get(label), label) for label in labels[:_MOST_NODES]]
        more = f", and {len(labels) - _MOST_NODES} more" if len(labels) > _MOST_NODES else ""
        rows.append(
            wrap(
                "tr",
                [
                    wrap("td", [tag("code", name)]),
                    tag("td", str(len(labels)), "number"),
                    wrap(
                        "td",
                        [
                            tag("span", "–" if unknown else human_count(counts[name])),
                            bar(counts[name] / most),
                        ],
                        "number",
                    ),
                    tag("td", ", ".join(named) + more),
                ],
            )
        )
    head = [
        tag("th", "kernel"),
        tag("th", "calls", "number"),
        tag("th", "operations", "number"),
        tag("th", "nodes"),
    ]
    inside = [wrap("thead", [wrap("tr", head)]), wrap("tbody", rows)]
    return wrap("div", [wrap("table", inside, "kernels")], "wide")


def _described(node: Node | None, label: str) -> str:
    """A node; a fused one by the operators in it."""
    if node is None or not node.is_fused:
        return label
    return " + ".join(inner.op for inner in node.body) + (f' "{node.name}"' if node.name else "")


def _memory(build: Build) -> dict[str, str]:
    use = build.variant.memory
    if use is None:
        return {}
    found = {}
    if use.planned:
        found["between kernels"] = f"{human_bytes(use.planned)}, {human_bytes(use.separate)} without reuse"
    if use.dynamic:
        found["taken at the call"] = f"memory for {counted(use.dynamic, 'value')}, whose sizes are not fixed"
    if use.in_place or use.moved:
        found["concatenations and slices"] = f"{use.in_place} in place, {use.moved} copied"
    return found
