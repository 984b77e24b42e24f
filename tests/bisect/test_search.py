"""``graphopt bisect``: exit codes, what is said, predicates, and what can't be searched."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_kernels import BROKEN, WEIGHTS, model
from click.testing import CliRunner, Result

from graphopt import api, runtime
from graphopt.backend import assemble
from graphopt.backend.compile import compile_graph
from graphopt.backend.memory import Arena, Block
from graphopt.bisect import (
    Finding,
    KernelFault,
    PredicateFault,
    PredicateKernelFault,
    bisect,
    compiled_fault,
    kernels,
)
from graphopt.bisect.predicate import FunctionPredicate, Model, Savable, predicate_of
from graphopt.cli.bisect_command import command
from graphopt.errors import EvaluationError, InputError, TargetError
from graphopt.evaluate import Session, example_inputs
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse_graph
from graphopt.pipeline import Pipeline
from graphopt.targets import Target
from graphopt.verify.fault import NumericFault

PLUGIN = """
from dataclasses import dataclass
import graphopt as go
from graphopt.rewrite import Rule, op, var

@go.register_pass("{name}")
@dataclass(frozen=True)
class Wrong(go.PatternPass):
    "Takes the operands of Sub the other way round, when one is x."

    def rules(self):
        wrong = lambda r, m: r.create("Add", [m["y"], r.create("Neg", [m["x"]]).output]).output
        check = lambda m: None if m["x"].name == "c" else "another"
        return [Rule("sub-add", op("Sub", var("x"), var("y")), wrong, check)]
"""
TEXT = (
    "g (float[n,4] x) => (float[n,4] y) { a = Tanh(x) b = Sub(x, a) c = Exp(b) d = Sub(c, a) y = Sigmoid(d) }"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    api.save(model(TEXT), tmp_path / "net.onnx")
    return tmp_path


def wrong_pass(folder: Path, name: str) -> Path:
    """A plugin with one faulty pass; names are registered once in a process."""
    (folder / f"{name}.py").write_text(PLUGIN.format(name=name))
    return folder / f"{name}.py"


def run(*words: object) -> Result:
    return CliRunner().invoke(command, list(map(str, words)))


def test_nothing_is_found_in_a_right_compile(folder: Path) -> None:
    done = run(folder / "net.onnx")
    assert (done.exit_code, done.output) == (0, "nothing found: the passes and all kernels are right\n")


def test_a_wrong_rewrite_is_found_and_can_be_seen_again(folder: Path) -> None:
    plugin = wrong_pass(folder, "wrong-one")
    done = run("net.onnx", "O1,wrong-one", "--target", "none", "--plugin", plugin)
    assert done.exit_code == 1
    assert 'pass "wrong-one": %d changed by' in done.output
    assert 'It is rewrite 0 of the pass, rule "sub-add" at Sub "d", which made of' in done.output
    assert "    %d: f32[n, 4] = Sub(%c, %a)\nthis:\n" in done.output
    assert "graphopt opt net.fault/before.onnx -o net.fault/after.onnx -p wrong-one" in done.output
    small = api.load(folder / "net.fault" / "before.onnx")
    assert [node.op for node in small.walk()] == ["Sub"]
    with np.load(folder / "net.fault" / "inputs.npz") as inputs, pytest.raises(NumericFault):
        api.optimize(small, "wrong-one", inputs=dict(inputs), verify="numeric")


def test_what_is_found_as_json(folder: Path) -> None:
    plugin = wrong_pass(folder, "wrong-two")
    done = run(
        "net.onnx", "wrong-two", "--target", "none", "--plugin", plugin, "--reproducer", "here", "--json"
    )
    document = json.loads(done.stdout)
    assert done.exit_code == 1
    assert {key: document[key] for key in ("found", "stage", "pass", "pass_index", "value")} == {
        "found": True, "stage": "pass", "pass": "wrong-two", "pass_index": 0, "value": "d",
    }  # fmt: skip
    assert (document["rewrite"]["rule"], document["rewrite"]["root"]) == ("sub-add", 'Sub "d"')
    assert document["distance"] > document["allowed"] > 0
    assert "here/before.onnx" in document["hint"] and (folder / "here" / "inputs.npz").is_file()
    done = run("net.onnx", "O1", "--target", "none", "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"found": False})


PREDICATE = """
import numpy as np

