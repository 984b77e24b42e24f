"""Hand-built kernels: loops of convolution and matrix product as TIR, blocked, vectorised, parallel.

A kernel is a function `emit_*` that writes loops into the TIR function that is open
(`tvm.script.ir_builder`). The caller declares the buffers, marks the function with
`{"tirx.noalias": True}` (without it accumulators leave registers) and wraps the body in
`T.sblock("root")`. What is done with a finished accumulator is the caller's:

    store(value, index)

emits the store of one output, `value` being the accumulator in the type of the operands and
`index` its logical index, (n, channel, *spatial) or (*batch, row, column). It may load from other
buffers (bias, residual) and apply any scalar expression; it is called inside vectorised loops and
may be run twice for one index, so it must be a pure function of it.

Constant weights are packed once, at compile time, by `pack_*` into the order in which the kernel
reads them; `packed_*_shape` tells the shape. Sizes that are not weights' may be symbolic
(64-bit `tirx.Var` and expressions of them).

    conv.py        ConvSpec, pack_conv_weights, packed_conv_shape, emit_conv
    gemm.py        GemmSpec, pack_gemm_weights, packed_gemm_shape, emit_gemm
    int8.py        the same of 8-bit integers: exact int32 accumulators
    math.py        exp, log, tanh, sigmoid, erf as expressions that vectorise
    machine.py     what kernels read of a target
    tiling.py      the rules for register tiles
    standalone.py  whole functions around one kernel, for tests and measurements

Importing the modules of this package imports TVM.
"""
