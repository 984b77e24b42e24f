"""The few functions that most users need; each imports what it uses when it is called."""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import ArgumentError, ModelError, require

if TYPE_CHECKING:
    from graphopt.backend.artifact import Artifact
    from graphopt.ir.graph import Graph
    from graphopt.ir.tensor import Array
    from graphopt.pipeline import Instrument, Pipeline
    from graphopt.pipeline.settings import Verify
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
        ArgumentError: an argument is of the wrong type.
    """
    require("path", path, (str, os.PathLike), hint="graphopt.onnx_io.load reads bytes and protos")
    path = Path(path)
    dims = {name: _integer(f"dims[{name!r}]", size) for name, size in _mapping("dims", dims).items()}
    input_shapes = {
        name: _shape(f"input_shapes[{name!r}]", shape)
        for name, shape in _mapping("input_shapes", input_shapes).items()
    }
    if path.is_dir():
        artifact = (path / "manifest.json").is_file()
        raise ModelError(
            f"{path} is {'an artifact' if artifact else 'a folder'}, not a model",
            hint="give the .onnx or .gir file that it was compiled from"
            if artifact
            else "give an .onnx or .gir file",
        )
    if path.suffix == ".gir":
        if dims or input_shapes:
            raise ModelError(
                f"{path}: shapes can be fixed only when a model is imported from ONNX",
                hint="give --dim and --input where the .onnx file is read",
            )
        from graphopt.ir.text import load_gir

        return load_gir(path)
    from graphopt import onnx_io

    return onnx_io.load(path, dims=dims, input_shapes=input_shapes)


def save(graph: Graph, path: str | Path) -> None:
    """Writes a graph as plain ONNX, or as text when ``path`` ends in ``.gir``.

    Raises:
        ModelError: the file can't be written, or ends in neither ``.onnx`` nor ``.gir``.
        ArgumentError: an argument is of the wrong type.
    """
    require_graph(graph)
    require("path", path, (str, os.PathLike))
    path = Path(path)
    check_suffix(path)
    if path.suffix == ".gir":
        from graphopt.ir.text import save_gir

        save_gir(graph, path)
        return
    from graphopt import onnx_io

    onnx_io.save(graph, path)


def check_suffix(path: Path) -> None:
    """Makes sure that ``path`` says in which form a graph is to be written.

    Raises:
        ModelError: it ends in neither ``.onnx`` nor ``.gir``.
    """
    if path.suffix not in (".onnx", ".gir"):
        compiled = path.suffix == ".gopt"
        raise ModelError(
            f"{path}: a graph is written as .onnx or as .gir (text), not as {path.suffix or 'a file without suffix'}",
            hint="graphopt compile writes artifacts" if compiled else "end the name in .onnx or .gir",
        )


def optimize(
    graph: Graph,
    pipeline: str | Pipeline = "O2",
    *,
    target: str | Target | None = None,
    verify: Verify = "structure",
    inputs: Sequence[Mapping[str, Array]] | Mapping[str, Array] = (),
    instruments: Sequence[Instrument] = (),
    max_rewrites: int | None = None,
    pass_timeout: float | None = None,
) -> Graph:
    """A copy of ``graph`` after the passes of ``pipeline``.

    Args:
        graph: stays as it is.
        pipeline: text such as ``"O2"`` or ``"fold-constants,fuse-regions{max_ops=16}"``.
        target: what fusion may assume of the machine, e.g. ``"native"``.
        verify: ``"structure"``, ``"numeric"`` (compare values in ONNX Runtime after each pass; a warning is logged
            of what can't be) or ``"off"``.
        inputs: samples of the inputs for calibration and numeric verification, arrays by input name;
            one mapping is one sample; generated when there are none.
        instruments: what to call around every pass.
        max_rewrites: how many rewrites a single pass may make; by default in proportion to the size of
            the graph.
        pass_timeout: how many seconds a single pass may take; None: any number.

    Raises:
        ArgumentError: an argument is of the wrong type.
        InputError: a sample does not fit the inputs.
        PipelineError: unknown pass or option.
        PassError: a pass failed, or took more than it may.
        VerifyError: a pass broke the graph or its numbers.
    """
    from graphopt.ir.builder import copy_graph
    from graphopt.pipeline import Context, Instrument, Limits, Pipeline

    require_graph(graph)
    require("pipeline", pipeline, (str, Pipeline), hint='write it as text, such as "O2"')
    samples = [inputs] if isinstance(inputs, Mapping) else inputs
    require("inputs", samples, Sequence, hint="give a list of samples, each a dict from input name to array")
    for index, sample in enumerate(samples):
        require(f"inputs[{index}]", sample, Mapping, hint="a sample is a dict from input name to array")
    require("instruments", instruments, Sequence, hint="give a list of Instrument objects")
    for index, instrument in enumerate(instruments):
        require(f"instruments[{index}]", instrument, Instrument)
    limits = Limits(max_rewrites, pass_timeout)
    parsed = Pipeline.parse(pipeline) if isinstance(pipeline, str) else pipeline
    copy = copy_graph(graph)
    context = Context(target=_target(target), inputs=samples)
    report = parsed.run(copy, context=context, verify=verify, limits=limits, instruments=instruments)
    if report.unverified:
        context.logger.warning('verify="numeric" compared nothing: %s', report.unverified)
    for text in report.left_out:
        context.logger.warning('verify="numeric" did not compare: %s', text)
    return copy


def compile(
    graph: Graph,
    target: str | Target = "native",
    *,
    source: str | os.PathLike[str] | None = None,
    kernel_error: float | None = None,
    tune: float | None = None,
    tune_cache: str | os.PathLike[str] | None = None,
) -> Artifact:
    """Compiles a graph for ``target``: ``"native"``, ``"x86-64-v3"``, ``"aarch64"``, ``"cuda:sm_80"``, ...

    Args:
        source: the file that the model was read from; the artifact's manifest gets its SHA-256.
        kernel_error: what fast kernels (Winograd's transforms, floats in parts on AMX) may add to the error of
            a convolution or product, relative to its largest output; by default 5e-5, 0 turns them off.
        tune: seconds in which faster ways to make each kernel are searched by timing them on this machine.
        tune_cache: the file that holds what tuning found; it is read, and with ``tune`` written. Without it
            tuning keeps a file in the user's cache folder, and other compiles read none.

    Raises:
        ArgumentError: an argument is of the wrong type.
        ModelError: ``source`` can't be read.
        TuneError: ``tune_cache`` is missing or damaged, or can't be written.
        CompileError: an operator or type can't be compiled; the message lists them all.
        TargetError: unknown target.
        LinkError: no C toolchain.
    """
    from graphopt.backend.compile import KERNEL_ERROR, compile_graph

    require_graph(graph)
    resolved = _target(target)
    if resolved is None:
        raise ArgumentError("target must be a text such as 'native' or a Target, not None")
    if kernel_error is not None and (
        not isinstance(kernel_error, int | float) or not 0 <= kernel_error < float("inf")
    ):
        raise ArgumentError(f"kernel_error must be a number from 0 up, not {kernel_error!r}")
    if tune is not None and (
        isinstance(tune, bool) or not isinstance(tune, int | float) or not 0 < tune < float("inf")
    ):
        raise ArgumentError(f"tune must be a number of seconds, not {tune!r}")
    if tune_cache is not None:
        require("tune_cache", tune_cache, (str, os.PathLike))
    bound = KERNEL_ERROR if kernel_error is None else kernel_error
    choices: Mapping[str, Mapping[str, str]] = {}
    if tune is not None or tune_cache is not None:
        from graphopt.tune import Tuner

        tuner = Tuner(tune, None if tune_cache is None else Path(tune_cache))
        tuner.check([resolved])
        tuner.tune(graph, resolved, kernel_error=bound)
        choices = tuner.choices
    return compile_graph(
        graph,
        resolved,
        source_sha256="" if source is None else file_sha256(Path(source)),
        kernel_error=bound,
        choices=choices,
    )


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes in hexadecimal.

    Raises:
        ModelError: it can't be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}") from error


def to_onnx_ir(graph: Graph) -> Any:
    """The graph as an ``onnx_ir.Model``, so that other people's rules apply."""
    from graphopt import onnx_io

    require_graph(graph)
    return onnx_io.to_onnx_ir(graph)


def from_onnx_ir(model: Any) -> Graph:
    """A graph from an ``onnx_ir.Model``.

    Raises:
        ModelError: it can't be represented.
        ArgumentError: it is something else.
    """
    import onnx_ir

    from graphopt import onnx_io

    require("model", model, onnx_ir.Model)
    return onnx_io.from_onnx_ir(model)


def _target(target: str | Target | None) -> Target | None:
    from graphopt.targets import Target

    if target is None:
        return None
    require("target", target, (str, Target), hint="write it as text, such as 'native' or 'x86-64-v3'")
    return Target.parse(target) if isinstance(target, str) else target


def require_graph(graph: object) -> None:
    """Makes sure that ``graph`` is one.

    Raises:
        ArgumentError: it is not.
    """
    from graphopt.ir.graph import Graph

    require("graph", graph, Graph, hint="graphopt.load(path) reads one")


def _mapping(argument: str, value: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if value is None:
        return {}
    require(argument, value, Mapping)
    for key in value:
        require(f"a key of {argument}", key, str)
    return value


def _shape(argument: str, value: Any) -> tuple[int | str, ...]:
    require(argument, value, (list, tuple), hint="a shape is a tuple such as (1, 3, 224, 224)")
    return tuple(
        dim if isinstance(dim, str) else _integer(f"{argument}[{i}]", dim) for i, dim in enumerate(value)
    )


def _integer(argument: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ArgumentError(f"{argument} must be of type int, not {type(value).__name__}") from None
