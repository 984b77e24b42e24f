"""`make demo`: compile a real OCR network, read a rendered line with it, compare with ONNX Runtime.

`python -m golden_models.demo [TEXT]` exits with 0 when both read the same and their outputs agree,
with 1 when they don't, and with 2 when a step failed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from golden_models import FetchError, lettering, ocr, path
from golden_models.arrays import Array

TOLERANCE = 1e-4
_MODEL = "ppocr-rec"
_console = Console(highlight=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("text", default="Read by graphopt")
def main(text: str) -> None:
    """Compile the PP-OCRv4 recogniser for this CPU and read TEXT with it."""
    from graphopt.errors import GraphoptError

    try:
        agree = _demo(text)
    except (FetchError, GraphoptError) as error:
        _console.print(f"[red]error:[/] {error}")
        sys.exit(2)
    sys.exit(0 if agree else 1)


def _demo(text: str) -> bool:
    import graphopt as go

    with _step("fetch the PP-OCRv4 recogniser") as note:
        model = path(_MODEL)
        note.append(f"{model.stat().st_size / 1e6:.1f} MB")
    with _step("import from ONNX") as note:
        graph = go.load(model)
        note.append(f"{len(graph.body.nodes)} nodes")
    with _step("optimize (O2)") as note:
        graph = go.optimize(graph, "O2", target="native")
        note.append(f"{len(graph.body.nodes)} nodes left")
    with tempfile.TemporaryDirectory(prefix="graphopt-demo-") as folder:
        artifact = Path(folder) / "ppocr-rec.gopt"
        with _step("compile for this CPU") as note:
            go.compile(graph, target="native").save(artifact)
            size = sum(file.stat().st_size for file in artifact.rglob("*") if file.is_file())
            note.append(f"artifact of {size / 1e6:.1f} MB")
        image = lettering.render(text)
        _show(image)
        with go.runtime.load(artifact, threads=1) as executable:
            (ours,) = executable({"x": image})
        reference = _onnxruntime(model, image)
        milliseconds = _measure(artifact, model, image)
    return _report(ours, reference, milliseconds)


@contextmanager
def _step(what: str) -> Iterator[list[str]]:
    """Shows `what` while it runs, then with its time and the notes left in the list."""
    started, notes = time.perf_counter(), list[str]()
    with _console.status(what):
        yield notes
    _console.print(f"{what:32}{time.perf_counter() - started:7.2f} s   {', '.join(notes)}")


def _onnxruntime(model: Path, image: Array) -> Array:
    """What the model gives in ONNX Runtime with its graph optimizations off."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    result: Array = session.run(None, {"x": image})[0]
    return result


def _measure(artifact: Path, model: Path, image: Array) -> dict[str, float]:
    """Median latency of each engine in milliseconds."""
    from graphopt import bench

    with _console.status("measure"):
        compared = bench.compare({"graphopt": artifact, "onnxruntime": model}, {"x": image}, threads=1)
    return {result.engine: result.median for result in compared.results}


def _report(ours: Array, reference: Array, milliseconds: dict[str, float]) -> bool:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("", "reads", "one thread"):
        table.add_column(column)
    for name, engine, output in (
        ("graphopt", "graphopt", ours),
        ("ONNX Runtime", "onnxruntime", reference),
    ):
        table.add_row(name, repr(ocr.decode(output)), f"{milliseconds[engine]:.2f} ms")
    _console.print(table)
    _console.print(
        "[dim]Median time of one call; the two take turns, each in a process of its own, "
        "ONNX Runtime with all its optimizations.[/]"
    )
    same_text = ocr.decode(ours) == ocr.decode(reference)
    same_shape = ours.shape == reference.shape
    distance = float(np.abs(ours - reference).max() / np.abs(reference).max()) if same_shape else np.inf
    agree = same_text and distance <= TOLERANCE
    verdict = "[green]agree[/]" if agree else "[red]DIFFER[/]"
    _console.print(
        f"The outputs {verdict}: largest difference {distance:.1e} of the largest value "
        f"(allowed: {TOLERANCE:.0e}; reference: ONNX Runtime with graph optimizations off)."
    )
    return agree


def _show(image: Array) -> None:
    """The rendered line in braille dots, two pixels to a dot, where the terminal can show them."""
    if not _console.encoding.lower().startswith("utf"):
        return
    ink = image[0, 0].reshape(lettering.HEIGHT // 2, 2, -1, 2).min(axis=(1, 3)) < 0
    inked = np.flatnonzero(ink.any(axis=1))
    rows = ink[inked[0] : inked[-1] + 1] if len(inked) else ink
    rows = np.pad(rows, ((0, -len(rows) % 4), (0, 0)))
    cells = rows.reshape(len(rows) // 4, 4, -1, 2).transpose(0, 2, 3, 1).reshape(len(rows) // 4, -1, 8)
    # Unicode numbers the dots 1-3 and 7 in the left column, 4-6 and 8 in the right one.
    weights = np.array([1, 2, 4, 64, 8, 16, 32, 128])
    for codes in (cells * weights).sum(axis=2):
        _console.print("".join(chr(0x2800 + code) for code in codes), no_wrap=True, overflow="crop")


if __name__ == "__main__":
    main(prog_name="python -m golden_models.demo")
