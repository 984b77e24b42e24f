"""Which kernel of a compiled graph is wrong, and whether its schedule or its lowering is to blame.

Every kernel is compiled as in the whole artifact, and run on the values that ONNX Runtime gives for what it
reads, with memory of its own for each; so a fault of one kernel can't hide behind, or pass for, that of
another or of the memory plan. The guilty one is then
made again in plainer ways: as it was before tuning, without fast arithmetic (Winograd's transforms, floats in
parts on AMX), in row-major order, and as loops straight from the
definition of its operators, without a hand-written schedule. The first that is right tells what was wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from graphopt.backend.artifact import Artifact
from graphopt.backend.compile import KERNEL_ERROR, compile_graph
from graphopt.backend.contiguous import is_view
from graphopt.bisect.pieces import Pieces, detached
from graphopt.bisect.row_major import without_layouts
from graphopt.errors import CompileError, GraphoptError
from graphopt.ir.builder import copy_graph
from graphopt.ir.captures import operands
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.printer import Printer
from graphopt.pipeline import Context, Pipeline
from graphopt.pipeline.settings import Progress
from graphopt.targets import Target
from graphopt.verify.cone import path_between
from graphopt.verify.distance import Distance, compare
from graphopt.verify.expressions import Expressions
from graphopt.verify.fault import Reproducer
from graphopt.verify.reduce import cut_out
from graphopt.verify.tolerance import Effect, Path, Tolerance
from graphopt.verify.values import Values

Blame = Literal["schedule", "lowering", "kernel"]
_STEPPING = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "Round", "Floor", "Ceil", "QLinearConv", "QLinearMatMul"}
)
"""Operators that make a whole step of the smallest difference."""
_STEP = 0.02


class KernelFault(GraphoptError):
    """A kernel computes something else than its region.

    Attributes:
        region: label of the region, a node of the graph.
        kernel: the kernel's name; empty where it is not known.
        value: the value that differs.
        distance: by how much.
        sample: on which sample.
        blame: ``schedule``: a plainer form of the kernel is right; ``lowering``: the unscheduled form is wrong
            too; ``kernel``: there is no unscheduled form.
        plainer: the plainest change that makes it right, in words; empty where none does.
        body: the region's nodes as ``.gir`` text.
        reproducer: the region as a model of its own that shows the fault; None where it does not by itself.
    """

    def __init__(
        self, region: str, kernel: str, value: str, distance: Distance, sample: int, body: tuple[str, ...]
    ) -> None:
        self.region = region
        self.kernel = kernel
        self.value = value
        self.distance = distance
        self.sample = sample
        self.body = body
        self.blame: Blame = "kernel"
        self.plainer = ""
        self.reproducer: Reproducer | None = None
        super().__init__(self._text())

    def blamed(self, blame: Blame, plainer: str) -> KernelFault:
        """The same with what is to blame."""
        self.blame, self.plainer = blame, plainer
        self.message = self._text()
        self.args = (self.message,)
        return self

    def _text(self) -> str:
        found = self.distance
        by = "" if found.measured == float("inf") else f" by {found.measured:.3g} of its largest value"
        detail = f" ({found.detail})" if found.detail else ""
        what = f'kernel "{self.kernel}" of ' if self.kernel else ""
        why = {
            "schedule": f"The schedule is to blame: {self.plainer} it is right",
            "lowering": "The lowering is to blame: loops without a schedule are wrong too",
            "kernel": "It has no form without a schedule to compare with",
        }[self.blame]
        lines = [
            f"{what}region {self.region} gives %{self.value} that differs{by} from ONNX Runtime{detail}; "
            f"allowed: {found.tolerance.reason}. {why}. The region is"
        ]
        return "\n".join([*lines, *(f"    {line}" for line in self.body)])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "region": self.region, "kernel": self.kernel, "value": self.value, "blame": self.blame,
            "plainer": self.plainer, "distance": self.distance.measured,
            "allowed": self.distance.tolerance.allowed, "tolerance": self.distance.tolerance.reason,
            "detail": self.distance.detail, "body": list(self.body),
        }  # fmt: skip


@dataclass(frozen=True)
class Making:
    """How kernels are made; see :func:`graphopt.backend.compile.compile_graph`."""

    target: Target
    kernel_error: float = KERNEL_ERROR
    choices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    scheduled: bool = True
    memory_plan: bool = True

    def compile(self, graph: Graph, progress: Progress) -> Artifact:
        """The artifact of a graph."""
        return compile_graph(
            graph, self.target, kernel_error=self.kernel_error, choices=self.choices,
            unscheduled=frozenset(() if self.scheduled else graph.nodes), memory_plan=self.memory_plan,
            progress=progress,
        )  # fmt: skip


@dataclass
class Reference:
    """What ONNX Runtime gives for all values of a graph, on samples."""

    graph: Graph
    samples: Sequence[Mapping[str, Any]]

    def __post_init__(self) -> None:
        self.expressions = Expressions()
        self.ids = self.expressions.number(self.graph)
        self.values = Values(self.expressions, list(self.samples), dict(self.graph.opset))
        self.values.evaluate([self.ids[value] for value in self.graph.outputs])

    def of(self, value: Value, sample: int) -> Any:
        """A value on a sample.

        Raises:
            EvaluationError: ONNX Runtime can't compute it.
        """
        number = self.ids[value]
        self.values.evaluate([number])
        return self.values.of(number)[sample]

    def whole_path(self, value: Value) -> Path:
        """What lies between the graph's inputs and a value."""
        return path_between(self.expressions, self.ids[value], (), self.values.shape)

    def path(self, node: Node, value: Value) -> Path:
        """What lies between the operands of a node and a value that it makes."""
        leaves = {self.ids[operand] for operand in node.inputs if operand is not None and operand in self.ids}
        return path_between(self.expressions, self.ids[value], leaves - {self.ids[value]}, self.values.shape)


