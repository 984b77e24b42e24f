"""What regions capture."""

from __future__ import annotations

from graphopt.ir.captures import captures, operands
from graphopt.ir.parser import parse_graph

TEXT = """gir 1
graph "g" opset 26 {
  input %c: bool[]
  input %x: f32[2]
  const %k: f32[2] = [1.0, 2.0]
  %a: f32[2] = Neg(%x)
  %y: f32[2] = If(%c) do then_branch() {
    %p: f32[2] = Add(%a, %k)
    %q: f32[2] = If(%c) do then_branch() {
      %r: f32[2] = Mul(%p, %x)
      return %r
    } do else_branch() {
      return %a
    }
    return %q
  } do else_branch() {
    return %x
  }
  return %y as "y"
}
"""


def test_what_a_region_captures_comes_in_program_order_and_from_outside_only() -> None:
    node = parse_graph(TEXT).value("y").producer
    assert node is not None
    found = list(captures(node.regions["then_branch"]))
    assert [value.name for _, value in found] == ["a", "k", "c", "x", "a"]
    assert all(use in value.uses for use, value in found)
    assert [value.name for _, value in captures(node.regions["else_branch"])] == ["x"]
    assert [value.name for value in operands(node)] == ["c", "a", "k", "x"]
