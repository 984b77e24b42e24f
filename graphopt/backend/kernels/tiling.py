"""The rules that turn a machine into register tiles, and what stays in its first cache."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.backend.kernels.knobs import choose
from graphopt.backend.kernels.machine import Machine


@dataclass(frozen=True)
class RegisterTile:
    """`rows` scalars broadcast against `vectors` vectors: rows * vectors accumulators."""

    rows: int
    vectors: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.vectors}"


# An accumulator may be used again after this many cycles, and two multiply-adds start in each.
_LATENCY = 4
_PER_CYCLE = 2
# Share of a cycle that a load costs although it overlaps arithmetic; vectors at odd addresses
# touch two cache lines.
_BROADCAST_COST = 0.2
_VECTOR_COST = 0.3
_TOLERANCE = 1.03
_LARGE = 1 << 12


def tile_cycles(rows: int, vectors: int) -> float:
    """Modelled cycles of one reduction step over a register tile."""
    arithmetic = max(rows * vectors / _PER_CYCLE, float(_LATENCY))
    return arithmetic + rows * _BROADCAST_COST + vectors * _VECTOR_COST


def _covered(total: int, tile: int) -> list[tuple[int, int]]:
    """How `total` is cut: (count, size) of full tiles and of the tail."""
    full, tail = divmod(total, tile)
    return [(full, tile)] * (full > 0) + [(1, tail)] * (tail > 0)


def choose_tile(machine: Machine, rows: int | None, vectors: int | None) -> RegisterTile:
    """The register tile for `rows` x `vectors` (None: large)."""
    return choose(machine, f"tile {rows or 'any'}x{vectors or 'any'}", rank_tiles(machine, rows, vectors))


def rank_tiles(machine: Machine, rows: int | None, vectors: int | None) -> list[RegisterTile]:
    """The register tiles for `rows` x `vectors` (None: large), those with the least modelled cycles first.

    Accumulators, one row of vectors and one broadcast must fit the register file together.
    """
    rows = min(rows or _LARGE, _LARGE)
    vectors = min(vectors or _LARGE, _LARGE)
    budget = machine.vector_registers - (machine.vector_registers > 16)
    candidates = [
        RegisterTile(mr, nv)
        for mr in range(1, min(rows, 16) + 1)
        for nv in range(1, min(vectors, 8) + 1)
        if mr * nv + nv + 1 <= budget
    ]

    def cycles(tile: RegisterTile) -> float:
        return math.fsum(
            count_r * count_v * tile_cycles(r, v)
            for count_r, r in _covered(rows, tile.rows)
            for count_v, v in _covered(vectors, tile.vectors)
        )

    modelled = {tile: cycles(tile) for tile in candidates}
    near = min(modelled.values()) * _TOLERANCE
    # Tails are bodies of their own: code to compile, and a chance for LLVM to spill.
    return sorted(
        candidates,
        key=lambda tile: (
            max(modelled[tile], near),
            rows % tile.rows > 0,
            vectors % tile.vectors > 0,
            modelled[tile],
            -tile.rows,
        ),
    )


_LINE = 64
# Lines at this distance share a set of the first cache.
_SETS_REPEAT = 4096


def stays_in_l1(machine: Machine, *, rows: int, width: int, pitch: int) -> bool:
    """Whether `width` bytes of each of `rows` rows, `pitch` bytes apart, stay in the first cache together.

    Rows at a distance that shares large powers of two with the cache's own use few of its sets.
    """
    used = min(1.0, width / math.gcd(pitch, _SETS_REPEAT))
    return rows * (width + _LINE) <= machine.l1_bytes * used


# Accumulators of a tile on the blocked layout that hide the latency of arithmetic and the loads of
# its inputs. More make the code longer, and LLVM spill.
_ENOUGH_ACCUMULATORS = 16
# Where no tap falls outside of the image there is one body, and fewer reads per multiply-add pay.
_PLAIN_ACCUMULATORS = 22
# Others that tuning tries: at least as many as hide the latency, at most what registers hold.
_HIDDEN = 8
_MOST_VECTORS = 6
_MOST_COLUMNS = 14
# Cycles of a step of the innermost loop beside its arithmetic and loads.
_STEP_CYCLES = 0.5


def choose_blocked_tile(
    machine: Machine, columns: int | None, blocks: int, *, pointwise: bool = False
) -> RegisterTile:
    """The tile of a convolution on the blocked layout: columns of a row x blocks of output channels."""
    enough = _PLAIN_ACCUMULATORS if pointwise else _ENOUGH_ACCUMULATORS
    best = _best_blocked_tile(machine, columns, blocks, enough)
    others = [
        RegisterTile(_even(columns, rows), vectors)
        for vectors in range(1, min(blocks, _MOST_VECTORS) + 1)
        for rows in range(1, _MOST_COLUMNS + 1)
        if _HIDDEN <= rows * vectors <= machine.vector_registers - 4 - vectors
    ]

    def cycles(tile: RegisterTile) -> float:
        return math.fsum(
            count_r * count_v * (tile_cycles(r, v) + _STEP_CYCLES)
            for count_r, r in _covered(columns or _LARGE, tile.rows)
            for count_v, v in _covered(blocks, tile.vectors)
        )

    return choose(machine, "tile", dict.fromkeys([best, *sorted(others, key=cycles)]))


def _even(columns: int | None, most: int) -> int:
    """Columns of a tile, `most` at most, so that all tiles of a row have nearly equally many."""
    return -(-columns // -(-columns // most)) if columns else most


def _best_blocked_tile(machine: Machine, columns: int | None, blocks: int, enough: int) -> RegisterTile:
    """The tile that the model chooses.

    Two blocks, or three or five that divide all, and columns of nearly equal number in all tiles of a
    row; more blocks where a row has too few columns to keep the arithmetic busy.
    """
    most = min(enough, machine.vector_registers - 4)
    vectors = 2
    while columns and 2 * vectors * columns <= most:
        vectors *= 2
    vectors = min(vectors, blocks)
    if blocks % vectors:  # a tail is a whole kernel more to compile
        vectors = next((v for v in (vectors, 2, 3, 5) if v <= most and blocks % v == 0), 2)
    return RegisterTile(_even(columns, min(most // vectors, enough // 2)), vectors)


def choose_depthwise_columns(machine: Machine, columns: int | None) -> int:
    """Columns of a tile whose accumulators and inputs both stay in registers."""
    most = 8 if machine.vector_registers > 16 else 5
    return choose(
        machine, "columns", dict.fromkeys(_even(columns, n) for n in (most, *range(most, 1, -1), 12))
    )
