"""Passes and plugins that go wrong, through the command line: told where, exit code 2, nothing half written."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

MODEL = """gir 1
graph "g" opset 26 {
  input %x: f32[2]
  %a: f32[2] = Neg(%x) "first"
  %r: f32[2] = Relu(%a) "second"
  return %r as "out"
}
"""

PLUGIN = '''
import time
from dataclasses import dataclass, field

import graphopt as go
from graphopt.ir.types import tensor
from graphopt.rewrite import Rule, op, var


def whole_graph(name):
    """Registers a function as a pass."""

    def register(function):
        @go.register_pass(name)
        @dataclass(frozen=True)
        class Bad(go.Pass):
            """Goes wrong."""

            depth: int = field(default=1, metadata={"min": 1, "max": 3})

            def run(self, rewriter, context):
                function(rewriter, rewriter.graph.nodes[0])

        return function

    return register


@whole_graph("raises")
def _(rewriter, node):
    with rewriter.rewrite("half", node):
        rewriter.set_attr(node, "half", 1)
        raise KeyError("weights")


@whole_graph("invalid")
def _(rewriter, node):
    with rewriter.rewrite("retype", node):
        rewriter.set_type(node.output, tensor("i64", 2))


@whole_graph("rewrites-forever")
def _(rewriter, node):
    while True:
        with rewriter.rewrite("again", node):
            rewriter.set_attr(node, "count", rewriter.count)


@whole_graph("one-endless-rewrite")
def _(rewriter, node):
    with rewriter.rewrite("again", node):
        while True:
            rewriter.create("Neg", [node.output], region=rewriter.graph.body)


@whole_graph("loops")
def _(rewriter, node):
    while True: pass  # here


@whole_graph("loops-in-a-rewrite")
def _(rewriter, node):
    with rewriter.rewrite("slow", node):
        rewriter.set_attr(node, "half", 1)
        while True:
            try:
                list(range(99))
            except Exception:
                pass


@whole_graph("sleeps")
def _(rewriter, node):
    time.sleep(1000)  # here


@go.register_pass("ping-pong")
@dataclass(frozen=True)
class PingPong(go.PatternPass):
    """Turns Neg into Abs and back."""

    def rules(self):
        def swap(old, new):
            return Rule(old.lower(), op(old, var("x")), lambda r, m: r.create(new, [m["x"]]).output)

        return [swap("Neg", "Abs"), swap("Abs", "Neg")]


@whole_graph("keeps-the-lock")
def _(rewriter, node):
    import ctypes

    ctypes.PyDLL(None).sleep(60)  # there


@go.register_instrument("clumsy")
class Clumsy(go.Instrument):
    """Fails after the first pass."""

    def after(self, run):
        raise ValueError("no room")
'''
THERE = next(number for number, line in enumerate(PLUGIN.splitlines(), 1) if "# there" in line)
HERE = [number for number, line in enumerate(PLUGIN.splitlines(), 1) if "# here" in line]


def graphopt(*args: object, cwd: Path, largest_file: int | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command; no file that it writes may get larger than ``largest_file`` bytes, as on a full disk."""
    command = [sys.executable, "-c", "from graphopt.cli import main; main()", *map(str, args)]

    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, preexec_fn=limit)


def assert_refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for words in said:
        assert words in done.stderr, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m.gir").write_text(MODEL)
    (tmp_path / "bad.py").write_text(PLUGIN)
    return tmp_path


