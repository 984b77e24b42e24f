"""``python -m graphopt.testing.fuzzing``: random graphs through passes, or one graph again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from graphopt.testing.fuzzing.check import Case, Finding


@click.command()
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--examples", default=200, show_default=True, help="Random graphs to make.")
@click.option("--seed", default=0, show_default=True, help="Of the graphs; with MODEL of its inputs.")
@click.option("--passes", "texts", multiple=True, help="Pass or pipeline text to check; all by default.")
@click.option("--prepare", default="", help="Pipeline that a graph goes through first.")
@click.option("--target", default="", help="Target given to the passes, such as x86-64-v3.")
@click.option("--prepare-target", default="", help="Target given to what prepares, if it is another.")
@click.option("--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), help="File with passes.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the graphs too, and run what comes out.")
@click.option("--out", default=Path("fuzz-failures"), show_default=True, type=click.Path(path_type=Path),
              help="Folder for the graphs that fail.")  # fmt: skip
def main(
    model: Path | None,
    examples: int,
    seed: int,
    texts: tuple[str, ...],
    prepare: str,
    target: str,
    prepare_target: str,
    plugins: tuple[Path, ...],
    compiled: bool,
    out: Path,
) -> None:
    """Check passes on random graphs, or again on the graph MODEL; exit code 1 when something is wrong.

    Each graph is run before and after every pass in ONNX Runtime with its optimizations off. Results must
    agree bit by bit, but for what the rules that were applied declare to assume of floats.
    """
    from graphopt.pipeline import Pipeline, load_plugin
    from graphopt.testing.fuzzing.check import Case, cases

    for plugin in plugins:
        load_plugin(plugin)
    for text in (*texts, prepare):
        Pipeline.parse(text)  # so that a wrong text is a wrong call and no finding
    found = cases() if not texts else [Case(text, prepare, target, prepare_target) for text in texts]
    findings = _again(model, seed, found) if model is not None else _campaign(found, examples, seed, compiled)
    for number, finding in enumerate(findings):
        _show(finding, number, out if model is None else None, plugins)
    sys.exit(1 if findings else 0)


def _again(model: Path, seed: int, found: list[Case]) -> list[Finding]:
    from graphopt.api import load
    from graphopt.testing.fuzzing.check import COMPILED, Examination
    from graphopt.units import counted

    examination = Examination(load(model), seed)
    checks = [examination.compiled() if case.text == COMPILED else examination.check(case) for case in found]
    findings = [finding for finding in checks if finding is not None]
    reasons = examination.tally.refused
    click.echo(
        counted(len(findings), "finding") + (f"; it does not run: {', '.join(reasons)}" if reasons else "")
    )
    return findings


def _campaign(found: list[Case], examples: int, seed: int, compiled: bool) -> list[Finding]:
    from graphopt.testing.fuzzing.campaign import fuzz

    def progress(done: int) -> None:
        if done % 500 == 0:
            click.echo(f"{done} graphs", err=True)

    campaign = fuzz(found, examples, seed=seed, compiled=compiled, progress=progress)
    click.echo(campaign.summary())
    return campaign.findings


def _show(finding: Finding, number: int, out: Path | None, plugins: tuple[Path, ...]) -> None:
    from graphopt.ir.text import save_gir
    from graphopt.testing.fuzzing.check import report

    if out is None:
        click.echo(str(finding))
        return
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{number:02}-{finding.case.text.partition('{')[0].partition(',')[0]}.gir"
    save_gir(finding.graph, path)
    click.echo(f"\n{report(finding, str(path), plugins)}")


if __name__ == "__main__":
    try:
        main()
    except GraphoptError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
