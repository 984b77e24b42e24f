"""The report of an optimization: what it says, and that nothing in it can break out."""

from __future__ import annotations

import json
import re
import sys
from html import unescape
from pathlib import Path

import pytest

from graphopt.ir.builder import Builder
from graphopt.ir.dims import sym
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse_graph
from graphopt.ir.types import tensor
from graphopt.pipeline import Pipeline
from graphopt.pipeline.settings import Verify
from graphopt.report import Recording, document, html_page

sys.path.append(str(Path(__file__).resolve().parent.parent / "diff"))
from chromium import element, needs_browser, opened

EVIL = "</script><img src=x onerror=\"document.title='broken'\"><!--"
MODEL = """gir 1
graph "g" opset 26 {
  input %x: f32[n, 4]
  const %one: f32[1] = [1.0]
  const %w: f32[4, 3] = [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0]
  const %b: f32[3] = [0.5, 1.0, 2.0]
  %a: f32[n, 4] = Mul(%x, %one) "first"
  %c: f32[n, 4] = Div(%a, %one) "second"
  %d: f32[n, 4] = Mul(%c, %one) "third"
  %m: f32[n, 3] = MatMul(%d, %w)
  %y: f32[n, 3] = Add(%m, %b)
  return %y as "y"
}
"""


def page_of(graph: Graph, pipeline: str, verify: Verify = "structure", name: str = "m.onnx") -> str:
    recording = Recording()
    report = Pipeline.parse(pipeline).run(graph, verify=verify, instruments=[recording])
    return html_page(name, [recording.run(report)])


def cells(text: str) -> list[list[str]]:
    """The texts of each pass's row: number, pass and rules, nodes, constants, operations, rewrites, distance."""
    rows = []
    for summary in re.findall(r"<summary.*?</summary>", text, re.DOTALL):
        found = re.findall(r"<(?:span|b|em|code)[^>]*>([^<]+)</", summary)
        rows.append([unescape(cell) for cell in found])
    return rows


