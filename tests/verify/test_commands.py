"""``--verify numeric`` of ``opt`` and ``compile``: what is said, what is written, what is not."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from planted import FAULTS, model

from graphopt import api
from graphopt.backend.readers import READERS
from graphopt.bisect import KernelFault
from graphopt.cli.compile_command import command as compile_command
from graphopt.cli.opt_command import command as opt_command
from graphopt.ir.graph import Node
from graphopt.verify.fault import NumericFault

FAULT = next(fault for fault in FAULTS if fault.name.startswith("wrong scale"))
COMMANDS = {"opt": (opt_command, "o.onnx"), "compile": (compile_command, "o.gopt")}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    api.save(model(FAULT.graph), tmp_path / "net.onnx")
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_a_fault_is_told_with_a_command_that_shows_it(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, output = COMMANDS[name]
    FAULT.plant(monkeypatch)
    done = CliRunner().invoke(command, ["net.onnx", "-o", output, "--verify", "numeric"])
    fault = done.exception
    assert isinstance(fault, NumericFault)
    assert fault.message.startswith('pass "fuse-conv-bn": %d changed by 0.0')
    assert (
        "(f32" not in fault.message
        and "allowed: f32, 2 ops deep, sums of 27, approximate pass: 0.0001" in fault.message
    )
    assert 'rule "conv-bn" at BatchNormalization "d"' in fault.message
    assert not (folder / output).exists()
    assert fault.hint is not None and fault.hint.startswith(
        "see it again, on a part of the model: graphopt opt o.fault/"
    )
    words = shlex.split(fault.hint.partition("graphopt opt ")[2])
    again = CliRunner().invoke(opt_command, words)
    assert isinstance(again.exception, NumericFault)
    assert again.exception.rewrite is not None and again.exception.rewrite.rule == "conv-bn"
    assert sorted(path.name for path in (folder / "o.fault").iterdir()) == [
        "after.fault",
        "before.onnx",
        "inputs.npz",
    ]


def test_the_reproducer_goes_where_it_is_told_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULT.plant(monkeypatch)
    words = ["net.onnx", "-o", "o.onnx", "--verify", "numeric", "--reproducer", "elsewhere"]
    CliRunner().invoke(opt_command, words)
    assert sorted(path.name for path in folder.iterdir()) == ["elsewhere", "net.onnx"]
    CliRunner().invoke(opt_command, [*words[:3], "--verify", "structure"])
    assert sorted(path.name for path in folder.iterdir()) == ["elsewhere", "net.onnx", "o.onnx"]


def test_a_reproducer_that_can_not_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULT.plant(monkeypatch)
    (folder / "file").write_text("")
    words = ["net.onnx", "-o", "o.onnx", "--verify", "numeric", "--reproducer", "file/inside"]
    done = CliRunner().invoke(opt_command, words)
    assert isinstance(done.exception, NumericFault)
    assert 'rule "conv-bn"' in done.exception.message
    assert (
        done.exception.hint is not None
        and "file/inside: the reproducer can't be written" in done.exception.hint
    )


MOODY = """
from dataclasses import dataclass
import graphopt as go

RUNS = []

@go.register_pass("moody")
@dataclass(frozen=True)
class Moody(go.Pass):
    "Goes wrong the first time only."
    effect = go.Effect.EXACT

    def run(self, rewriter, context):
        nodes = rewriter.graph.nodes
        if not RUNS:
            RUNS.append(1)
            with rewriter.rewrite("moody", nodes[0]):
                rewriter.replace_node(nodes[0], rewriter.create("Neg", nodes[0].inputs).outputs)
"""


def test_of_a_fault_that_no_part_shows_it_is_said(folder: Path) -> None:
    (folder / "moody.py").write_text(MOODY)
    api.save(
        model("g (float[4] x) => (float[4] y) { a = Tanh(x) b = Exp(a) y = Sin(b) }"), folder / "net.onnx"
    )
    words = ["net.onnx", "-o", "o.onnx", "-p", "moody", "--plugin", "moody.py", "--verify", "numeric"]
    done = CliRunner().invoke(opt_command, words)
    assert isinstance(done.exception, NumericFault) and 'pass "moody": %a changed' in done.exception.message
    assert (
        done.exception.hint == "no part of the model shows it by itself; does the pass do the same each time?"
    )


def test_compile_runs_the_artifact_beside_onnx_runtime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "data").mkdir()
    for number in range(2):
        np.savez(folder / "data" / f"{number}.npz", x=np.full((1, 4), number - 0.5, np.float32))
    api.save(model("g (float[n,4] x) => (float[n,4] y) { a = Tanh(x) y = Sub(x, a) }"), folder / "sub.onnx")
    words = ["sub.onnx", "-o", "o.gopt", "--verify", "numeric", "--inputs", "data"]
    done = CliRunner().invoke(compile_command, words)
    assert done.exit_code == 0 and done.output.startswith("wrote o.gopt")
    read = READERS["Sub"]

    def wrong(context: object, node: Node, *rest: object) -> object:
        held = node._inputs
        node._inputs = held[::-1]
        try:
            return read(context, node, *rest)  # type: ignore[arg-type]
        finally:
            node._inputs = held

    monkeypatch.setitem(READERS, "Sub", wrong)
    done = CliRunner().invoke(compile_command, [*words[:2], "new.gopt", *words[3:]])
    assert isinstance(done.exception, KernelFault)
    assert 'kernel "tanh_sub" of region graphopt.fused "y" gives %y that differs' in done.exception.message
    assert not (folder / "new.gopt").exists()
    assert done.exception.hint is not None
    assert "graphopt bisect new.fault/before.onnx O2 --inputs new.fault/inputs.npz" in done.exception.hint


def test_what_can_not_be_verified_is_said(folder: Path) -> None:
    words = ["net.onnx", "-o", "o.gopt", "--verify", "numeric", "-t", "aarch64"]
    done = CliRunner().invoke(compile_command, words)
    assert done.exit_code == 0
    assert "not verified: this machine can't run code for aarch64" in done.output
