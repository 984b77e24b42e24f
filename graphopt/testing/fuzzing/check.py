"""Runs passes on a graph and says what is wrong with what they made."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.errors import EvaluationError, GraphoptError, PassError
from graphopt.ir.builder import copy_graph
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.printer import print_graph
from graphopt.ir.transaction import EventKind, Transaction
from graphopt.ir.types import DType
from graphopt.pipeline import Context, Effect, Pipeline
from graphopt.pipeline.instruments import Instrument, PassRun
from graphopt.rewrite import Assumes
from graphopt.testing.fuzzing.compare import beyond, differs, types_differ
from graphopt.testing.fuzzing.noise import (
    JUMPS,
    SIGNED_ZERO_JUMPS,
    affected,
    allowed,
    behind,
    overflowing,
    runs_of,
    scattered,
)
from graphopt.testing.fuzzing.values import sample_inputs

if TYPE_CHECKING:
    from graphopt.runtime.executable import Executable

COMPILED = "compile"
"""The case of a graph that is optimized by O2, compiled for this machine, and run."""
_ROUNDED_SLACK = 1000.0
"""By how much more results may differ where constants within 1e-4 are taken for the exact ones."""
QUIRKS = frozenset({"layer-norm"})
"""Rules whose result ONNX Runtime computes by a worse formula than what they replace: the variance of a
LayerNormalization is a difference of means there. The reference evaluator has the last word about them."""
QUIRKY_OPS = frozenset({"Where"})
"""Operators that ONNX Runtime computes wrongly in a corner: its Where makes +0.0 of a -0.0 that it takes from
the first of the two operands. Where a rule changes one, the reference evaluator has the last word."""
_FOLDED = frozenset({"constant", "compute-weight"})
"""Rules that compute, in ONNX Runtime where it can: not to the bit what the reference evaluator gives."""
_OTHER_SEED = 2
_COMPILED_SLACK = 8.0
"""Kernels approximate functions such as Exp and Tanh a little less closely than ONNX Runtime does."""


@dataclass(frozen=True)
class Case:
    """A pipeline to check: its text, what prepares a graph for it, and the target given to it (and, if it
    is another, to what prepares)."""

    text: str
    prepare: str = ""
    target: str = ""
    prepare_target: str = ""

    def __str__(self) -> str:
        after = f" after {self.prepare}" if self.prepare else ""
        return f"{self.text}{after}{f' for {self.target}' if self.target else ''}"


@dataclass(frozen=True)
class Finding:
    """Something wrong: what kind (``fails``, ``invalid``, ``does not run``, ``differs``), and the words."""

    case: Case
    kind: str
    message: str
    rules: tuple[str, ...]
    graph: Graph
    seed: int

    def __str__(self) -> str:
        fired = f" (rules: {', '.join(self.rules)})" if self.rules else ""
        return f"{self.case}: {self.kind}: {self.message}{fired}"


@dataclass
class Tally:
    """What was done: graphs, those that no engine runs, comparisons by how they were made, rules applied."""

    graphs: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    compared: Counter[str] = field(default_factory=Counter)
    fired: Counter[str] = field(default_factory=Counter)


class _Watch(Instrument):
    """Which rules of which pass were applied, what they assume, and which nodes they touched."""

    def __init__(self) -> None:
        self.rules: list[str] = []
        self.assumes: set[Assumes] = set()
        self.lossy = False
        self.touched: dict[Node, None] = {}
        self._now: set[str] = set()

    def before(self, run: PassRun) -> None:
        self._now = set()
        run.rewriter.listeners.append(self)

    def after(self, run: PassRun) -> None:
        self.assumes.update(run.pass_.assumed(self._now))
        self.lossy |= bool(self._now) and run.pass_.effect is Effect.LOSSY

    def committed(self, transaction: Transaction) -> None:
        self._now.add(transaction.rule)
        self.rules.append(transaction.rule)
        for event in transaction.events:
            if event.node is not None and event.kind is not EventKind.INSERTED:
                self.touched[event.node] = None


@dataclass(frozen=True)
class _Baseline:
    graph: Graph
    engine: str
    outputs: list[dict[str, Any]]


class Examination:
    """One graph, evaluated once, on which any number of passes can be checked.

    Args:
        graph: stays as it is.
        seed: of the inputs; see :func:`~graphopt.testing.fuzzing.values.sample_inputs`.
        samples: inputs to use instead: the first without infinities, NaN and the like.
        tally: takes up the counts.
    """

    def __init__(
        self,
        graph: Graph,
        seed: int = 0,
        *,
        samples: Sequence[Mapping[str, Any]] | None = None,
        tally: Tally | None = None,
    ) -> None:
        self.graph = graph
        self.seed = seed
        self.tally = tally or Tally()
        self.samples = samples or [sample_inputs(graph, seed), sample_inputs(graph, seed, wild=True)]
        self._prepared: dict[tuple[str, str], _Baseline | None] = {}
        self.tally.graphs += 1

    def check(self, case: Case) -> Finding | None:
        """Runs the pipeline of ``case`` on a copy and compares; what is wrong, None if nothing is."""
        baseline = self._baseline(case)
        if baseline is None:
            return None
        copy, watch = copy_graph(baseline.graph), _Watch()
        nodes = dict(zip(copy.walk(), baseline.graph.walk(), strict=True))
        found = functools.partial(Finding, case, graph=self.graph, seed=self.seed)
        try:
            _run(copy, case.text, case.target, watch)
        except PassError as error:
            if (
                error.hint is not None
                and "fault of the pass" not in error.hint
                and "rule" not in error.message
            ):
                self.tally.compared["refused by the pass"] += 1
                return None
            return found("fails", str(error), tuple(watch.rules))
        except GraphoptError as error:
            return found("invalid", str(error), tuple(dict.fromkeys(watch.rules)))
        rules = tuple(dict.fromkeys(watch.rules))
        self.tally.fired.update(rules)
        if not rules:
            return None
        try:
            after = _outputs(copy, baseline.engine, self.samples[: len(baseline.outputs)])
        except GraphoptError as error:
            return found("does not run", str(error), rules)
        changed = [nodes[node] for node in watch.touched if node in nodes]
        wrong = self._compare(baseline, after, watch, changed)
        if (
            wrong
            and baseline.engine == "ort"
            and (
                QUIRKS & set(rules)
                or any(node.op in QUIRKY_OPS and not node.domain for node in changed)
                or _is_narrow(baseline.graph)
            )
            and self._reference_agrees(baseline, copy, watch, changed)
        ):
            self.tally.compared["the engine differs, not the pass"] += 1
            return None
        return found("differs", wrong, rules) if wrong else None

    def compiled(self) -> Finding | None:
        """Compiles the graph after O2 for this machine, runs it on two samples, of different sizes where
        they are symbolic, and compares; what is wrong, if anything."""
        from graphopt.api import compile, optimize
        from graphopt.errors import CompileError

        if self._baseline(Case(COMPILED)) is None:
            return None
        found = functools.partial(Finding, Case(COMPILED), rules=(), graph=self.graph, seed=self.seed)
        try:
            artifact = compile(optimize(self.graph, "O2", target="native"), "native")
        except CompileError as error:
            self.tally.compared[f"not compiled: {error.message[:60]}"] += 1
            return None
        except Exception as error:  # A fault of the compiler's may be of any type.
            return found("fails", f"{type(error).__name__}: {error}")
        try:
            with artifact.load(threads=1) as executable:
                for examination in (self, Examination(self.graph, self.seed + _OTHER_SEED)):
                    if wrong := examination._run_compiled(executable):
                        return found("differs", wrong)
        except GraphoptError as error:
            return found("does not run", str(error))
        return None

    def _run_compiled(self, executable: Executable) -> str:
        """How what the compiled graph gives differs; "" if it does not."""
        baseline = self._baseline(Case(COMPILED))
        if baseline is None:
            return ""
        values = [np.array(value) for value in executable(dict(self.samples[0]))]
        after = dict(zip(baseline.outputs[0], values, strict=True))
        return self._compare_roundings(baseline, after, list(baseline.graph.walk()), slack=_COMPILED_SLACK)

    def _baseline(self, case: Case) -> _Baseline | None:
        key = (case.prepare, (case.prepare_target or case.target) if case.prepare else "")
        if key not in self._prepared:
            self._prepared[key] = self._evaluated(case)
        return self._prepared[key]

    def _evaluated(self, case: Case) -> _Baseline | None:
        from graphopt.evaluate import Session

        graph = self.graph
        outputs = []
        try:
            if case.prepare:
                graph = copy_graph(graph)
                _run(graph, case.prepare, case.prepare_target or case.target, Instrument())
            with Session(graph) as session:
                for sample in self.samples:
                    outputs.append(session.run(sample))
        except GraphoptError as error:
            if not outputs:
                self.tally.refused[error.message[:70]] += 1
                return None
        if not all(
            _fits(v, array)
            for found in outputs
            for v, array in zip(graph.outputs, found.values(), strict=True)
        ):
            # ONNX Runtime does so with reductions of tensors without elements.
            self.tally.refused["the engine contradicts the types"] += 1
            return None
        return _Baseline(graph, session.engine, outputs)

    def _compare(
        self, baseline: _Baseline, after: list[dict[str, Any]], watch: _Watch, changed: list[Node]
    ) -> str:
        if watch.lossy:
            self.tally.compared["types only"] += 1
            return types_differ(baseline.outputs[0], after[0])
        rounds = _is_narrow(baseline.graph) if baseline.engine == "ort" else bool(_FOLDED & set(watch.rules))
        if rounds or Assumes.REASSOCIATION in watch.assumes:
            slack = _ROUNDED_SLACK if Assumes.ROUNDED_CONSTANTS in watch.assumes else 1.0
            return self._compare_roundings(baseline, after[0], changed, slack=slack)
        finite_only = watch.assumes & {Assumes.NO_NAN, Assumes.NO_INF}
        unsigned = Assumes.SIGN_OF_ZERO in watch.assumes
        skip = [False] * len(baseline.graph.outputs)
        if unsigned:
            skip = behind(baseline.graph, affected(baseline.graph, changed), SIGNED_ZERO_JUMPS)
        self.tally.compared["but for signs of zero" if unsigned else "bit by bit"] += 1
        for old, new in list(zip(baseline.outputs, after, strict=True))[: 1 if finite_only else None]:
            for name, hidden in zip(old, skip, strict=True):
                wrong = "" if hidden else differs(old[name], new[name], unsigned=unsigned)
                if wrong:
                    return f'output "{name}": {wrong}'
        return ""

    def _reference_agrees(
        self, baseline: _Baseline, graph: Graph, watch: _Watch, changed: list[Node]
    ) -> bool:
        try:
            samples = self.samples[: len(baseline.outputs)]
            before, after = (_outputs(g, "reference", samples) for g in (baseline.graph, graph))
        except GraphoptError:
            return False
        return not self._compare(_Baseline(baseline.graph, "reference", before), after, watch, changed)

    def _compare_roundings(
        self, baseline: _Baseline, after: dict[str, Any], changed: list[Node], *, slack: float = 1.0
    ) -> str:
        """Compares up to what other roundings may do, on the sample without infinities."""
        before, sample = baseline.outputs[0], self.samples[0]
        nodes = affected(baseline.graph, changed)
        hidden = behind(baseline.graph, nodes, JUMPS)
        self.tally.compared["up to roundings"] += not all(hidden)
        self.tally.compared["behind a jump: types only"] += all(hidden)
        wrong = types_differ(before, after)
        if wrong or all(hidden):
            return wrong
        close = [h or not differs(before[n], after[n]) for n, h in zip(before, hidden, strict=True)]
        if all(close):
            return ""
        try:
            runs = runs_of(scattered(baseline.graph, nodes), baseline.engine, sample)
        except EvaluationError:
            self.tally.compared["noise does not run"] += 1
            return ""
        for place, (name, skip) in enumerate(zip(before, close, strict=True)):
            wrong = "" if skip else _beyond(before[name], after[name], [run[place] for run in runs], slack)
            if not wrong:
                continue
            if baseline.graph.outputs[place] in self._behind_overflow(baseline, nodes):
                self.tally.compared["behind an overflow: types only"] += 1
                continue
            return f'output "{name}": {wrong}'
        return ""

    def _behind_overflow(self, baseline: _Baseline, nodes: set[Node]) -> set[Value]:
        """What depends on infinities that ``nodes`` make of the first sample."""
        starts = overflowing(baseline.graph, nodes, baseline.engine, self.samples[0])
        return {value for node in affected(baseline.graph, list(starts)) - starts for value in node.outputs}


def _run(graph: Graph, text: str, target: str, watch: Instrument) -> None:
    from graphopt.targets import Target

    quiet = logging.getLogger("graphopt.testing.quiet")
    quiet.disabled = True
    context = Context(target=Target.parse(target) if target else None, logger=quiet)
    Pipeline.parse(text).run(graph, context=context, instruments=[watch])


def _beyond(old: Any, new: Any, runs: list[Any], slack: float) -> str:
    a = np.asarray(old)
    if a.dtype.kind in "OSUbiu":
        return differs(old, new)
    limit = slack * allowed(a, [np.asarray(run) for run in runs], DType.of(a.dtype))
    wrong = beyond(old, new, limit)
    return f"{wrong}, where roundings explain {float(limit.max()):.3g}" if wrong else ""


def _fits(value: Value, array: Any) -> bool:
    """Whether an output has the known sizes of its type."""
    shape = value.tensor.shape
    if shape is None or isinstance(array, list) or array is None:
        return True
    pairs = list(zip(shape, np.shape(array), strict=False))
    return len(shape) == np.ndim(array) and all(not isinstance(d, int) or d == size for d, size in pairs)


def _is_narrow(graph: Graph) -> bool:
    """Whether there are floats of 16 bits, which ONNX Runtime computes in 32 and rounds, or does not, where it
    likes: what overflows 16 bits may come out finite."""
    values = (value for node in graph.walk() for value in node.outputs)
    return any(value.tensor.dtype in (DType.F16, DType.BF16) for value in values)


def _outputs(graph: Graph, engine: str, samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    from graphopt.evaluate import Session

    with Session(graph, engine) as session:  # type: ignore[arg-type]
        return [session.run(sample) for sample in samples]


def assert_keeps_meaning(
    passes: str, graph: Graph, seed: int = 0, *, prepare: str = "", target: str = ""
) -> None:
    """Asserts that a pass fails on ``graph`` nowhere, makes a valid graph of it, and keeps its numbers, but
    for what the rules that are applied declare to assume of floats.

    Args:
        passes: text of a pass or pipeline.
        graph: stays as it is.
        seed: of the inputs, and of the sizes of symbols.
        prepare: text of a pipeline that the graph goes through first.
        target: given to the passes.

    Raises:
        AssertionError: with the graph as text.
    """
    found = Examination(graph, seed).check(Case(passes, prepare, target))
    if found is not None:
        raise AssertionError(report(found))


def reproduction(finding: Finding, path: str, plugins: Sequence[Path] = ()) -> str:
    """The command line that shows the finding again, with its graph in the file ``path``."""
    words = [
        f"python -m graphopt.testing.fuzzing {path} --seed {finding.seed} --passes '{finding.case.text}'"
    ]
    words += [f"--prepare '{finding.case.prepare}'"] if finding.case.prepare else []
    words += [f"--target {finding.case.target}"] if finding.case.target else []
    words += [f"--prepare-target {finding.case.prepare_target}"] if finding.case.prepare_target else []
    words += [f"--plugin {plugin}" for plugin in plugins]
    return " ".join(words)


def report(finding: Finding, path: str = "", plugins: Sequence[Path] = ()) -> str:
    """The finding in words, the graph as text, and how to see it again.

    Args:
        path: the file that the graph was written to, if it was.
        plugins: files whose passes are needed.
    """
    again = f"{'' if path else 'with this graph in failing.gir: '}{reproduction(finding, path or 'failing.gir', plugins)}"
    return f"{finding}\n\n{print_graph(finding.graph)}\n{again}"


def cases(names: Sequence[str] = (), *, package: str = "") -> list[Case]:
    """All registered passes and pipelines, each where it has something to do; or those of ``names``.

    Args:
        package: only those that a module of this package registered.
    """
    from graphopt.pipeline import passes, pipelines

    int8 = pipelines()["int8"].text.replace("quantize-static", "quantize-static{samples=2}")
    special = {
        "inline-regions": Case("inline-regions", "O1,fuse-attention,fuse-regions"),
        "assign-layouts": Case("assign-layouts", "O1,fuse-conv-bn,fuse-regions", "x86-64-v3"),
        "quantize-static": Case("quantize-static{samples=2}"),
        "int8": Case(int8),
    }
    more = {
        "eliminate-common-subexpressions": ["{max_constant_bytes=0}"],
        "fold-constants": ["{max_growth=0}"],
        "fuse-regions": ["{max_ops=3}"],
        "prune-magnitude": ["{scope=global}"],
        "quantize-static": ["{samples=1 per_channel=false symmetric=true}"],
    }
    found = []
    every = {
        **{n: p.__module__ for n, p in passes().items()},
        **{n: p.module for n, p in pipelines().items()},
    }
    for name in names or [name for name, module in every.items() if module.startswith(package)]:
        found.append(special.get(name, Case(name)))
        if not names:
            found += [Case(name + options) for options in more.get(name, ())]
            found += [Case(name, target="x86-64-v3")] if name in ("O2", "fuse-regions") else []
            if name == "assign-layouts":
                laid_out = "O1,fuse-conv-bn,fuse-regions,assign-layouts"
                found.append(Case(name, laid_out, "x86-64-v3", "aarch64"))
            if name == "lower-int8":
                found.append(Case(name, "O1,quantize-static{samples=2}"))
    return [dataclasses.replace(case) for case in found]
