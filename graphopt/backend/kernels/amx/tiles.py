"""AMX instructions: eight registers of 16 rows by 64 bytes, and products of them.

A `multiply` adds to a tile of 16 x 16 floats the product of a tile of `rows` x 32 bfloat16 and one of
32 x 16. The second lies in pairs: its row j holds elements 2j and 2j + 1 of each column side by side.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.emit import Buffer, Expr, i64
from graphopt.backend.kernels.machine import Machine
from graphopt.backend.kernels.temporaries import scratch

ROWS = 16
"""Rows of a tile."""
WORDS = 16
"""32-bit words in a row of a tile: as many floats, or pairs of bfloat16."""
DEPTH = 2 * WORDS
"""Steps of a reduction that one multiply takes."""
TILE = ROWS * WORDS
"""Words of a tile."""
_ROW_BYTES = 4 * WORDS
_REGISTERS = 8


def has_tiles(machine: Machine) -> bool:
    """Whether the target multiplies tiles of bfloat16."""
    return machine.has("amx-bf16") and machine.vector_bits == 512


@contextmanager
def configured(rows: tuple[int, ...]) -> Iterator[None]:
    """The body may use tile registers, register i with ``rows[i]`` rows of 64 bytes.

    The configuration belongs to a thread: a parallel loop's body needs one of its own.
    """
    assert len(rows) == _REGISTERS
    # Byte 0 is the palette, 16 to 31 the bytes of a row of each register, 48 to 55 its rows.
    columns = sum(_ROW_BYTES << 16 * i for i in range(4))
    heights = sum(count << 8 * i for i, count in enumerate(rows))
    memory = scratch(8, "int64")
    for place, word in enumerate((1, 0, columns, columns, 0, 0, heights, 0)):
        T.buffer_store(memory, tirx.IntImm("int64", word), [place])
    _emit("ldtilecfg", T.address_of(memory[0]))
    yield
    _emit("tilerelease")


def zero(tile: int) -> None:
    """Sets a tile to zero."""
    _emit("tilezero", _register(tile))


def load(tile: int, buffer: Buffer, start: Expr) -> None:
    """Loads a tile whose rows lie one after the other in a flat buffer of words."""
    _emit("tileloadd64", _register(tile), T.address_of(buffer[start]), i64(_ROW_BYTES))


def store(tile: int, buffer: Buffer, start: Expr) -> None:
    """Stores a tile, rows one after the other, into a flat buffer of words."""
    _emit("tilestored64", _register(tile), T.address_of(buffer[start]), i64(_ROW_BYTES))


def multiply(total: int, rows: int, columns: int) -> None:
    """total += rows * columns, all of them registers."""
    _emit("tdpbf16ps", _register(total), _register(rows), _register(columns))


def _register(tile: int) -> Expr:
    return tirx.IntImm("int8", tile)


def _emit(instruction: str, *operands: Expr) -> None:
    T.evaluate(T.call_llvm_intrin("void", f"llvm.x86.{instruction}", *operands))
