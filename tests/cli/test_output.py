"""Tables and texts as a terminal of 80 columns, a narrower one, and a pipe show them."""

from __future__ import annotations

import re

import pytest

from graphopt.cli.output import print_table, print_wrapped, short_target, spaced, split_target
from graphopt.pipeline import Pipeline

ROWS = [
    ["conv_relu_winograd3x4_of_the_first_layer", "1", "12.5", "what is computed where, in many words " * 3],
    ["gemm", "2", "-", "short"],
]
COLUMNS = ["kernel", "calls", "µs", "nodes"]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """stdout is taken for a terminal, as wide as COLUMNS says."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    return monkeypatch


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    return [line.rstrip() for line in plain.splitlines()]


def test_a_pipe_gets_a_line_for_each_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    print_table("a title that is longer than the screen", COLUMNS, ROWS, shorten=(0,))
    title, header, first, second = lines(capsys)
    assert title == "a title that is longer than the screen" and header.split() == COLUMNS
    assert first.split() == " ".join(ROWS[0]).split() and second.split() == ROWS[1]


@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_words_are_never_broken(
    width: int, terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.setenv("COLUMNS", str(width))
    print_table("", COLUMNS, ROWS)
    printed = lines(capsys)
    assert {word for line in printed for word in line.split()} == {
        *COLUMNS,
        *" ".join(map(" ".join, ROWS)).split(),
    }
    assert len(printed) > 3, "the many words are wrapped"
    assert max(map(len, printed)) <= max(width, 80)


def test_a_narrow_terminal_gets_names_without_their_middle(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.setenv("COLUMNS", "50")
    print_table("", COLUMNS, [[*row[:3], "fc"] for row in ROWS], shorten=(0,))
    printed = lines(capsys)
    assert printed[1].split() == ["conv_relu_winog…he_first_layer", "1", "12.5", "fc"]
    assert max(map(len, printed)) <= 50
    terminal.setenv("COLUMNS", "10")
    print_table("", COLUMNS, [[*row[:3], "fc"] for row in ROWS], shorten=(0,))
    assert lines(capsys)[1].split()[0] == "conv_r…layer", "it says something however narrow the terminal is"


def test_pipelines_are_wrapped_after_commas_and_still_parse(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = str(Pipeline.parse("O2,prune-magnitude{sparsity=0.25},fuse-regions{max_ops=7}"))
    assert spaced('a,b{c="x,y",d=1}') == 'a, b{c="x,y", d=1}'
    assert spaced(spaced(text)) == spaced(text)
    assert Pipeline.parse(spaced(text)) == Pipeline.parse(text)
    terminal.setenv("COLUMNS", "40")
    print_wrapped(spaced(text))
    printed = lines(capsys)
    assert all(line.endswith(",") for line in printed[:-1])
    assert " ".join(printed) == spaced(text) and max(map(len, printed)) <= 40


def test_targets_in_a_sentence() -> None:
    text = "x86-64-v4+avx512bf16+avx512vnni{l1=49152,l3=503316480}"
    assert split_target(text) == ("x86-64-v4", ["avx512bf16", "avx512vnni", "l1=49152", "l3=503316480"])
    assert short_target(text) == "x86-64-v4 with 2 more features"
    assert short_target("aarch64:neoverse-n1{l1=65536}") == "aarch64:neoverse-n1"
    assert short_target("cuda:sm_80") == "cuda:sm_80"
