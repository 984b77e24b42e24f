"""`compile_graph`: check that every operator has a kernel, lower, assemble, build, link."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

from graphopt.backend.artifact import Artifact, build
from graphopt.errors import CompileError
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.printer import print_graph
from graphopt.ir.types import TensorType
from graphopt.runtime.dtypes import itemsize
from graphopt.runtime.manifest import TensorSpec
from graphopt.targets import Target

KERNEL_ERROR = 5e-5
"""What fast kernels may add to a relative error by default: F(4x4, 3x3) adds 2e-5. 1e-4
allows floats in two parts on AMX."""


def compile_graph(
    graph: Graph,
    target: Target,
    *,
    source_sha256: str = "",
    kernel_error: float = KERNEL_ERROR,
    choices: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    unscheduled: Collection[Node] = frozenset(),
    memory_plan: bool = True,
    progress: Callable[[int, int, str], None] = lambda done, total, step: None,
) -> Artifact:
    """Machine code for a graph.

    Args:
        graph: regions made by ``fuse-regions`` become one kernel each, every other node one of its own.
        source_sha256: digest of the source model's file, for the manifest.
        kernel_error: bound of what Winograd's transforms, or floats in parts on AMX, may add to the error of a
            convolution or product, relative to its largest output; 0 for neither.
        choices: for kernels by their digest what to choose otherwise than the models do, as tuning found it.
        unscheduled: nodes whose kernels are loops straight from the operators' definitions, to compare with: slow,
            not for every operator, and in row-major order.
        memory_plan: False for memory of its own for every value, to compare with.
        progress: called with (steps done, steps in all, what comes next).

    Raises:
        CompileError: operators or types that can't be compiled; all unknown operators in one message.
        LinkError: no C toolchain.
    """
    check_operators(graph)
    check_layouts(graph, target)
    from graphopt.backend.assemble import assemble

    progress(0, 1, "kernels")
    assembled = assemble(graph, target, kernel_error, choices, unscheduled, memory_plan=memory_plan)
    built = build(
        assembled.module,
        target,
        weights=assembled.weights,
        inputs=[
            # Unscheduled kernels are TVM's own, which take memory to be aligned.
            _input_spec(value)
            if not unscheduled and target.kind == "llvm"
            else tensor_spec(value.name, value)
            for value in graph.inputs
        ],
        outputs=[
            tensor_spec(name, value) for name, value in zip(graph.output_names, graph.outputs, strict=True)
        ],
        gir=print_graph(graph),
        pipeline=graph.metadata.get("graphopt.pipeline", ""),
        source_sha256=source_sha256,
        kernels=assembled.kernels,
        sizes=assembled.sizes,
        memory=assembled.memory,
        progress=progress,
    )
    return built.with_defaults({v.name: v.const.numpy() for v in graph.inputs if v.const is not None})


def check_operators(graph: Graph) -> None:
    """Refuses a graph with operators that have no kernel.

    Raises:
        CompileError: names each such operator, how often it occurs, and its first node.
    """
    from graphopt.backend.contiguous import is_view
    from graphopt.backend.emitters import EMITTERS
    from graphopt.backend.readers import READERS

    unknown: dict[str, list[Node]] = {}
    for node in graph.walk():
        known = not node.domain and (node.op in EMITTERS or node.op in READERS)
        if not (known or node.is_fused or is_view(node)):
            unknown.setdefault(node.op_type, []).append(node)
    if unknown:
        counts = Counter({op: len(nodes) for op, nodes in unknown.items()})
        listed = ", ".join(f"{op} ({n}, first {unknown[op][0].label})" for op, n in sorted(counts.items()))
        raise CompileError(
            f"no kernels for these operators: {listed}",
            hint=_hint(graph, unknown),
        )


def _hint(graph: Graph, unknown: Mapping[str, Sequence[Node]]) -> str:
    own = [op for op in sorted(unknown) if op in graph.unverifiable]
    if own:
        opset = graph.opset[""]
        return f"opset {opset} of ONNX has no such operator as {', '.join(own)}: is its name right, or its domain?"
    optimized = "graphopt.pipeline" in graph.metadata
    first = "" if optimized else "optimize the graph first, which may fold them; else "
    foreign = sorted({nodes[0].domain for nodes in unknown.values() if nodes[0].domain})
    if foreign:
        return (
            f"{first}take that part out of the model: no operator of domain {', '.join(foreign)} has a kernel"
        )
    return f"{first}take that part out of the model; docs/targets.md says what can't be compiled, and why"


def check_layouts(graph: Graph, target: Target) -> None:
    """Refuses a graph whose layouts were chosen for vectors of another width.

    Raises:
        CompileError: names the first such value.
    """
    lanes = target.vector_bits // 32 if target.kind == "llvm" else 1
    for node in graph.walk():
        values = [*node.outputs, *(value for region in node.regions.values() for value in region.inputs)]
        for value in values:
            if isinstance(value.type, TensorType) and value.type.channel_block not in (1, lanes):
                raise CompileError(
                    f"{node.label}: the layout of %{value.name}, {value.type}, is not one of {target}",
                    hint="run the pass assign-layouts (it ends O2) for this target",
                )


def tensor_spec(name: str, value: Value) -> TensorSpec:
    """What the manifest says of an input or output.

    Raises:
        CompileError: its rank is not known, or kernels can't compute with its type.
    """
    from graphopt.backend.region import dtype_of, shape_of

    shape = tuple(dim if isinstance(dim, int) else str(dim) for dim in shape_of(value))
    return TensorSpec(name, dtype_of(value), shape)


def _input_spec(value: Value) -> TensorSpec:
    """What the manifest says of an input: kernels read it wherever its elements lie."""
    spec = tensor_spec(value.name, value)
    return TensorSpec(spec.name, spec.dtype, spec.shape, alignment=itemsize(spec.dtype))
