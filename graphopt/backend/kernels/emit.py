"""Small pieces of TIR that every kernel is made of: 64-bit loops, vector access, runs.

All functions emit into the TIR builder that is open when they are called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

import numpy as np
from tvm import tirx
from tvm.ir import Call, PointerType, PrimType
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.temporaries import vectorized

Expr: TypeAlias = Any  # a tirx expression or a Python int
Buffer: TypeAlias = Any  # a tirx buffer
Loop: TypeAlias = Callable[[Expr], AbstractContextManager[Expr]]


def i64(value: Expr) -> Expr:
    """`value` as a 64-bit index: indices of one kernel share one type, whatever is dynamic."""
    return tirx.IntImm("int64", value) if isinstance(value, int) else value.astype("int64")


def is_static(value: Expr) -> bool:
    """Whether `value` is known at compile time."""
    return isinstance(value, (int, tirx.IntImm))


def static(value: Expr) -> Expr:
    """`value` as a Python int where it is known, else itself."""
    return int(value) if is_static(value) else value


def bind(value: Expr) -> Expr:
    """`value` computed once here and named, unless it is a Python int.

    TVM's simplifier sees through a plain binding, and takes seconds over the nests of divisions that
    symbolic sizes make. It does not look through a call with effects, and LLVM drops the call: the
    unsigned maximum with 0.
    """
    if is_static(value):
        return value
    return T.Bind(T.call_llvm_intrin("int64", "llvm.umax.i64", value.astype("int64"), i64(0)))


def ceil_div(a: Expr, b: Expr) -> Expr:
    """a / b rounded up, for a >= 0 and b > 0; a Python int when both are."""
    return (a + b - 1) // b


def at_least(a: Expr, b: Expr) -> Expr:
    """max(a, b), a Python int when both are."""
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else T.max(i64(a), i64(b))


def at_most(a: Expr, b: Expr) -> Expr:
    """min(a, b), a Python int when both are."""
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else T.min(i64(a), i64(b))


def product(values: tuple[Expr, ...] | list[Expr]) -> Expr:
    """The product of `values`, 1 when there are none."""
    return math.prod(values, start=1)


def serial(extent: Expr) -> AbstractContextManager[Expr]:
    """A sequential loop over a 64-bit index."""
    loop: AbstractContextManager[Expr] = T.serial(i64(0), i64(extent))
    return loop


def parallel(extent: Expr) -> AbstractContextManager[Expr]:
    """A loop whose iterations threads share, over a 64-bit index."""
    loop: AbstractContextManager[Expr] = T.parallel(i64(0), i64(extent))
    return loop


_CPU = 1  # DLPack's device type
# Below this many multiply-adds, waking threads costs more than it brings.
_PARALLEL_WORK = 1 << 17


def loop_for(work: Expr) -> Loop:
    """The kind of loop for `work` multiply-adds: parallel unless they are known to be few."""
    return serial if isinstance(work, int) and work < _PARALLEL_WORK else parallel


def whole_or_tail(index: Expr, extent: Expr, width: int, body: Callable[[Expr], None]) -> None:
    """body(size) for block `index` of `extent` cut by `width`: `width`, or what is left."""
    if isinstance(extent, int) and (extent % width == 0 or extent < width):
        body(min(extent, width))
        return
    with T.If(index < extent // width):
        with T.Then():
            body(width)
        with T.Else():
            body(bind(extent % width))


def unflatten(index: Expr, extents: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """The index along each of `extents` of a flat index; the first extent need not be known.

    Without remainders: flattened again, quotients cancel, and what was contiguous is so still. TVM's
    simplifier does not always see it of quotients and remainders that it rewrote one by one, and a
    vector would be stored number by number.
    """
    indices: list[Expr] = []
    for extent in reversed(extents[1:]):
        outer = index // extent
        indices.append(index - outer * extent)
        index = outer
    return (index, *reversed(indices)) if extents else ()


@contextmanager
def workspace(size: Expr, dtype: str) -> Iterator[Buffer]:
    """Scratch of `size` elements from the runtime's pool of this thread, for the body of the `with`.

    Taken by hand: TVM's own allocation would first look for the part that is used, which takes
    minutes with symbolic sizes.
    """
    bits = np.dtype(dtype).itemsize * 8
    code = {"f": 2, "i": 0, "u": 1}[np.dtype(dtype).kind]
    pointer = PointerType(PrimType(dtype))
    size = i64(size)
    device = (tirx.IntImm("int32", _CPU), tirx.IntImm("int32", 0))
    kind = (tirx.IntImm("int32", code), tirx.IntImm("int32", bits))
    total = (size * (bits // 8)).astype("uint64")
    call = Call("tirx.TVMBackendAllocWorkspace", (*device, total, *kind), ret_ty=pointer)
    data = T.Bind(call, pointer)
    yield T.decl_buffer((size,), dtype, data=data)
    T.evaluate(Call("tirx.TVMBackendFreeWorkspace", (*device, data), ret_ty="int32"))


def register(lanes: int, dtype: str) -> Buffer:
    """A vector that LLVM keeps in a register: written and read whole."""
    # Not of scope "local", which in a parallel loop would come from the pool.
    return T.alloc_buffer((lanes,), dtype)


def lanes_of(buffer: Buffer, start: Expr, lanes: int) -> Expr:
    """The vector buffer[start : start + lanes] of a flat buffer."""
    return buffer[T.ramp(start, 1, lanes)] if lanes > 1 else buffer[start]


def store_lanes(buffer: Buffer, start: Expr, lanes: int, value: Expr) -> None:
    """buffer[start : start + lanes] = value, for a flat buffer."""
    T.buffer_store(buffer, value, [T.ramp(start, 1, lanes) if lanes > 1 else start])


def prefetch(buffer: Buffer, index: Expr) -> None:
    """Ask for the cache line of an element of a flat buffer, which need not exist."""
    address = T.address_of(buffer[index])
    # To read, into the second cache, data.
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", address, 0, 2, 1))


def flat_view(buffer: Buffer) -> Buffer:
    """The same memory as one dimension."""
    return T.decl_buffer((i64(product([i64(d) for d in buffer.shape])),), buffer.dtype, data=buffer.data)


def emit_run(extent: Expr, lanes: int, body: Callable[[Expr], None]) -> None:
    """body(j) for j in [0, extent), vectorised.

    The last vector overlaps the one before it, so `body` must give the same result when it is
    run twice for one j (a store of a pure function of j).
    """
    extent = static(extent)
    if not isinstance(extent, int):
        _emit_dynamic_run(extent, lanes, body)
        return
    if extent <= 0:
        return
    while lanes > extent:
        lanes //= 2
    full, tail = divmod(extent, lanes)
    _emit_vectors(full, lanes, body)
    if tail:
        with vectorized(lanes) as lane:
            body(lane + i64(extent - lanes))


def _emit_vectors(count: Expr, lanes: int, body: Callable[[Expr], None]) -> None:
    if isinstance(count, int) and count == 1:
        with vectorized(lanes) as lane:
            body(lane)
        return
    with serial(count) as i, vectorized(lanes) as lane:
        body(i * i64(lanes) + lane)


def _emit_dynamic_run(extent: Expr, lanes: int, body: Callable[[Expr], None]) -> None:
    with T.If(extent >= lanes):
        with T.Then():
            _emit_vectors(extent // lanes, lanes, body)
            with T.If(extent % lanes > 0), T.Then(), vectorized(lanes) as lane:
                body(extent - lanes + lane)
        with T.Else(), serial(extent) as j:
            body(j)
