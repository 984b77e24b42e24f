"""Whole TIR functions around single kernels, for tests and measurements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from graphopt.backend.kernels.conv import ConvSpec, emit_conv, packed_conv_shape
from graphopt.backend.kernels.emit import Buffer, Expr
from graphopt.backend.kernels.gemm import GemmSpec, emit_gemm, packed_gemm_shape
from graphopt.backend.kernels.int8 import (
    emit_conv_int8,
    emit_gemm_int8,
    packed_conv_int8_shape,
    packed_gemm_int8_shape,
)
from graphopt.backend.kernels.machine import Machine

Epilogue = Callable[[Expr, tuple[Expr, ...]], Expr]


def kernel_prim_func(
    arguments: dict[str, tuple[tuple[Expr, ...], str]], body: Callable[[dict[str, Buffer]], None]
) -> Any:
    """A function of the named buffers (shape, dtype), whose loops `body` emits."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        buffers = {name: T.arg(name, T.buffer(shape, dtype)) for name, (shape, dtype) in arguments.items()}
        with T.sblock("root"):
            T.reads()
            T.writes()
            body(buffers)
    return builder.get()


def conv_prim_func(spec: ConvSpec, machine: Machine, relu: bool = False) -> Any:
    """main(x, w, bias, out): a convolution with bias and, if asked, ReLU."""

    def body(buffers: dict[str, Buffer]) -> None:
        def store(value: Expr, index: tuple[Expr, ...]) -> None:
            value = value + buffers["bias"][index[1]]
            value = T.max(value, T.cast(0, spec.dtype)) if relu else value
            T.buffer_store(buffers["out"], value, list(index))

        emit_conv(spec, machine, buffers["x"], buffers["w"], store)

    packed = "float32" if spec.dtype == "float16" else spec.dtype
    return kernel_prim_func(
        {
            "x": ((spec.batch, spec.in_channels, *spec.spatial), spec.dtype),
            "w": (packed_conv_shape(spec, machine), packed),
            "bias": ((spec.out_channels,), spec.dtype),
            "out": ((spec.batch, spec.out_channels, *spec.out_spatial), spec.dtype),
        },
        body,
    )


def gemm_prim_func(spec: GemmSpec, machine: Machine) -> Any:
    """main(a, b, out): a [*batch, m, k]; b packed, or [*batch, k, n], or [*batch, n, k] if transposed."""

    def body(buffers: dict[str, Buffer]) -> None:
        def read_b(*index: Expr) -> Expr:
            *batch, k, n = index
            return buffers["b"][(*batch, n, k) if spec.b_transposed else index]

        emit_gemm(
            spec,
            machine,
            lambda *index: buffers["a"][index],
            buffers["b"] if spec.packed else read_b,
            lambda value, index: T.buffer_store(buffers["out"], value, list(index)),
        )

    packed = "float32" if spec.dtype == "float16" else spec.dtype
    unpacked_b = (spec.n, spec.k) if spec.b_transposed else (spec.k, spec.n)
    b = (
        (packed_gemm_shape(spec, machine), packed)
        if spec.packed
        else ((*spec.batch, *unpacked_b), spec.dtype)
    )
    return kernel_prim_func(
        {
            "a": ((*spec.batch, spec.m, spec.k), spec.dtype),
            "b": b,
            "out": ((*spec.batch, spec.m, spec.n), spec.dtype),
        },
        body,
    )


def conv_int8_prim_func(spec: ConvSpec, machine: Machine, zero_point: int, wide_weights: bool = False) -> Any:
    """main(x, w, out): an integer convolution, out int32."""

    def body(buffers: dict[str, Buffer]) -> None:
        def store(value: Expr, index: tuple[Expr, ...]) -> None:
            T.buffer_store(buffers["out"], value, list(index))

        emit_conv_int8(spec, machine, buffers["x"], buffers["w"], store, zero_point, wide_weights)

    return kernel_prim_func(
        {
            "x": ((spec.batch, spec.in_channels, *spec.spatial), spec.dtype),
            "w": (packed_conv_int8_shape(spec, machine, wide_weights), "int32"),
            "out": ((spec.batch, spec.out_channels, *spec.out_spatial), "int32"),
        },
        body,
    )


def gemm_int8_prim_func(spec: GemmSpec, machine: Machine, wide_weights: bool = False) -> Any:
    """main(a, zero_point, b, out): an integer product, zero_point int32 [1], out int32."""

    def body(buffers: dict[str, Buffer]) -> None:
        emit_gemm_int8(
            spec,
            machine,
            lambda *index: buffers["a"][index],
            buffers["b"],
            lambda value, index: T.buffer_store(buffers["out"], value, list(index)),
            buffers["zero_point"][0],
            wide_weights,
        )

    return kernel_prim_func(
        {
            "a": ((*spec.batch, spec.m, spec.k), spec.dtype),
            "zero_point": ((1,), "int32"),
            "b": (packed_gemm_int8_shape(spec, machine, wide_weights), "int32"),
            "out": ((*spec.batch, spec.m, spec.n), "int32"),
        },
        body,
    )


def build(function: Any, target: dict[str, Any] | str) -> Any:
    """Compile a standalone function; index the result with "main"."""
    return tvm.compile(tvm.IRModule({"main": function}), target=tvm.target.Target(target))
