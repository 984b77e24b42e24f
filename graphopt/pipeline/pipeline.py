"""A pipeline: passes in order, with a text form, run on a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from graphopt.errors import PipelineError
from graphopt.ir.collector import paused_collector
from graphopt.ir.graph import Graph
from graphopt.ir.semantics import Semantics
from graphopt.pipeline.base import Context, Pass
from graphopt.pipeline.report import Report
from graphopt.pipeline.settings import Limits, Progress, Verify
from graphopt.pipeline.text import parse_passes

if TYPE_CHECKING:
    from graphopt.pipeline.instruments import Instrument


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Passes in order. ``Pipeline.parse(str(pipeline)) == pipeline``."""

    passes: tuple[Pass, ...]

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """The pipeline of a text such as ``"O1,prune-magnitude{sparsity=0.5}"``.

        Raises:
            PipelineError: with the place in the text.
        """
        return cls(parse_passes(text))

    def __str__(self) -> str:
        return ",".join(str(pass_) for pass_ in self.passes)

    def run(
        self,
        graph: Graph,
        *,
        context: Context | None = None,
        verify: Verify = "structure",
        fuel: int | None = None,
        limits: Limits | None = None,
        dump_dir: Path | None = None,
        instruments: Sequence[Instrument] = (),
        progress: Progress | None = None,
        semantics: Semantics | None = None,
    ) -> Report:
        """Runs the passes on ``graph``, in place; when one fails, the graph stays as its last finished
        rewrite left it. Each pass adds its text to the graph's metadata ``graphopt.pipeline``.

        Args:
            context: target, sample inputs and so on.
            verify: after each pass check the structure of what it touched; ``"numeric"``: also run the
                graph before and after in ONNX Runtime; ``"off"``: nothing.
            fuel: rewrites allowed in all; passes end quietly when it is spent.
            limits: what a single pass may take before it is stopped; by default rewrites in proportion
                to the size of the graph, and any time.
            dump_dir: where to write the graph after each pass as ``003_name.gir``.
            instruments: hear of every pass, before it first and after it last.
            progress: called with (index, number of passes, name) before each pass.
            semantics: knowledge of operators, by default that of ``graphopt.ops``.

        Raises:
            VerifyError: a pass broke the graph or changed its numbers.
            PassError: a pass or an instrument failed, or a pass went over its limits.
            InputError: a sample does not fit the graph's inputs.
            PipelineError: there is no such way to verify.
        """
        from graphopt.pipeline.runner import Runner

        if verify not in get_args(Verify):
            raise PipelineError(f"verify={verify!r} is not one of {', '.join(get_args(Verify))}")
        runner = Runner(
            self.passes, str(self), graph, context or Context(), verify=verify, limits=limits or Limits(),
            dump_dir=dump_dir, instruments=instruments, semantics=semantics,
        )  # fmt: skip
        with paused_collector():
            return runner.run(fuel, progress)
