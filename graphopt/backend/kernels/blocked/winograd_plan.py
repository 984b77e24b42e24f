"""When Winograd convolution pays, with which tile, and how its work is cut.

All by an analytic model in cycles of one core: multiply-adds of the products and of the transforms,
tiles that hang over the image's edge, and weights that stream from beyond the caches.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

from graphopt.backend.kernels.blocked.cost import FAR_BYTES, UNHIDDEN, direct_cycles, together, typical
from graphopt.backend.kernels.blocked.layout import block_lanes
from graphopt.backend.kernels.blocked.winograd_transforms import (
    MOST_PRODUCTS,
    Program,
    Programs,
    Transforms,
    programs,
    transforms,
)
from graphopt.backend.kernels.conv_spec import ConvSpec
from graphopt.backend.kernels.emit import Expr, ceil_div, is_static, product, static
from graphopt.backend.kernels.knobs import choose
from graphopt.backend.kernels.machine import Machine
from graphopt.backend.kernels.tiling import tile_cycles


@dataclass(frozen=True)
class Winograd:
    """Winograd convolution F(tile, kernel): `tile` outputs along each spatial axis at a time.

    Along an axis where the kernel is 1 the tile is 1 and nothing is transformed.
    """

    tile: tuple[int, ...]
    kernel: tuple[int, ...]

    def __str__(self) -> str:
        return "x".join(map(str, self.tile))

    @property
    def patch(self) -> tuple[int, ...]:
        """Inputs that make a tile, along each axis; also the products per tile."""
        return tuple(m + r - 1 for m, r in zip(self.tile, self.kernel, strict=True))

    @property
    def products(self) -> int:
        """Products per tile and pair of channels."""
        return math.prod(self.patch)

    @property
    def transforms(self) -> tuple[Transforms, ...]:
        """The transforms along each axis."""
        return tuple(transforms(m, r) for m, r in zip(self.tile, self.kernel, strict=True))

    @property
    def programs(self) -> tuple[Programs, ...]:
        """How data and sums are transformed along each axis."""
        return tuple(programs(m, r) for m, r in zip(self.tile, self.kernel, strict=True))

    @property
    def active(self) -> tuple[int, ...]:
        """Axes along which anything is transformed."""
        return tuple(axis for axis, a in enumerate(self.patch) if a > 1)

    @property
    def error(self) -> float:
        """Bound of the largest error of an output relative to the largest |output|, float32 against exact.

        The roundings in a product times the transforms' `amplification`, for data and weights without
        structure. Measured, from 16 to 512 input channels, and the bound:

            F(2x2, 3x3)  2.0e-7 to 7.2e-7  3.2e-6     F(2, 5)  3.0e-7 to 1.4e-6  4.8e-6
            F(3x3, 3x3)  7.2e-7 to 3.0e-6  1.1e-5     F(4, 5)  4.2e-7 to 3.5e-6  1.0e-5
            F(4x4, 3x3)  8.4e-7 to 3.6e-6  1.7e-5     F(6, 5)  1.3e-6 to 7.4e-6  3.0e-5
            F(5x5, 3x3)  5.7e-6 to 2.0e-5  8.3e-5     F(2, 3)  2.1e-7 to 6.5e-7  2.5e-6
            F(6x6, 3x3)  4.9e-6 to 1.9e-5  8.8e-5     F(4, 3)  3.0e-7 to 1.5e-6  5.6e-6
            F(4x4, 5x5)  3.6e-6 to 1.6e-5  5.7e-5     F(6, 3)  9.6e-7 to 2.8e-6  1.3e-5
        """
        return _ROUNDINGS * 2.0**-24 * math.prod(t.amplification for t in self.transforms)


# Roundings of 2^-24 in the sums of an output with the largest error, with room for twice those measured.
_ROUNDINGS = 32.0
# Tiles that are worth trying.
_TILES = (2, 3, 4, 5, 6)
# Bytes per cycle that one core draws from its L2 cache.
_NEAR_BYTES = 32.0
# Fewer blocks of tiles than this cannot keep several threads busy.
_FEW_BLOCKS = 4
# Weight of the time that one of two threads waits for the other.
_IMBALANCE = 0.2
_MOST_VECTORS = 6
_MOST_COLUMNS = 16
_BLOCKS_TRIED = 8
# Scratch of a block, in sizes of the L2 cache.
_MOST_SCRATCH = 2
# Share of a cache that what is meant to stay there may take.
_USABLE = 0.8
# Cycles beside the multiply-adds: of a step of the reduction, of a register tile.
_LOOP_CYCLES = 0.5
_TILE_CYCLES = 20


def tile_counts(spec: ConvSpec, choice: Winograd) -> tuple[Expr, ...]:
    """Tiles along each spatial axis."""
    return tuple(static(ceil_div(out, m)) for out, m in zip(spec.out_spatial, choice.tile, strict=True))


def supports(spec: ConvSpec, machine: Machine) -> bool:
    """Whether any tile can compute `spec`."""
    ones = (1,) * len(spec.kernel)
    lanes = block_lanes(machine)
    return (
        spec.dtype == "float32"
        and spec.groups == 1
        and spec.strides == spec.dilations == ones
        and 1 <= sum(r > 1 for r in spec.kernel) <= 2
        and min(spec.in_channels, spec.out_channels) >= lanes
    )


def winograd_choice(spec: ConvSpec, machine: Machine, max_error: float | None = None) -> Winograd | None:
    """The tile for `spec`; None where direct convolution is modelled faster, or is needed.

    Args:
        max_error: bound of the error relative to the largest output (`Winograd.error`); None for any.
    """
    options = winograd_options(spec, machine, max_error)
    return choose(machine, "winograd", options, lambda choice: "direct" if choice is None else str(choice))


def winograd_options(
    spec: ConvSpec, machine: Machine, max_error: float | None = None
) -> list[Winograd | None]:
    """The tiles within a bound, in the order of their modelled cycles; None, direct convolution, is first or second."""
    if not supports(spec, machine):
        return [None]
    per_axis = [
        (1,) if r == 1 else tuple(m for m in _TILES if m + r - 1 <= MOST_PRODUCTS) for r in spec.kernel
    ]
    choices = [Winograd(tile, spec.kernel) for tile in itertools.product(*per_axis)]
    allowed = [choice for choice in choices if max_error is None or choice.error <= max_error]
    cycles = {choice: winograd_cycles(spec, choice, machine) for choice in allowed}
    allowed.sort(key=lambda choice: cycles[choice])
    pays = bool(allowed) and cycles[allowed[0]] < direct_cycles(spec, machine)
    return [allowed[0], None, *allowed[1:]] if pays else [None, *allowed]


def _tiles(spec: ConvSpec, choice: Winograd) -> int:
    sized = typical(spec)
    tiles: int = product((sized.batch, *tile_counts(sized, choice)))
    return tiles


def winograd_cycles(spec: ConvSpec, choice: Winograd, machine: Machine) -> float:
    """Modelled cycles of Winograd convolution."""
    lanes = block_lanes(machine)
    problem = _problem(spec, choice, machine)
    tiles = problem.tiles
    products = _product_cycles(problem, _ranked_plans(spec, choice, machine)[0])
    ins, outs = ceil_div(spec.in_channels, lanes), ceil_div(spec.out_channels, lanes)
    transform: float = tiles * (ins * data_cycles(choice) + outs * output_cycles(choice))
    return transform + products


def _stage_cycles(steps: Program, repeats: int) -> float:
    """`repeats` times a transform of vectors that are loaded and stored: the ports work at once."""
    arithmetic, loads, stores = steps.operations / 2, steps.inputs / 2, float(len(steps.outputs))
    return repeats * (max(arithmetic, loads, stores) + UNHIDDEN * (arithmetic + loads + stores))


def data_cycles(choice: Winograd) -> float:
    """Modelled cycles of transforming a tile's inputs in one block of channels."""
    return math.fsum(
        _stage_cycles(choice.programs[axis].data, choice.products // choice.patch[axis])
        for axis in choice.active
    )


def output_cycles(choice: Winograd) -> float:
    """Modelled cycles of making a tile's outputs in one block of channels, and of storing them."""
    repeats, cycles = choice.products, 0.0
    for axis in choice.active:
        repeats //= choice.patch[axis]
        cycles += _stage_cycles(choice.programs[axis].output, repeats)
        repeats *= choice.tile[axis]
    return cycles + 2.0 * math.prod(choice.tile)


@dataclass(frozen=True)
class Plan:
    """How the products are cut.

    Register tiles are `columns` tiles of the image times `vectors` blocks of output channels; `groups`
    of them make a block of tiles, whose transformed data stay in the cache.
    """

    vectors: int
    columns: int
    groups: int
    shared: bool
    """Whether threads share the work on a block of tiles, not the blocks."""

    def __str__(self) -> str:
        return f"{self.columns}x{self.vectors} by {self.groups}{' shared' if self.shared else ''}"

    @property
    def block(self) -> int:
        """Tiles in a block."""
        return self.columns * self.groups


@dataclass(frozen=True)
class _Problem:
    """The sizes that the plan depends on, as numbers."""

    tiles: int
    products: int
    ins: int
    """Input channels."""
    outs: int
    """Blocks of output channels."""
    lanes: int
    l1_bytes: int
    l2_bytes: int


def make_plan(spec: ConvSpec, choice: Winograd, machine: Machine) -> Plan:
    """How the products of a chosen tile are cut."""
    return choose(machine, f"plan {choice}", _ranked_plans(spec, choice, machine))


def _ranked_plans(spec: ConvSpec, choice: Winograd, machine: Machine) -> tuple[Plan, ...]:
    """The plans with the least modelled cycles, one of each kind."""
    known = is_static(spec.batch) and all(isinstance(n, int) for n in tile_counts(spec, choice))
    return _plans(_problem(spec, choice, machine), machine.vector_registers, known)


def _problem(spec: ConvSpec, choice: Winograd, machine: Machine) -> _Problem:
    lanes = block_lanes(machine)
    outs = ceil_div(spec.out_channels, lanes)
    tiles = _tiles(spec, choice)
    return _Problem(tiles, choice.products, spec.in_channels, outs, lanes, machine.l1_bytes, machine.l2_bytes)


@functools.lru_cache(maxsize=4096)
def _plans(problem: _Problem, registers: int, known: bool) -> tuple[Plan, ...]:
    budget = registers - (registers > 16)
    tiles = problem.tiles
    tile_bytes = 4 * problem.products * (problem.ins + problem.outs * problem.lanes)
    most = max(1, min(_MOST_SCRATCH * problem.l2_bytes // tile_bytes, tiles))
    plans = []
    for vectors in range(1, min(problem.outs, _MOST_VECTORS) + 1):
        for columns in range(1, min(_MOST_COLUMNS, tiles, (budget - 1) // vectors - 1) + 1):
            least = ceil_div(tiles, max(most // columns, 1) * columns)
            for blocks in range(least, least + _BLOCKS_TRIED):
                groups = ceil_div(ceil_div(tiles, blocks), columns)
                plans.append(Plan(vectors, columns, groups, not known or blocks < _FEW_BLOCKS))
    ranked = sorted(plans, key=lambda plan: (_balanced_cycles(problem, plan), -plan.block))
    # What differs from the best in the size of a block, then in the register tile.
    first = ranked[0]
    same = [plan for plan in ranked if (plan.columns, plan.vectors) == (first.columns, first.vectors)]
    tiles_once = {(plan.columns, plan.vectors): plan for plan in reversed(ranked)}
    others = sorted(tiles_once.values(), key=ranked.index)
    return tuple(dict.fromkeys([first, *others[1:4], *same[1:3], *others[4:]]))


def _balanced_cycles(problem: _Problem, plan: Plan) -> float:
    """Cycles with a penalty for blocks that two threads cannot halve."""
    cycles = _product_cycles(problem, plan)
    if plan.shared:
        return cycles
    blocks: int = ceil_div(problem.tiles, plan.block)
    return float(cycles * (1 + _IMBALANCE * (2 * ceil_div(blocks, 2) / blocks - 1)))


def _product_cycles(problem: _Problem, plan: Plan) -> float:
    """Modelled cycles of all products of transformed data and weights, and of moving both.

    Within a panel of weights, the panel and a plane of data are used again and again if the L1 cache
    holds them; a block's data, sums and the weights come from the L2 cache if it holds them.
    """
    vector_bytes = 4.0 * problem.lanes
    blocks = ceil_div(problem.tiles, plan.block)
    panels = ceil_div(problem.outs, plan.vectors)
    columns = ceil_div(problem.tiles, plan.columns)  # register tiles of a panel, over all blocks
    step = _LOOP_CYCLES + tile_cycles(plan.columns, plan.vectors)
    fixed = _TILE_CYCLES + plan.columns * plan.vectors  # to clear and to store accumulators
    compute = problem.products * panels * columns * (problem.ins * step + fixed)

    panel = problem.ins * plan.vectors * vector_bytes
    plane = 4.0 * problem.ins * plan.block
    sums = panels * plan.vectors * plan.block * vector_bytes
    near = 0.0  # bytes that the L1 cache does not keep
    if panel + 4.0 * problem.ins * plan.columns > _USABLE * problem.l1_bytes:
        near += panel * panels * (columns - blocks)
    if panel + plane > _USABLE * problem.l1_bytes:
        near += plane * blocks * (panels - 1)
    scratch = problem.products * (plane + sums)
    weights = problem.products * panels * panel
    speed = _NEAR_BYTES if scratch <= _USABLE * problem.l2_bytes else FAR_BYTES
    weight_speed = _NEAR_BYTES if scratch + weights <= _USABLE * problem.l2_bytes else FAR_BYTES
    near_cycles = problem.products * near / _NEAR_BYTES + 2 * scratch * blocks / speed
    # In a network, other layers have put the weights out of the caches.
    far_cycles = weights / FAR_BYTES + weights * (blocks - 1) / weight_speed
    return together(together(compute, near_cycles), far_cycles)