def opt(pipeline: str, *more: str) -> list[str]:
    return ["opt", "m.gir", "-o", "o.gir", "--plugin", "bad.py", "-p", pipeline, *more]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (opt("raises"), ['pass "raises": rule "half" failed at Neg "first": KeyError: \'weights\' (', "bad.py:"]),
        (opt("invalid"), ['pass "invalid": the graph is not valid', "> %r: f32[2] = Relu(%a)"]),
        (
            opt("ping-pong"),
            ['pass "ping-pong": rule "neg" at Neg "a"', "10024 rewrites were not enough", "bad.py:", "--max-rewrites"],
        ),
        (
            opt("rewrites-forever", "--max-rewrites", "70"),
            ['pass "rewrites-forever": rule "again" at Neg "first": ', " goes on and on, 70 rewrites were not enough"],
        ),
        (opt("one-endless-rewrite"), ['rule "again"', "one rewrite goes on and on"]),
        (
            opt("loops", "--pass-timeout", "0.2"),
            ['pass "loops": stopped after 0.2 s, at ', f"bad.py:{HERE[0]}", "--pass-timeout"],
        ),
        (
            opt("loops-in-a-rewrite", "--pass-timeout", "0.2"),
            ['pass "loops-in-a-rewrite": rule "slow" failed at Neg "first": stopped after 0.2 s, at '],
        ),
        (opt("sleeps", "--pass-timeout", "0.2"), ['pass "sleeps": stopped after 0.2 s, at ', f"bad.py:{HERE[1]}"]),
        (opt("O0", "--instrument", "clumsy"), ["instrument Clumsy: ValueError: no room (", "bad.py:"]),
        (opt("O0", "--instrument", "clumsi"), ['no instrument "clumsi"; did you mean "clumsy"?']),
        (opt("fuse-region"), ['no pass "fuse-region"; did you mean "fuse-regions"?', "column 1"]),
        (opt("O0,raises{dept=2}"), ['pass "raises" has no option "dept"; did you mean "depth"?', "column 11"]),
        (opt("raises{depth=4}"), ['pass "raises": depth must be from 1 to 3, not 4']),
        (opt("O0", "--pass-timeout", "0"), ["--pass-timeout"]),
        (opt("O0", "--max-rewrites", "0"), ["--max-rewrites"]),
    ],
    ids=lambda item: item[7] if "opt" in item else "",
)  # fmt: skip
def test_bad_passes_are_told_where(arguments: list[str], said: list[str], folder: Path) -> None:
    assert_refused(graphopt(*arguments, cwd=folder), *said)
    assert sorted(path.name for path in folder.iterdir()) == ["bad.py", "m.gir"]


def test_a_pass_that_keeps_pythons_lock_is_ended_with_its_stack(folder: Path) -> None:
    done = graphopt(*opt("keeps-the-lock", "--pass-timeout", "0.2"), cwd=folder)
    assert done.returncode == 1 and done.stderr.startswith("Timeout (0:00:04")
    assert f'bad.py", line {THERE} in' in done.stderr
    assert not (folder / "o.gir").exists()


def test_two_plugins_with_one_name_are_both_named(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "bad.py").write_text(
        PLUGIN[: PLUGIN.index("@whole_graph")] + PLUGIN[PLUGIN.index('@go.register_pass("p') :]
    )
    done = graphopt("passes", "--plugin", "bad.py", "--plugin", "more/bad.py", cwd=folder)
    first, second = folder / "bad.py", folder / "more" / "bad.py"
    assert_refused(done, f'the name "ping-pong": PingPong in {first} and PingPong in {second}', "rename one")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    (folder / "m.gir").write_text(MODEL)
    assert graphopt("compile", "m.gir", "-o", "m.gopt", cwd=folder).returncode == 0
    return folder / "m.gopt"


COMMANDS = {
    "opt-onnx": ("opt m.gir -p O0 -o", "o.onnx"),
    "opt-gir": ("opt m.gir -p O0 -o", "o.gir"),
    "opt-dump": ("opt m.gir -p O0 -o kept.gir --dump", "folder"),
    "compile": ("compile m.gir -p O0 -o", "o.gopt"),
    "run": ("run ARTIFACT --random -o", "o.npz"),
    "bench": ("bench m.gir --html", "o.html"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_can_not_be_written_is_told_before_the_work(
    command: str, folder: Path, artifact: Path
) -> None:
    words, name = COMMANDS[command]
    (folder / "file").write_text("in the way")
    for place in (f"file/{name}", *([] if "dump" in command else [f"missing/{name}"])):
        done = graphopt(*words.replace("ARTIFACT", str(artifact)).split(), place, cwd=folder)
        assert_refused(done, place, "can't be")
    assert sorted(path.name for path in folder.iterdir()) == ["bad.py", "file", "m.gir"]


WIDE = """gir 1
graph "g" opset 26 {
  input %x: f32[600]
  const %c: i64[600] = ITEMS
  %y: f32[600] = Gather(%x, %c)
  return %y as "out"
}
""".replace("ITEMS", str(list(range(599, -1, -1))))


@pytest.mark.parametrize("name", ["o.onnx", "o.gir"])
def test_a_disk_that_fills_up_leaves_the_old_file(name: str, folder: Path) -> None:
    (folder / "m.gir").write_text(WIDE)
    (folder / name).write_text("old")
    done = graphopt("opt", "m.gir", "-p", "O0", "-o", name, cwd=folder, largest_file=200)
    assert_refused(done, name, "can't be written")
    assert (folder / name).read_text() == "old"
    assert sorted(path.name for path in folder.iterdir()) == sorted(["bad.py", "m.gir", name])