def kernel_fault(
    graph: Graph,
    making: Making,
    reference: Reference,
    *,
    pipeline: str = "O2",
    progress: Progress = lambda done, total, step: None,
) -> KernelFault | None:
    """The first kernel of a graph, in program order, that is wrong; None where all are right.

    Args:
        graph: what was compiled.
        making: how; this machine must run code for its target.
        reference: of the same graph.
        pipeline: the passes that made the regions, for what reproduces a fault.
        progress: called with (steps done, steps in all, what comes next).

    Raises:
        CompileError: the graph can't be compiled.
        EvaluationError: ONNX Runtime can't run the graph.
    """
    nodes = [node for node in graph.body if not is_view(node)]
    first = next(_wrong(graph, nodes, making, reference, progress), None)
    if first is None:
        return None
    node, kernel, value, sample, distance = first
    fault = KernelFault(node.label, kernel, value.name, distance, sample, _lines(node))
    progress(1, 1, "plainer forms")
    fault.reproducer = _reproducer(graph, node, making, reference, sample, pipeline)
    return fault.blamed(*_blame(graph, node, making, reference))


def _reproducer(
    graph: Graph, node: Node, making: Making, reference: Reference, sample: int, pipeline: str
) -> Reproducer | None:
    """The region as a model that, through the same passes, shows the fault; None where it does not."""
    from graphopt import onnx_io

    plain = without_layouts(graph)
    originals = dict(zip(_values(plain), _values(graph), strict=True))
    try:
        cut = cut_out([plain.nodes[graph.nodes.index(node)]], plain)
        inputs = {name: np.asarray(reference.of(originals[value], sample)) for value, name in cut.border}
        again = onnx_io.load(onnx_io.to_proto(cut.graph))
        trial = copy_graph(again)
        Pipeline.parse(pipeline).run(trial, context=Context(target=making.target), verify="off")
        nodes = [item for item in trial.body if not is_view(item)]
        # Without what tuning chose: the command line has no way to say that of one kernel.
        untuned = replace(making, choices={})
        if next(_wrong(trial, nodes, untuned, Reference(trial, [inputs])), None) is None:
            return None
    except (GraphoptError, KeyError):
        return None
    target = making.target
    options = ["--target", "native" if target == Target.parse("native") else target.text]
    if making.kernel_error != KERNEL_ERROR:
        options += ["--kernel-error", str(making.kernel_error)]
    return Reproducer(again, inputs, pipeline, tuple(options), is_kernel=True)


