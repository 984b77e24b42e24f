"""The page of a diff: what it holds, and what a browser makes of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from chromium import element, needs_browser, opened
from test_diff import BASE, BRANCHES, changed

from graphopt.diff import diff
from graphopt.diff.page import html_page
from graphopt.ir.builder import Builder
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse_graph
from graphopt.ir.types import tensor
from graphopt.page import Drawing, Pair, page

EVIL = "</script><img src=x onerror=\"document.title='broken'\"><!--"


def pair_of(text: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="pair">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])  # type: ignore[no-any-return]


def evil_graph(axis: int) -> Graph:
    graph = Graph(EVIL)
    build = Builder(graph)
    x = build.input(EVIL, tensor("f32", 4))
    node = build.node("Softmax", [x], [(EVIL, tensor("f32", 4))], {"axis": axis, EVIL: EVIL}, name=EVIL)
    build.outputs([node.output])
    graph.output_names = [EVIL]
    return graph


def test_names_cannot_break_out_of_the_page() -> None:
    text = html_page(diff(evil_graph(0), evil_graph(1)), (EVIL, EVIL))
    assert "<img" not in text and text.count("</script>") == 3 and "<!--" not in text
    assert pair_of(text)["names"] == [EVIL, EVIL]


def test_the_page_needs_nothing_else() -> None:
    text = html_page(diff(parse_graph(BASE), parse_graph(BASE)))
    assert not re.search(r"https?://|@import|\bsrc=|\bhref=|url\(", text)


def test_entries_name_both_boxes() -> None:
    found = diff(parse_graph(BASE), changed(("axis = 1", "axis = 0")))
    data = pair_of(html_page(found))
    (entry,) = data["entries"]  # type: ignore[misc]
    assert (entry["title"], entry["about"]) == ("Softmax", '"softmax"') and entry["lines"] == [
        ["attribute axis", "1", "0"]
    ]  # type: ignore[index]
    boxes = [data["sides"][side]["boxes"][entry[key]] for side, key in ((0, "left"), (1, "right"))]  # type: ignore[index]
    assert [box[6] for box in boxes] == ["Softmax", "Softmax"]


def test_boxes_hold_their_bodies_and_do_not_overlap() -> None:
    drawing = Drawing(parse_graph(BRANCHES))
    kinds = [(box.kind, box.title) for box in drawing.boxes]
    assert ("region", "If") in kinds and ("body", "then_branch") in kinds
    for index, box in enumerate(drawing.boxes):
        if box.parent >= 0:
            around = drawing.boxes[box.parent]
            assert box.parent < index
            assert around.x <= box.x and box.x + box.width <= around.x + around.width + 0.01
            assert around.y <= box.y and box.y + box.height <= around.y + around.height + 0.01
        for other in drawing.boxes[:index]:
            if other.parent == box.parent:
                apart_x = box.x >= other.x + other.width - 0.01 or other.x >= box.x + box.width - 0.01
                apart_y = box.y >= other.y + other.height - 0.01 or other.y >= box.y + box.height - 0.01
                assert apart_x or apart_y, (box.title, other.title)


def test_edges_go_down() -> None:
    drawing = Drawing(parse_graph(BRANCHES))
    ends = [(drawing.boxes[a].title, drawing.boxes[b].title) for a, b, _ in drawing.edges]
    assert sorted(ends) == [("Exp", "If"), ("If", "y"), ("c", "If"), ("x", "Exp"), ("x", "If")]
    for a, b, points in drawing.edges:
        heights = [drawing.boxes[a].y + drawing.boxes[a].height, *points[1::2], drawing.boxes[b].y]
        assert heights == sorted(heights)


def test_an_empty_graph_has_a_page() -> None:
    graph = parse_graph('gir 1\ngraph "g" opset 26 {\n  return\n}\n')
    assert Drawing(graph).to_json() == {"name": "g", "width": 0.0, "height": 0.0, "boxes": [], "edges": []}
    assert html_page(diff(graph, graph))


@needs_browser
def test_a_browser_draws_and_selects(tmp_path: Path) -> None:
    found = diff(parse_graph(BASE), changed(("axis = 1", "axis = 0"), ("4.0]", "5.0]")))
    file = tmp_path / "page.html"
    file.write_text(html_page(found, ("a.onnx", "b.onnx")), encoding="utf-8")
    document = opened(file)
    assert re.search(r'<html[^>]* data-nodes="5 5"', document) and "data-painted=" in document
    assert "2 changed, 1 the same" in element(document, "summary")
    assert element(document, "at") == "– / 2"
    entries = " ".join(element(document, "entries").split())
    assert '~ Add "add" weight input 1' in entries and '~ Softmax "softmax" attribute axis: 1 → 0' in entries
    document = opened(file, "#change=2")
    assert element(document, "at") == "2 / 2"
    details = " ".join(element(document, "details").split())
    assert "attribute axis: 1 → 0" in details
    assert details.count("input 0 %r: f32[n, 4]") == 2, "both partners are shown"
    document = opened(file, "#search=relu")
    assert element(document, "found") == "1 of 2"
    assert "Relu relu" in " ".join(element(document, "details").split())


@needs_browser
def test_a_browser_is_not_taken_in_by_names(tmp_path: Path) -> None:
    file = tmp_path / "evil.html"
    file.write_text(html_page(diff(evil_graph(0), evil_graph(1)), (EVIL, EVIL)), encoding="utf-8")
    document = opened(file, "#change=1")
    assert "<img" not in document and "<title>broken" not in document
    assert "data-painted=" in document and EVIL in element(document, "details")


def test_a_page_of_another_kind() -> None:
    text = page(
        "A <graph>", "<p>body</p>", data={"graph": Drawing(parse_graph(BASE)).to_json()}, scripts=["run()"]
    )
    assert "<title>A &lt;graph&gt;</title>" in text and "<script>run()</script>" in text
    drawings = (Drawing(parse_graph(BASE)), Drawing(parse_graph(BASE)))
    assert "Nothing differs" in Pair("two", ("a", "b"), drawings).html()


@pytest.mark.parametrize("count", [2000])
def test_large_graphs_are_laid_out(count: int) -> None:
    lines = ["gir 1", 'graph "g" opset 26 {', "  input %v0: f32[4]"]
    for i in range(1, count):
        lines.append(f"  %v{i}: f32[4] = Add(%v{i - 1}, %v{max(0, i - 7)})")
    drawing = Drawing(parse_graph("\n".join([*lines, f'  return %v{count - 1} as "y"', "}", ""])))
    tops = [box.y for box in drawing.boxes]
    assert len(tops) == count + 1 and tops == sorted(tops)
