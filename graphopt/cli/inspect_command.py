"""``graphopt inspect``"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli.options import json_option, model_options, read_model
from graphopt.cli.output import print_json, print_table, short_target, spaced, split_target
from graphopt.errors import ModelError
from graphopt.units import counted, human_bytes, human_count

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph
    from graphopt.runtime.manifest import MemoryUse, Variant


@click.command("inspect")
@model_options
@click.option("--text", is_flag=True, help="Print the graph in its text form (.gir).")
@json_option
def command(
    model: Path,
    dims: Mapping[str, int],
    input_shapes: Mapping[str, tuple[int | str, ...]],
    text: bool,
    as_json: bool,
) -> None:
    """Say what MODEL holds: an ONNX file, a .gir text, or a .gopt artifact, whose files are checked."""
    if text and as_json:
        raise click.UsageError("--text and --json exclude each other")
    if model.is_dir():
        if not (model / "manifest.json").exists() and model.suffix != ".gopt":
            raise ModelError(f"{model} is a folder, not a model", hint="give an .onnx, .gir or .gopt")
        if dims or input_shapes:
            raise click.UsageError("--dim and --input are for models; the shapes of an artifact are fixed")
        _inspect_artifact(model, text, as_json)
        return
    graph = read_model(model, dims, input_shapes)
    if text:
        from graphopt.ir.printer import print_graph

        click.echo(print_graph(graph), nl=False)
        return
    summary = {**summarize(graph), "file_opset": _file_opset(model)}
    if as_json:
        print_json(summary)
        return
    click.secho(graph.name, bold=True)
    rows = [["input", v["name"], v["type"]] for v in summary["inputs"]]
    rows += [["output", v["name"], v["type"]] for v in summary["outputs"]]
    print_table("", ["", "name", "type"], rows)
    click.echo()
    print_table("", ["operator", "nodes"], [[op, str(count)] for op, count in summary["operators"].items()])
    click.echo()
    click.echo(
        f"{counted(summary['nodes'], 'node')}, {counted(summary['constants'], 'constant')} "
        f"({human_bytes(summary['constant_bytes'])})"
    )
    click.echo(_cost(summary))
    click.echo(f"opset {_versions(summary['opset'])}")
    if summary["file_opset"] not in ({}, summary["opset"]):
        click.echo(f"read from opset {_versions(summary['file_opset'])}")
    if summary["untyped"]:
        click.echo(f"{counted(summary['untyped'], 'value')} without a known type")


def _cost(summary: Mapping[str, Any]) -> str:
    if summary["open"]:
        return f"what a run takes is open: {summary['open']}"
    at = f", at {summary['peak_at']}" if summary["peak_at"] else ""
    most = " at most" if "If" in summary["operators"] else ""  # one branch is taken, and all were counted
    return (
        f"a run takes{most} {human_count(summary['flops'])} {'operation' if summary['flops'] == 1 else 'operations'} and reads and writes "
        f"{human_bytes(summary['bytes'])}, with at most {human_bytes(summary['peak_bytes'])} of values at once{at}"
    )


def _why_open(graph: Graph) -> str:
    """What has to be known before it can be said what a run takes."""
    from graphopt.analysis import open_loop
    from graphopt.ir.dims import symbols
    from graphopt.ir.types import TensorType

    shapes = [value.type.shape or () for value in graph.inputs if isinstance(value.type, TensorType)]
    names = dict.fromkeys(name for shape in shapes for dim in shape for name in symbols(dim))
    if names:
        return f"sizes are not fixed ({' '.join(f'--dim {name}=N' for name in names)})"
    loop = open_loop(graph)
    if loop is not None:
        return f"data decides how often the body of {loop.label} runs"
    return "sizes depend on data, or are not known"


def _versions(opset: Mapping[str, int]) -> str:
    return ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in opset.items())


def _file_opset(model: Path) -> dict[str, int]:
    """The opset that an ONNX file declares; a .gir text has the graph's own."""
    if model.suffix == ".gir":
        return {}
    import onnx

    imports = onnx.load(model, load_external_data=False).opset_import
    return {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in imports}