def _wrong(
    graph: Graph,
    nodes: Sequence[Node],
    making: Making,
    reference: Reference,
    progress: Progress = lambda done, total, step: None,
) -> Iterator[tuple[Node, str, Value, int, Distance]]:
    """Which of ``nodes`` of ``graph`` are computed wrongly, in program order: by which kernel, which value."""
    pieces = detached(graph, [[node] for node in nodes])
    if not pieces.results:
        return
    artifact = replace(making, memory_plan=False).compile(pieces.graph, progress)
    kernels = artifact.variants[0].kernels
    with artifact.load(threads=1) as executable:
        for sample in range(len(reference.samples)):
            outputs = executable(_feeds(pieces, reference, sample))
            for (value, place), actual in zip(pieces.results, outputs, strict=True):
                distance = kernel_distance(actual, nodes[place], value, reference, sample)
                if distance.is_fault:
                    label = pieces.copies[place][0].label
                    kernel = next((name for name, regions in kernels.items() if label in regions), "")
                    yield nodes[place], kernel, value, sample, distance


def _feeds(pieces: Pieces, reference: Reference, sample: int) -> dict[str, Any]:
    border = {name: np.asarray(reference.of(value, sample)) for value, name in pieces.names.items()}
    own = {value.name for value in pieces.graph.inputs} - set(border)
    return {**{name: array for name, array in reference.samples[sample].items() if name in own}, **border}


def kernel_distance(actual: Any, node: Node, value: Value, reference: Reference, sample: int) -> Distance:
    """How far a kernel's result is from ONNX Runtime's, with what a kernel may differ by."""
    inner = list(node.body) if node.is_fused else [node]
    distance = compare(actual, reference.of(value, sample), Effect.APPROXIMATE, reference.path(node, value))
    dtype = value.tensor.dtype
    if dtype is not None and dtype.is_float and any(makes_steps(item) for item in inner):
        allowed = max(_STEP, distance.tolerance.allowed)
        reason = f"{dtype.text}, of what is rounded to steps: {allowed:.2g}"
        return Distance(distance.measured, Tolerance(allowed, reason), distance.detail)
    return distance


def makes_steps(node: Node) -> bool:
    """Whether the smallest difference of what a node reads may become a whole step of what it makes."""
    if node.op == "Cast" and not node.domain:
        source, made = node.inputs[0], node.output.tensor.dtype
        floats = source is not None and source.tensor.dtype is not None and source.tensor.dtype.is_float
        return floats and made is not None and not made.is_float
    return node.op in _STEPPING


def _blame(graph: Graph, node: Node, making: Making, reference: Reference) -> tuple[Blame, str]:
    """Makes the kernel of one node in plainer ways until it is right."""

    def is_right(source: Graph, **changes: Any) -> bool:
        known = _Renamed(reference, dict(zip(_values(source), _values(graph), strict=True)))
        item = source.nodes[place]
        return next(_wrong(source, [item], replace(making, **changes), known), None) is None

    place, plain = graph.nodes.index(node), without_layouts(graph)
    if making.choices and is_right(graph, choices={}):
        return "schedule", "as it was before tuning"
    if making.kernel_error and is_right(graph, kernel_error=0.0):
        return "schedule", "without fast arithmetic (kernel error 0)"
    if _has_layouts(node) and is_right(plain):
        return "schedule", "in row-major order"
    try:
        if is_right(plain, kernel_error=0.0, choices={}, scheduled=False):
            return "schedule", "as loops without a schedule"
    except CompileError:
        return "kernel", ""
    return "lowering", ""


def _has_layouts(node: Node) -> bool:
    values = [*operands(node), *node.outputs]
    return any(value.tensor.layout is not None for value in values)


class _Renamed(Reference):
    """A reference for a copy of its graph."""

    def __init__(self, source: Reference, pairs: Mapping[Value, Value]) -> None:
        self.graph, self.samples = source.graph, source.samples
        self.expressions, self.values = source.expressions, source.values
        self.ids = {copy: source.ids[value] for copy, value in pairs.items() if value in source.ids}


def _values(graph: Graph) -> Iterator[Value]:
    """All values of a graph, in an order that copies share."""
    yield from graph.inputs
    yield from graph.constants.values()
    for node in graph.walk():
        yield from node.outputs
        for region in node.regions.values():
            yield from region.inputs


def _lines(node: Node) -> tuple[str, ...]:
    printer = Printer(None, lenient=True)
    for item in list(node.body) if node.is_fused else [node]:
        printer.node(item, 0)
    return tuple(printer.lines)