def framed(text: str) -> str:
    """The page of the two drawings."""
    found = re.search(r'<script type="application/json" id="pair0">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    page = json.loads(found[1])
    assert isinstance(page, str)
    return page


def test_a_row_says_what_a_pass_did() -> None:
    text = page_of(parse_graph(MODEL), "simplify-identities,eliminate-dead-code", "numeric")
    first, second = cells(text)
    time = first.pop(-2)
    assert re.fullmatch(r"[\d.]+ (µs|ms|s)", time)
    # A product of 3 sums of 4 terms, and 3 additions, for n = 1.
    assert first == [
        "1", "simplify-identities", "multiply-by-one", "×2", "divide-by-one", "×1",
        "5 → 2", "64 B → 60 B", "27", "3", "0 ✓",
    ]  # fmt: skip
    assert second[:5] == ["2", "eliminate-dead-code", "2", "60 B", "27"]
    assert second[5] == "0" and second[-1] == "unchanged"
    assert "hide 1 pass that changed nothing" in text
    assert "<b>5 → 2</b><small>−60%</small>" in text and "<b>39 → 27</b>" in text
    assert "<b>3</b><small>by 2 rules</small>" in text


def test_distances_stand_beside_what_was_allowed() -> None:
    text = page_of(parse_graph(MODEL), "fuse-matmul-bias", "numeric")
    (row,) = cells(text)
    assert row[-1].endswith(" ✓") and "approximate" in row
    assert re.search(
        r"<td>%y</td><td class=\"number\">[^<]+</td><td>f32, [^<]*approximate pass: 0.0001</td>", text
    )
    assert "every pass within its tolerance" in text


def test_what_was_not_verified_is_not_called_so() -> None:
    text = page_of(parse_graph(MODEL), "simplify-identities")
    assert cells(text)[0][-1] == "–" and "within its tolerance" not in text
    random = MODEL.replace('Mul(%x, %one) "first"', "RandomNormalLike(%x)")
    text = page_of(parse_graph(random), "simplify-identities", "numeric")
    assert cells(text)[0][-1] == "not verified" and "draws random numbers" in text
    assert "within its tolerance" not in text
    partly = MODEL.replace('Mul(%c, %one) "third"', "RandomNormalLike(%c)")
    text = unescape(page_of(parse_graph(partly), "simplify-identities", "numeric"))
    assert cells(text)[0][-1].endswith("✓")
    assert 'not compared: RandomNormalLike "d" draws random numbers: 3 values come of it' in text


def test_a_rule_that_declines_says_why() -> None:
    reshaped = """gir 1
graph "g" opset 26 {
  input %x: f32[2, 6]
  const %s: i64[2] = [3, 4]
  %y: f32[3, 4] = Reshape(%x, %s)
  return %y as "y"
}
"""
    text = page_of(parse_graph(reshaped), "simplify-identities")
    found = re.search(r"<tr><td>reshape-to-itself</td>(.*?)</tr>", text)
    assert found is not None
    counts = re.findall(r"<td[^>]*>([^<]*)</td>", found[1])
    assert counts[:2] == ["0", "1"]
    assert counts[3] == "%x: f32[2, 6] is not known to have the shape of %y: f32[3, 4] (×1)"


def test_both_graphs_are_drawn_with_what_differs() -> None:
    drawn = framed(page_of(parse_graph(MODEL), "simplify-identities"))
    found = re.search(r'<script type="application/json" id="pair">(.*?)</script>', drawn, re.DOTALL)
    assert found is not None
    pair = json.loads(found[1])
    assert pair["names"] == ["before", "after"] and [len(side["boxes"]) for side in pair["sides"]] == [7, 4]
    assert [(entry["mark"], entry["about"].partition(" ")[0]) for entry in pair["entries"]] == [
        ("removed", '"first"'), ("removed", '"second"'), ("removed", '"third"'),
    ]  # fmt: skip


def test_large_graphs_are_told_and_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "LARGEST_DRAWN", 4)
    text = page_of(parse_graph(MODEL), "simplify-identities")
    assert "The graphs have 5 and 2 nodes; above 4 they are not drawn." in text
    assert "<iframe" not in text and "- Mul &quot;first&quot;" in text


def evil_graph() -> Graph:
    graph = Graph(EVIL)
    build = Builder(graph)
    x = build.input(EVIL, tensor("f32", 4, sym(EVIL)))
    node = build.node("Identity", [x], [("i", tensor("f32", 4, sym(EVIL)))], {}, name=EVIL)
    last = build.node(
        "Relu", [node.output], [(EVIL + "y", tensor("f32", 4, sym(EVIL)))], {EVIL: EVIL}, name=EVIL
    )
    build.outputs([last.output])
    graph.output_names = [EVIL]
    return graph


def test_names_cannot_break_out_of_the_page() -> None:
    text = page_of(evil_graph(), "simplify-identities", "off", name=EVIL)
    assert "<img" not in text and "<!--" not in text and text.count("</script>") == 2
    drawn = framed(text)
    assert "<img" not in drawn and "<!--" not in drawn


def test_the_page_needs_nothing_else() -> None:
    text = page_of(parse_graph(MODEL), "O2")
    assert not re.search(r"https?://|@import|\bsrc=|\bhref=|url\(", text)


def test_a_pipeline_without_passes_has_a_page() -> None:
    graph = parse_graph(MODEL)
    recording = Recording()
    report = Pipeline(()).run(graph, instruments=[recording])
    assert "The pipeline has no passes." in html_page("m.onnx", [recording.run(report)])


@needs_browser
def test_a_browser_shows_one_tab_and_draws_when_asked(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page_of(evil_graph(), "simplify-identities", "off", name=EVIL), encoding="utf-8")
    document = opened(file)
    assert "<title>broken" not in document and "<img" not in document
    assert 'class="shown"' in document and "data-nodes" not in document
    document = opened(file, "#graphs")
    assert re.search(r'<section id="panel-graphs"[^>]* class="shown"', document)
    assert 'data-nodes="4 3"' in document, "the frame was drawn"
    assert "simplify-identities" in element(document, "panel-passes")