def summarize(graph: Graph) -> dict[str, Any]:
    """What ``graphopt inspect --json`` prints of a graph."""
    from graphopt.analysis import Liveness, work
    from graphopt.ir.types import TensorType

    taken, peak = work(graph, {}), Liveness.of(graph).peak({})
    nodes = list(graph.walk())
    operators = Counter(node.op_type for node in nodes)
    untyped = sum(
        not isinstance(v.type, TensorType) or not v.type.is_known
        for node in nodes
        for v in node.outputs
        if v.name
    )
    return {
        "name": graph.name,
        "producer": " ".join(part for part in graph.producer if part),
        "opset": dict(graph.opset),
        "inputs": [{"name": v.name, "type": str(v.type)} for v in graph.inputs],
        "outputs": [
            {"name": name, "type": str(v.type)}
            for name, v in zip(graph.output_names, graph.outputs, strict=True)
        ],
        "nodes": len(nodes),
        "operators": dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        "constants": len(graph.constants),
        "constant_bytes": sum(v.const.nbytes for v in graph.constants.values() if v.const is not None),
        "flops": taken.flops if taken is not None else None,
        "bytes": taken.bytes if taken is not None else None,
        "open": _why_open(graph) if taken is None or peak is None else None,
        "peak_bytes": peak.bytes if peak is not None else None,
        "peak_at": peak.node.label if peak is not None and peak.node is not None else None,
        "untyped": untyped,
        "metadata": dict(graph.metadata),
    }


def _memory(use: MemoryUse) -> str:
    """What a variant's kernels hand each other, in words; empty where that is nothing."""
    parts = []
    if use.planned:
        parts.append(f"{human_bytes(use.planned)} between kernels, {human_bytes(use.separate)} without reuse")
    if use.dynamic:
        parts.append(f"memory for {counted(use.dynamic, 'value')} is taken at the call")
    if use.in_place or use.moved:
        parts.append(f"{use.in_place} of {use.in_place + use.moved} concatenations and slices in place")
    return "; ".join(parts)


def _inspect_artifact(path: Path, text: bool, as_json: bool) -> None:
    import msgspec

    from graphopt.errors import ArtifactError
    from graphopt.runtime.files import map_file
    from graphopt.runtime.manifest import GRAPH_NAME, MANIFEST_NAME, read

    manifest = read(path)
    for name, file in manifest.files.items():
        map_file(path, name, file, verify=True)
    if text:
        record = manifest.files.get(GRAPH_NAME)
        if record is None:
            raise ArtifactError(f"{path} holds no {GRAPH_NAME}")
        click.echo(map_file(path, GRAPH_NAME, record, verify=True).tobytes().decode(), nl=False)
        return
    if as_json:
        print_json(msgspec.to_builtins(manifest))
        return
    click.secho(path.name, bold=True)
    rows = [["input", *str(v).split(": ", 1)] for v in manifest.inputs]
    rows += [["output", *str(v).split(": ", 1)] for v in manifest.outputs]
    print_table("", ["", "name", "type"], rows)
    click.echo()
    print_table(
        "", ["variant", "kernels", "features and caches besides"], [_variant(v) for v in manifest.variants]
    )
    click.echo()
    for variant in manifest.variants:
        said = _memory(variant.memory) if variant.memory is not None else ""
        if said:
            click.echo(f"{short_target(variant.target)}: {said}" if len(manifest.variants) > 1 else said)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    click.echo(f"{human_bytes(size)} on disk, all SHA-256 are right")
    known = {*manifest.files, MANIFEST_NAME}
    files = sorted(str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir())
    for name in files:
        if name not in known:
            click.echo(f"not a part of it: {name}")
    rows = [["pipeline", spaced(manifest.pipeline) or "(none)"]]
    rows += [["source", manifest.source_sha256]] if manifest.source_sha256 else []
    print_table("", ["", ""], rows)


def _variant(variant: Variant) -> list[str]:
    name, besides = split_target(variant.target)
    return [name, str(len(variant.kernels)), ", ".join(besides) or "none"]
