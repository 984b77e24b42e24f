"""The few functions that most users need; each imports what it uses when it is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import ModelError

if TYPE_CHECKING:
    from graphopt.backend.artifact import Artifact
    from graphopt.ir.graph import Graph
    from graphopt.ir.tensor import Array
    from graphopt.pipeline import Pipeline
    from graphopt.pipeline.pipeline import Verify
    from graphopt.targets import Target


def load(
    path: str | Path,
    *,
    dims: Mapping[str, int] | None = None,
    input_shapes: Mapping[str, Sequence[int | str]] | None = None,
) -> Graph:
    """Reads a model: ONNX, or the ``.gir`` text form.

    Args:
        path: the file.
        dims: numbers for symbolic dimensions, e.g. ``{"batch": 1}``.
        input_shapes: shapes for inputs, e.g. ``{"x": (1, 3, 224, 224)}``.

    Raises:
        ModelError: not a valid model, or one that can't be represented.
        TextError: a ``.gir`` text that does not parse.
    """
    path = Path(path)
    if path.suffix == ".gir":
        if dims or input_shapes:
            raise ModelError(
                f"{path}: shapes can be fixed only when a model is imported from ONNX",
                hint="give --dim and --input where the .onnx file is read",
            )
        from graphopt.ir.text import load_gir

        return load_gir(path)
    from graphopt import onnx_io

    return onnx_io.load(path, dims=dims or {}, input_shapes=input_shapes or {})


def save(graph: Graph, path: str | Path) -> None:
    """Writes a graph as plain ONNX, or as text when ``path`` ends in ``.gir``.

    Raises:
        ModelError: the file can't be written.
    """
    path = Path(path)
    if path.suffix == ".gir":
        from graphopt.ir.text import save_gir

        save_gir(graph, path)
        return
    from graphopt import onnx_io

    onnx_io.save(graph, path)


def optimize(
    graph: Graph,
    pipeline: str | Pipeline = "O2",
    *,
    target: str | Target | None = None,
    verify: Verify = "structure",
    inputs: Sequence[Mapping[str, Array]] = (),
) -> Graph:
    """A copy of ``graph`` after the passes of ``pipeline``.

    Args:
        graph: stays as it is.
        pipeline: text such as ``"O2"`` or ``"fold-constants,fuse-regions{max_ops=16}"``.
        target: what fusion may assume of the machine, e.g. ``"native"``.
        verify: ``"structure"``, ``"numeric"`` (compare outputs in ONNX Runtime after each pass) or ``"off"``.
        inputs: samples of the inputs for calibration and numeric verification, arrays by input name;
            generated when there are none.

    Raises:
        PipelineError: unknown pass or option.
        PassError: a pass failed.
        VerifyError: a pass broke the graph or its numbers.
    """
    from graphopt.ir.builder import copy_graph
    from graphopt.pipeline import Context, Pipeline

    parsed = Pipeline.parse(pipeline) if isinstance(pipeline, str) else pipeline
    copy = copy_graph(graph)
    parsed.run(copy, context=Context(target=_target(target), inputs=inputs), verify=verify)
    copy.metadata["graphopt.pipeline"] = str(parsed)
    return copy


def compile(graph: Graph, target: str | Target = "native") -> Artifact:
    """Compiles a graph for ``target``: ``"native"``, ``"x86-64-v3"``, ``"aarch64"``, ``"cuda:sm_80"``, ...

    Raises:
        CompileError: an operator or type can't be compiled; the message lists them all.
        TargetError: unknown target.
        LinkError: no C toolchain.
    """
    from graphopt.backend.compile import compile_graph

    resolved = _target(target)
    assert resolved is not None
    return compile_graph(graph, resolved)


def to_onnx_ir(graph: Graph) -> Any:
    """The graph as an ``onnx_ir.Model``, so that other people's rules apply."""
    from graphopt import onnx_io

    return onnx_io.to_onnx_ir(graph)


def from_onnx_ir(model: Any) -> Graph:
    """A graph from an ``onnx_ir.Model``.

    Raises:
        ModelError: it can't be represented.
    """
    from graphopt import onnx_io

    return onnx_io.from_onnx_ir(model)


def _target(target: str | Target | None) -> Target | None:
    if not isinstance(target, str):
        return target
    from graphopt.targets import Target

    return Target.parse(target)
