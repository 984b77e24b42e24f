"""The ``.gir`` text: what it looks like, that it parses back, and what is said of a broken one."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from graph_strategies import ATTRS, IN_BLOCKS, TYPES, graphs, tensors
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from graphopt.errors import ModelError, TextError
from graphopt.ir.builder import Builder, copy_graph
from graphopt.ir.dims import sym
from graphopt.ir.equality import attrs_equal, graphs_equal
from graphopt.ir.graph import Attr, Graph
from graphopt.ir.literals import INLINE_ELEMENTS
from graphopt.ir.parser import parse_graph
from graphopt.ir.printer import print_graph
from graphopt.ir.sidecar import Sidecar
from graphopt.ir.tensor import Tensor
from graphopt.ir.text import load_gir, save_gir, sidecar_path
from graphopt.ir.type_text import parse_type
from graphopt.ir.types import DType, SequenceType, Type, UnknownType, tensor
from graphopt.ir.verifier import verify

SAMPLE = """\
gir 1
graph "net" opset 26 {
  opset "com.microsoft" 1
  producer "pytorch" "2.1"
  input %x: f32[N, 3]
  const %w: f32[4, 8] = #5998af7dd2391d31
  const %k: i64[2] = [1, -2]
  const %"odd name": f32[] = 0.1
  %onnx::y: f32[N + 1, 4], %mask: unknown = Foo(%x, _, %w) {axis = 1, eps = 1e-05, names = ["a", "b"]} "foo1"
  %c: bool[] = com.microsoft.Test(%mask) from "t1", "t2"
  %z: f32[N, 3] = If(%c) do then_branch() {
    %t: f32[N, 3] = Neg(%x)
    return %t
  } do else_branch() {
    return %x
  }
  %f: f32[N, 3] = graphopt.fused(%z, %"odd name") do body(%a: f32[N, 3], %b: f32[]) {
    %m: f32[N, 3] = Mul(%a, %b)
    %r: f32[N, 3] = Relu(%m)
    return %r
  }
  return %f as "y", %mask as "m"
}
"""


def sample() -> Graph:
    graph = Graph("net")
    graph.opset = {"": 26, "com.microsoft": 1}
    graph.producer = ("pytorch", "2.1")
    make = Builder(graph)
    n3 = tensor("f32", sym("N"), 3)
    x = make.input("x", n3)
    w = make.constant(Tensor.of(np.arange(32, dtype=np.float32).reshape(4, 8)), "w")
    make.constant(Tensor.of([1, -2], DType.I64), "k")
    scalar = make.constant(Tensor.of(0.1, DType.F32), "odd name")
    foo = make.node(
        "Foo",
        [x, None, w],
        [("onnx::y", tensor("f32", sym("N") + 1, 4)), ("mask", UnknownType())],
        {"axis": 1, "eps": float(np.float32(1e-5)), "names": ("a", "b")},
        name="foo1",
    )
    test = make.node("Test", [foo.outputs[1]], [("c", tensor("bool"))], domain="com.microsoft")
    test.origin = ("t1", "t2")
    branch = make.node("If", [test.output], [("z", n3)])
    then = make.region(branch, "then_branch")
    make.outputs([make.node("Neg", [x], [("t", n3)], region=then).output], then)
    make.outputs([x], make.region(branch, "else_branch"))
    fused = make.node("fused", [branch.output, scalar], [("f", n3)], domain="graphopt")
    body = make.region(fused, "body")
    a, b = make.input("a", n3, body), make.input("b", tensor("f32"), body)
    m = make.node("Mul", [a, b], [("m", n3)], region=body).output
    make.outputs([make.node("Relu", [m], [("r", n3)], region=body).output], body)
    make.outputs([fused.output, foo.outputs[1]])
    graph.output_names = ["y", "m"]
    return graph


def test_the_text_is_as_documented_and_parses_back() -> None:
    assert print_graph(sample()) == SAMPLE
    assert graphs_equal(parse_graph(SAMPLE), sample()) is None
    verify(parse_graph(SAMPLE))


def test_space_and_comments_don_t_count() -> None:
    loose = SAMPLE.replace(")", "\n//,\n)\t // why\n").replace(" {", "{").replace(" = ", "=")
    assert graphs_equal(parse_graph(loose), sample()) is None


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graphs())
def test_print_parse_gives_an_equal_graph(graph: Graph) -> None:
    sidecar = Sidecar()
    text = print_graph(graph, sidecar=sidecar)
    back = parse_graph(text, sidecar=sidecar)
    assert graphs_equal(graph, back) is None
    assert print_graph(back) == text
    verify(back)
    assert graphs_equal(graph, copy_graph(graph)) is None


@settings(max_examples=300, deadline=None)
@given(ATTRS)
def test_every_attribute_value_comes_back(value: Attr) -> None:
    graph = Graph()
    Builder(graph).node("Foo", [], [], {"a": value})
    sidecar = Sidecar()
    back = parse_graph(print_graph(graph, sidecar=sidecar), sidecar=sidecar)
    assert attrs_equal(value, back.nodes[0].attrs["a"])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (1.0, "1.0"),
        (float(np.float32(0.1)), "0.1"),
        (0.1, "0.1d"),
        (1e300, "1e+300d"),
        (-0.0, "-0.0"),
        (float(np.float32(1e-45)), "1e-45"),
        (5e-324, "5e-324d"),
        (float("-inf"), "-inf"),
        (float("nan"), "nan"),
        (16777216.0, "1.6777216e+07"),
        ((), "[]"),
        (("a", b"\xff"), '["a", b"\\u00ff"]'),
    ],
)
def test_numbers_are_short_and_exact(value: Attr, text: str) -> None:
    graph = Graph()
    Builder(graph).node("Foo", [], [], {"a": value})
    printed = print_graph(graph)
    assert f"{{a = {text}}}" in printed
    assert attrs_equal(parse_graph(printed).nodes[0].attrs["a"], value)


@settings(max_examples=300, deadline=None)
@given(TYPES | IN_BLOCKS)
@example(SequenceType(tensor("f32", sym("a)b"), sym("]"))))
def test_every_type_comes_back(type: Type) -> None:
    assert parse_type(str(type)) == type


@settings(max_examples=200, deadline=None)
@given(tensors())
def test_every_constant_comes_back_bit_by_bit(tmp_path_factory: pytest.TempPathFactory, data: Tensor) -> None:
    graph = Graph()
    Builder(graph).constant(data)
    path = tmp_path_factory.getbasetemp() / "one.gir"
    save_gir(graph, path)
    (value,) = load_gir(path).constants.values()
    assert value.const is not None
    assert value.const.numpy().shape == data.shape
    if data.dtype is DType.STR:
        assert value.const.numpy().tolist() == data.numpy().tolist()
    else:
        assert value.const.numpy().dtype == data.dtype.numpy
        assert value.const.numpy().tobytes() == data.numpy().tobytes()


def _large() -> Graph:
    graph = Graph()
    make = Builder(graph)
    make.constant(Tensor.of(np.arange(INLINE_ELEMENTS + 1, dtype=np.float32)), "w")
    return graph


def test_large_constants_need_the_sidecar_only_when_read(tmp_path: Path) -> None:
    graph, path = _large(), tmp_path / "m.gir"
    save_gir(graph, path)
    sidecar_path(path).unlink()
    back = load_gir(path)
    assert graphs_equal(graph, back) is None
    data = back.constants["w"].const
    assert data is not None
    with pytest.raises(TextError, match=r"f32\[17\] with hash [0-9a-f]{16}.*sidecar"):
        data.numpy()


def test_a_damaged_sidecar_is_noticed(tmp_path: Path) -> None:
    graph, path = _large(), tmp_path / "m.gir"
    save_gir(graph, path)
    sidecar = sidecar_path(path)
    content = bytearray(sidecar.read_bytes())
    at = content.index(np.float32(16).tobytes())
    content[at] ^= 1
    sidecar.write_bytes(bytes(content))
    data = load_gir(path).constants["w"].const
    assert data is not None
    with pytest.raises(TextError, match=r"#[0-9a-f]{16}"):
        data.numpy()


def test_equal_graphs_make_equal_files(tmp_path: Path) -> None:
    for name in ("a.gir", "b.gir"):
        save_gir(_large(), tmp_path / name)
        time.sleep(0.01)
    assert (tmp_path / "a.gir").read_bytes() == (tmp_path / "b.gir").read_bytes()
    assert sidecar_path(tmp_path / "a.gir").read_bytes() == sidecar_path(tmp_path / "b.gir").read_bytes()


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gir"
    save_gir(_large(), path)
    before = path.read_bytes()
    broken = _large()
    Builder(broken).node("Foo", [], [], {"a": object()})  # type: ignore[dict-item]
    with pytest.raises(TextError, match="can't hold a object"):
        save_gir(broken, path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gir", "m.gir.npz"]


def test_a_place_that_can_t_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere/m\.gir can't be written: No such file"):
        save_gir(_large(), tmp_path / "nowhere" / "m.gir")
    (tmp_path / "m.gir").mkdir()
    with pytest.raises(ModelError, match=r"m\.gir can't be written"):
        save_gir(Graph(), tmp_path / "m.gir")
    assert [p.name for p in tmp_path.iterdir()] == ["m.gir"]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=3))
def test_a_damaged_sidecar_gives_the_data_or_a_refusal(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    graph, path = _large(), tmp_path / "m.gir"
    save_gir(graph, path)
    content = bytearray(sidecar_path(path).read_bytes())
    for at, bits in flips:
        content[at % len(content)] ^= bits
    sidecar_path(path).write_bytes(bytes(content))
    before, after = graph.constants["w"].const, load_gir(path).constants["w"].const
    assert before is not None and after is not None
    try:
        assert np.array_equal(after.numpy(), before.numpy())
    except TextError as error:
        assert before.digest in error.message


def test_released_data_is_read_again(tmp_path: Path) -> None:
    save_gir(_large(), tmp_path / "m.gir")
    data = load_gir(tmp_path / "m.gir").constants["w"].const
    assert data is not None
    first = data.numpy()
    assert data.numpy() is first
    data.release()
    assert data.numpy() is not first and np.array_equal(data.numpy(), first)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("gir 1", "gir «2", "version 2 of the text form is not known"),
        ("gir 1", "«digraph", 'expected "gir 1"'),
        ("(%x, _, %w)", "(%x, _, «%nowhere)", "this value is not defined above"),
        ("%mask: unknown", "«%x: unknown", "%x is defined twice"),
        ("%mask: unknown", "«%onnx::y: unknown", "%onnx::y is defined twice"),
        ("f32[N + 1, 4]", "«f99[N]", "there is no element type 'f99'"),
        ("f32[N + 1, 4]", "«f32[N +, 4]", "not a dimension: 'N +'"),
        ("f32[N + 1, 4]", "«f32[N", "expected a type"),
        ("f32[N + 1, 4]", f"«f32[{2**63}]", "not a dimension"),
        ("f32[N + 1, 4]", "«f32[4]<q" + "9" * 5000 + "u>", "neither a quantization scheme nor a layout"),
        ("f32[N + 1, 4]", "«f32[4]<layout='\\x'>", "neither a quantization scheme nor a layout"),
        ("axis = 1,", f"axis = «{2**63},", "the number does not fit 64 bits"),
        ("opset 26", f"opset «{2**63}", "the number does not fit 64 bits"),
        ("opset 26", "opset «99", "opset 99 is not one that a graph can be in: 26 to "),
        ("opset 26", "opset «25", "opset 25 is not one that a graph can be in: 26 to 26"),
        ("opset 26 {", "«{", "expected opset"),
        ("axis = 1,", "axis = «,", "expected a value"),
        ("axis = 1,", "axis = 1, «axis = 2,", "attribute axis is given twice"),
        ("[1, -2]", "«[1]", "2 elements are needed, there are 1"),
        ("[1, -2]", "«[1, 2.5]", "the elements must be integers"),
        ("i64[2] = [1, -2]", "i8[2] = «[1, 128]", "an element does not fit i8"),
        ("%k: i64[2] = [1", "«%k: i64[N] = [1", "a constant needs a tensor type"),
        ("#5998af7dd2391d31", "«#zz", "expected 16 hexadecimal"),
        ('"m"\n}\n', '"m"\n«', "expected }"),
        ('"m"\n}', '"m"\n} «}', "the text goes on after the graph"),
        ("do else_branch()", "do «then_branch()", 'If "z" has two regions then_branch'),
        ('"foo1"', '«"foo1', "expected"),
        ("    return %t\n  }", "    %t\n  «}", "expected :"),
    ],
)
def test_errors_say_where_and_what(old: str, new: str, message: str) -> None:
    assert old in SAMPLE
    marked = SAMPLE.replace(old, new, 1)
    before, after = marked.split("«")
    with pytest.raises(TextError) as caught:
        parse_graph(before + after)
    head, line, caret = caught.value.message.split("\n")
    last = before.split("\n")[-1]
    assert head.startswith(f"line {before.count(chr(10)) + 1}, column {len(last) + 1}: {message}")
    assert line[caret.index("^") :].strip() == after.split("\n")[0][: 100 - min(len(last), 60)].strip()


def test_deep_nesting_is_refused() -> None:
    deep = 'gir 1\ngraph "g" opset 26 {\n' + "= If() do b() {\n" * 5000
    with pytest.raises(TextError, match="nested more than"):
        parse_graph(deep)
    with pytest.raises(TextError, match="nested more than"):
        parse_graph('gir 1\ngraph "g" opset 26 {\n= Foo() {a = ' + "[" * 5000)
    with pytest.raises(TextError, match="not a type"):
        parse_graph('gir 1\ngraph "g" opset 26 {\ninput %x: ' + "seq(" * 5000 + "unknown" + ")" * 5000)


TOKENS = [
    *set(SAMPLE.replace("\n", " \n ").split(" ")),
    '"',
    "{",
    "}",
    "%",
    "(",
    "[",
    "nan",
    "//",
    "\x00",
    "9" * 5000,
]


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(SAMPLE)), st.integers(0, 30), st.sampled_from(TOKENS) | st.text(max_size=5))
def test_mutated_text_parses_or_is_refused_with_a_place(at: int, length: int, new: str) -> None:
    _parse_or_refuse(SAMPLE[:at] + new + SAMPLE[at + length :])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(TOKENS), max_size=30))
def test_arbitrary_words_are_refused_with_a_place(words: list[str]) -> None:
    _parse_or_refuse('gir 1\ngraph "g" opset 26 {\n' + " ".join(words))


def _parse_or_refuse(text: str) -> None:
    try:
        graph = parse_graph(text)
    except TextError as error:
        assert error.message.startswith("line ")
    else:
        assert graphs_equal(parse_graph(print_graph(graph)), graph) is None


def test_outputs_without_a_name_are_called_as_their_values() -> None:
    text = 'gir 1\ngraph "g" opset 26 {\n  input %x: f32[4]\n  return %x, %x as "again"\n}\n'
    assert parse_graph(text).output_names == ["x", "again"]
