"""A fault, located: which rewrite of which pass changed which value, and how to see it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import InputError, VerifyError
from graphopt.ir.graph import Graph
from graphopt.verify.check import Mismatch


@dataclass(frozen=True)
class Rewrite:
    """One transaction of a pass.

    Attributes:
        index: which one of the pass it is, from 0; ``--fuel`` of the pass alone that stops before it.
        rule: the rule's name.
        root: label of the node that it was rooted at; empty where there is none.
        before: lines of ``.gir`` text of the nodes that it erased or changed.
        after: of those that it made or changed.
    """

    index: int
    rule: str
    root: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True)
class Reproducer:
    """The smallest part of a graph on which a pass, or a kernel, goes wrong in the same way.

    Attributes:
        graph: before the pass; its inputs are the values at the border of the part.
        inputs: what these were, by name.
        pipeline: text of the pass, or of the passes before the kernel.
        options: further options of the command that it needs.
        is_kernel: what goes wrong is a kernel, which ``graphopt bisect`` shows, else a pass, and ``opt`` does.
    """

    graph: Graph
    inputs: Mapping[str, Any]
    pipeline: str
    options: tuple[str, ...] = ()
    is_kernel: bool = False

    def save(self, folder: Path) -> str:
        """Writes ``before.onnx`` and ``inputs.npz`` into a folder, which is made.

        Returns:
            The command that shows the fault again.

        Raises:
            InputError: the folder can't be written.
            ModelError: the graph can't be written.
        """
        from graphopt import onnx_io
        from graphopt.ir.files import replacing

        try:
            folder.mkdir(parents=True, exist_ok=True)
            onnx_io.save(self.graph, folder / "before.onnx")
            with replacing(folder / "inputs.npz") as partial, partial.open("wb") as file:
                np.savez(file, **self.inputs)
        except OSError as error:
            raise InputError(f"{folder}: the reproducer can't be written ({error.strerror})") from error
        return self.command(folder)

    def command(self, folder: Path) -> str:
        """The command that shows the fault again, from files in ``folder``."""
        model, inputs = str(folder / "before.onnx"), ["--inputs", str(folder / "inputs.npz")]
        if self.is_kernel:
            words = ["graphopt", "bisect", model, self.pipeline, *inputs, *self.options]
        else:
            output = ["-o", str(folder / "after.onnx")]
            words = ["graphopt", "opt", model, *output, "-p", self.pipeline, *inputs, "--verify", "numeric"]
            words += self.options
        return shlex.join(words)


class NumericFault(VerifyError):
    """A pass changed numbers that it must not change.

    Attributes:
        mismatches: the values that differ, first in program order first; empty where the graph can't be run
            any more.
        pass_name: the guilty pass.
        pass_index: its place in the pipeline.
        rewrite: the single rewrite after which the numbers differ; None where replaying the pass did not
            show the fault again.
        reproducer: a small graph that shows it; None where no part does by itself.
    """

    def __init__(
        self,
        reason: str,
        *,
        mismatches: tuple[Mismatch, ...] = (),
        rewrite: Rewrite | None = None,
        reproducer: Reproducer | None = None,
        pass_name: str = "",
        pass_index: int = 0,
    ) -> None:
        self.reason = reason
        self.mismatches = mismatches
        self.rewrite = rewrite
        self.reproducer = reproducer
        self.pass_name = pass_name
        self.pass_index = pass_index
        super().__init__(_message(reason, rewrite))

    @property
    def value(self) -> str:
        """Name of the first value that differs; empty where the graph can't be run any more."""
        return self.mismatches[0].value if self.mismatches else ""

    @property
    def distance(self) -> float:
        """How far it is from what it was: largest error over largest value."""
        return self.mismatches[0].distance.measured if self.mismatches else float("inf")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        first = self.mismatches[0] if self.mismatches else None
        return {
            "pass": self.pass_name,
            "pass_index": self.pass_index,
            "reason": self.reason,
            "rewrite": None
            if self.rewrite is None
            else {
                "index": self.rewrite.index,
                "rule": self.rewrite.rule,
                "root": self.rewrite.root,
                "before": list(self.rewrite.before),
                "after": list(self.rewrite.after),
            },
            "value": self.value,
            "distance": self.distance,
            "allowed": None if first is None else first.distance.tolerance.allowed,
            "tolerance": None if first is None else first.distance.tolerance.reason,
            "detail": "" if first is None else first.distance.detail,
        }


def _message(reason: str, rewrite: Rewrite | None) -> str:
    if rewrite is None:
        return reason
    at = f" at {rewrite.root}" if rewrite.root else ""
    lines = [f'{reason}. It is rewrite {rewrite.index} of the pass, rule "{rewrite.rule}"{at}, which made of']
    lines += [f"    {line}" for line in rewrite.before or ("(nothing)",)]
    lines.append("this:")
    lines += [f"    {line}" for line in rewrite.after or ("(nothing)",)]
    return "\n".join(lines)
