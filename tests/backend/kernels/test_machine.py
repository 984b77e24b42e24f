"""The rule for register tiles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.backend.kernels.machine import MachineSpec
from graphopt.backend.kernels.tiling import choose_blocked_tile, choose_tile, stays_in_l1
from graphopt.targets import Target

MACHINES = [MachineSpec(512, 32), MachineSpec(256, 16), MachineSpec(128, 32), MachineSpec(128, 16)]
SIZES = st.none() | st.integers(1, 5000)


@given(st.sampled_from(MACHINES), SIZES, SIZES)
def test_a_tile_fits_the_registers_and_the_problem(
    machine: MachineSpec, rows: int | None, vectors: int | None
) -> None:
    tile = choose_tile(machine, rows, vectors)
    assert 1 <= tile.rows <= (rows or 5000)
    assert 1 <= tile.vectors <= (vectors or 5000)
    # Accumulators, one row of vectors, one broadcast.
    assert tile.rows * tile.vectors + tile.vectors + 1 <= machine.vector_registers


@given(st.sampled_from(MACHINES), SIZES, st.integers(1, 300), st.booleans())
def test_a_blocked_tile_fits_the_registers_and_the_problem(
    machine: MachineSpec, columns: int | None, blocks: int, pointwise: bool
) -> None:
    tile = choose_blocked_tile(machine, columns, blocks, pointwise=pointwise)
    assert 1 <= tile.rows <= (columns or 5000)
    assert 1 <= tile.vectors <= blocks
    # Accumulators, a vector of weights, one broadcast.
    assert tile.rows * tile.vectors + 2 <= machine.vector_registers


def test_a_blocked_tile_has_enough_accumulators() -> None:
    for machine in MACHINES:
        for columns in (1, 3, 7, 13, 14, 28, 55, 56, 112, None):
            tile = choose_blocked_tile(machine, columns, 16)
            assert tile.rows * tile.vectors >= 8, columns


@pytest.mark.parametrize("machine", MACHINES)
def test_large_problems_fill_the_registers(machine: MachineSpec) -> None:
    tile = choose_tile(machine, None, None)
    assert tile.rows * tile.vectors >= machine.vector_registers * 0.7


def test_a_target_is_a_machine() -> None:
    assert choose_tile(Target.parse("x86-64-v4"), 64, None) == choose_tile(MACHINES[0], 64, None)
    assert choose_tile(Target.parse("x86-64-v3"), 64, None) == choose_tile(MACHINES[1], 64, None)


def test_rows_stay_in_the_first_cache_if_they_fit_and_share_no_sets() -> None:
    machine = MachineSpec(l1_bytes=32 << 10)
    assert stays_in_l1(machine, rows=100, width=256, pitch=784)
    assert not stays_in_l1(machine, rows=103, width=256, pitch=784)  # 320 bytes each with what sticks out
    assert not stays_in_l1(machine, rows=100, width=256, pitch=4096)  # all in four sets
    assert stays_in_l1(machine, rows=6, width=256, pitch=4096)