def accurate(model):
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    c = np.exp(x - np.tanh(x)) - np.tanh(x)
    return abs(model({"x": x})["y"] - 1 / (1 + np.exp(-c))).max() < 1e-3

def never(model):
    return False

def broken(model):
    return model({"x": None, "z": 1})

def crashes(model):
    return 1 / 0

def says_nothing(model):
    model({"x": np.zeros((1, 4), np.float32)})

if __name__ == "__main__":
    import sys
    import onnxruntime
    session = onnxruntime.InferenceSession(sys.argv[1])
    sys.exit(not accurate(lambda feeds: {"y": session.run(["y"], feeds)[0]}))
"""


@pytest.mark.parametrize("way", ["function", "command"])
def test_a_predicate_decides_instead_of_numbers(folder: Path, way: str) -> None:
    import sys

    (folder / "accuracy.py").write_text(PREDICATE)
    name = f"wrong-by-{way}"
    plugin = wrong_pass(folder, name)
    predicate = "accuracy.py:accurate" if way == "function" else f"{sys.executable} accuracy.py"
    done = run("net.onnx", f"O1,{name}", "--target", "none", "--plugin", plugin, "--predicate", predicate)
    assert done.exit_code == 1, done.output
    assert f'pass "{name}": rewrite 0, rule "sub-add" at Sub "d", is the first after which' in done.output
    assert "%d: f32[n, 4] = Sub(%c, %a)" in done.output
    done = run("net.onnx", "O1", "--target", "none", "--predicate", predicate)
    assert (done.exit_code, done.output) == (0, f"nothing found: {predicate} is content\n")


@pytest.mark.parametrize(
    ("predicate", "message"),
    [
        ("accuracy.py:never", "says that the model is not good as it is, before any pass"),
        ("accuracy.py:crashes", r"failed: ZeroDivisionError: division by zero \(.*accuracy.py:16\)"),
        ("accuracy.py:says_nothing", "returned NoneType, not True or False"),
        ("accuracy.py:broken", 'there is no input "z"'),
        ("accuracy.py:absent", "accuracy.py has no function absent"),
        ("accuracy.py", "names no function"),
        (" ", "the predicate is empty"),
        ("absent.py:accurate", "there is no file absent.py"),
        ("no-such-command-here", "failed with exit code 127"),
    ],
)
def test_predicates_that_can_not_be_used(folder: Path, predicate: str, message: str) -> None:
    (folder / "accuracy.py").write_text(PREDICATE)
    with pytest.raises(InputError, match=message):
        bisect(api.load("net.onnx"), Pipeline.parse("O1"), None, predicate=predicate_of(predicate))


class ByKernels:
    """A predicate that a test writes down."""

    text, runs_files = "the test", False

    def __init__(self, inputs: Mapping[str, Any], expected: Any) -> None:
        self.inputs, self.expected = inputs, expected

    def is_good(self, model: Model, files: Savable) -> bool:
        (result,) = model(self.inputs).values()
        return bool(np.allclose(result, self.expected, atol=1e-3))


def broken(name: str) -> tuple[Graph, Any]:
    found = next(item for item in BROKEN if item.name == name)
    return model(found.graph, **WEIGHTS.get(name, {})), found


def test_a_wrong_kernel_is_found_by_numbers_and_by_a_predicate(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, fault = broken("swapped operands")
    target = Target.parse("x86-64-v3")
    fault.plant(monkeypatch)
    found = bisect(graph, Pipeline.parse("O2"), target)
    assert isinstance(found, Finding) and isinstance(found.error, KernelFault)
    assert (found.stage, found.error.region, found.error.kernel, found.error.blame) == (
        "kernel", 'Sub "y"', "sub", "lowering",
    )  # fmt: skip
    assert found.as_dict()["body"] == ["%y: f32[n, 8] = Sub(%x, %u)"]
    inputs = {name: np.full((2, 8), value, np.float32) for name, value in (("x", 3), ("u", 1))}
    found = bisect(graph, Pipeline.parse("O2"), target, predicate=ByKernels(inputs, np.full((2, 8), 2)))
    assert found is not None and found.stage == "kernel"
    assert (
        'kernel "sub" of region Sub "y" is the first that, compiled, makes the test say'
        in found.error.message
    )


def test_where_a_kernel_is_wrong_the_whole_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, fault = broken("swapped operands")
    compiled: list[list[str]] = []

    def recorded(graph: Graph, *rest: Any, **options: Any) -> Any:
        compiled.append(graph.output_names)
        return compile_graph(graph, *rest, **options)

    monkeypatch.setattr(kernels, "compile_graph", recorded)
    target = Target.parse("x86-64-v3")
    assert bisect(graph, "O2", target) is None
    assert compiled == [["r0"], ["y"]]  # the kernels by themselves, then the whole
    compiled.clear()
    fault.plant(monkeypatch)
    assert bisect(graph, "O2", target) is not None
    assert compiled and ["y"] not in compiled


class ByFiles:
    """What a command does, in this process: it is content with a file that gives the numbers of the first."""

    text, runs_files = "the test", True

    def __init__(self, folder: Path, graph: Graph) -> None:
        self.folder = folder
        self.sample = example_inputs(graph, distinct=True)
        self.expected: Any = None
        self.suffixes: list[str] = []

    def is_good(self, model: Model, files: Savable) -> bool:
        self.suffixes.append(files.suffix)
        path = self.folder / f"{len(self.suffixes)}{files.suffix}"
        files.save(path)
        if files.suffix == ".gopt":
            (result,) = runtime.load(path, threads=1)(self.sample)
        else:
            (result,) = Session(api.load(path)).run(self.sample).values()
        self.expected = result if self.expected is None else self.expected
        return bool(np.abs(result - self.expected).max() <= 1e-3 * np.abs(self.expected).max())


@pytest.mark.parametrize(
    ("name", "kernel", "region"),
    [
        ("dropped tail", "matmul_sub", 'graphopt.fused "d"'),
        ("wrong Winograd transform", "conv_winograd", 'Conv "y"'),
        ("wrong window in blocks", "maxpool", 'MaxPool "c"'),
    ],
)
def test_a_predicate_on_files_narrows_to_a_kernel(
    name: str, kernel: str, region: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, fault = broken(next(item.name for item in BROKEN if item.name.startswith(name)))
    if name == "dropped tail":  # as it is, an ArgMax behind it hides the fault
        graph = model("g (float[n,8] x, float[8,6] u) => (float[n,6] d) "
                      "{ a = Tanh(x) c = MatMul(a, u) d = Sub(c, big) }", big=(6,))  # fmt: skip
    fault.plant(monkeypatch)
    predicate = ByFiles(tmp_path, graph)
    found = bisect(graph, "O2", Target.parse("x86-64-v3"), predicate=predicate)
    assert found is not None and isinstance(found.error, PredicateKernelFault)
    assert found.error.kernel.startswith(kernel)
    assert found.as_dict() == {
        "stage": "kernel", "message": found.error.message, "region": region, "kernel": found.error.kernel,
        "blame": "schedule",
    }  # fmt: skip
    assert "is the first that, with its schedule instead of as plain loops, makes" in found.error.message
    assert predicate.suffixes[:2] == [".onnx", ".onnx"] and set(predicate.suffixes[2:]) == {".gopt"}


def test_a_wrong_lowering_is_in_the_plain_loops_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, fault = broken("swapped operands")
    fault.plant(monkeypatch)
    with pytest.raises(
        InputError, match="nor with one in which 1 of 1 regions are loops without a schedule"
    ) as caught:
        bisect(graph, "O2", Target.parse("x86-64-v3"), predicate=ByFiles(tmp_path, graph))
    assert caught.value.hint == "write it as FILE.py:FUNCTION to find the kernel"


def test_an_artifact_is_checked_against_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, fault = broken("swapped operands")
    target = Target.parse("x86-64-v3")
    samples = [{name: np.full((2, 8), value, np.float32) for name, value in (("x", 3), ("u", 1))}]
    assert compiled_fault(graph, target, compile_graph(graph, target), samples) is None
    fault.plant(monkeypatch)
    found = compiled_fault(graph, target, compile_graph(graph, target), samples)
    assert isinstance(found, KernelFault)
    assert 'kernel "sub" of region Sub "y" gives %y that differs by 2 of its largest value' in found.message
    assert "The lowering is to blame: loops without a schedule are wrong too" in found.message
    assert found.reproducer is not None
    assert [node.op for node in found.reproducer.graph.walk()] == ["Sub"]
    again = bisect(found.reproducer.graph, Pipeline.parse("O2"), target, inputs=[found.reproducer.inputs])
    assert again is not None and isinstance(again.error, KernelFault) and again.error.region == 'Sub "y"'


def test_a_wrong_memory_plan_is_told_from_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "g (float[4,8] x) => (float[4,4] y) { a = MatMul(x, v) b = MatMul(x, w) c = Softmax(a) y = Add(c, b) }"
    graph, target = model(text, v=(8, 4), w=(8, 4)), Target.parse("x86-64-v3")

    def overlapping(steps: Sequence[Iterable[Block]], size: Callable[[Block], int]) -> Arena[Block]:
        blocks = {block for step in steps for block in step}
        return Arena(dict.fromkeys(blocks, 0), max(map(size, blocks), default=0))

    monkeypatch.setattr(assemble, "pack", overlapping)
    found = bisect(graph, Pipeline.parse("O1"), target)
    assert found is not None and found.stage == "assembly"
    assert found.error.message.endswith(
        "The memory plan is to blame: with memory of its own for every value it is right"
    )


def test_what_this_machine_can_not_run_is_said() -> None:
    with pytest.raises(TargetError, match="this machine can't run code for cuda:sm_80"):
        bisect(model(TEXT), Pipeline.parse("O0"), Target.parse("cuda:sm_80"))


def test_inputs_that_do_not_fit(folder: Path) -> None:
    np.savez(folder / "in.npz", x=np.zeros((2, 5), np.float32))
    done = run("net.onnx", "--inputs", "in.npz")
    assert isinstance(done.exception, InputError) and "axis 1 must be 4" in done.exception.message
    with pytest.raises(InputError, match="no function"):
        (folder / "empty.py").write_text("")
        FunctionPredicate("empty.py:f")


def test_a_model_that_onnx_runtime_can_not_run() -> None:
    graph = parse_graph(
        'gir 1\ngraph "g" opset 26 {\nopset "com.nobody" 1\ninput %x: f32[2]\n%y: f32[2] = com.nobody.Foo(%x)\n'
        'return %y as "y"\n}'
    )
    with pytest.raises(EvaluationError, match="Foo"):
        bisect(graph, Pipeline.parse("O1"), None)


def test_a_pass_before_the_guilty_one_counts_in_the_fuel(folder: Path) -> None:
    (folder / "accuracy.py").write_text(PREDICATE)
    from graphopt.pipeline import load_plugin

    load_plugin(wrong_pass(folder, "wrong-three"))
    graph = model(TEXT.replace("y = Sigmoid(d)", "e = Identity(d) f = Identity(e) y = Sigmoid(f)"))
    pipeline = Pipeline.parse("simplify-identities,wrong-three")
    found = bisect(graph, pipeline, None, predicate=predicate_of("accuracy.py:accurate"))
    assert found is not None and isinstance(found.error, PredicateFault)
    assert (found.error.pass_name, found.error.pass_index, found.error.fuel) == ("wrong-three", 1, 3)
    assert found.error.hint == "graphopt opt --fuel 2 stops right before it"


class Moody:
    """A predicate that says what a test wrote down, in order, whatever it is asked."""

    text, runs_files = "the test", False

    def __init__(self, verdicts: str) -> None:
        self.verdicts = iter(verdicts)

    def is_good(self, model: Model, files: Savable) -> bool:
        return next(self.verdicts) == "+"


@pytest.mark.parametrize(
    ("text", "verdicts", "detail"),
    [
        ("y = Identity(a)", "+-++", "with 1 rewrite the model is not good once and good the next time"),
        ("y = Identity(a)", "+--", "with 0 rewrites the model is good once and not good the next time"),
        ("y = Neg(a)", "+-", "there is no rewrite, and the same model is good once and not the next time"),
    ],
)
def test_a_predicate_that_contradicts_itself_blames_no_rewrite(text: str, verdicts: str, detail: str) -> None:
    graph = model(f"g (float[n,4] x) => (float[n,4] y) {{ a = Neg(x) {text} }}")
    pipeline = Pipeline.parse("simplify-identities" if "Identity" in text else "fold-constants")
    with pytest.raises(InputError, match=f"predicate the test contradicts itself: {detail}"):
        bisect(graph, pipeline, None, predicate=Moody(verdicts))
