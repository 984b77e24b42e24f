"""Damaged models end in a right result or a refusal: no other exception, no crash, no hang."""

from __future__ import annotations

import collections

import pytest

from tests.sweep.mutant_run import BAD, run

ALL = 2000
IN_THE_SUITE = 150
CHUNK = 100


def check(numbers: range) -> collections.Counter[str]:
    """How many mutants met which fate."""
    fates = list(run(numbers))
    assert [fate.number for fate in sorted(fates, key=lambda fate: fate.number)] == list(numbers)
    bad = [f"mutant {f.number} ({f.kind}): {f.word}: {f.details}" for f in fates if f.word in BAD]
    assert not bad, "\n".join(bad)
    return collections.Counter(fate.word for fate in fates)


@pytest.mark.parametrize("start", range(0, IN_THE_SUITE, 75))
def test_sample_of_mutants(start: int) -> None:
    counts = check(range(start, start + 75))
    # The sample says something only when damage is both found and lived through.
    assert counts["refused"] > 10
    assert counts["agrees"] > 3


@pytest.mark.sweep
@pytest.mark.parametrize("start", range(0, ALL, CHUNK))
def test_all_mutants(start: int) -> None:
    check(range(start, start + CHUNK))
