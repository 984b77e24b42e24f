"""Which adapter brings which operator to which version.

A step between two versions that is not here needs nothing: it added element types, optional
attributes and inputs whose default is the old behaviour, or only words. ``REVIEWED`` names the
steps whose schemas differ in more than that and that still need nothing, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphopt.onnx_io.upgrade import broadcast, inputs, normalization, renamed, resize
from graphopt.onnx_io.upgrade.legacy import Legacy

Adapter = Callable[[Legacy], None]

_ELEMENTWISE_7 = ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")
_REDUCTIONS_18 = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSumSquare",
)  # fmt: skip

ADAPTERS: Mapping[tuple[str, int], Adapter] = {
    **{(op, 7): broadcast.broadcast_7 for op in _ELEMENTWISE_7},
    ("BatchNormalization", 7): broadcast.without_test_flag_7,
    ("BatchNormalization", 9): normalization.batch_normalization_9,
    ("BatchNormalization", 14): normalization.batch_normalization_14,
    ("Clip", 11): inputs.clip_11,
    ("DFT", 20): inputs.dft_20,
    ("Dropout", 7): broadcast.without_test_flag_7,
    ("Dropout", 10): inputs.dropout_10,
    ("Dropout", 12): inputs.dropout_12,
    ("GRU", 7): broadcast.recurrent_7,
    ("Gemm", 7): broadcast.gemm_7,
    ("GridSample", 20): renamed.grid_sample_20,
    ("GroupNormalization", 21): normalization.group_normalization_21,
    ("Hardmax", 13): normalization.softmax_13,
    ("LSTM", 7): broadcast.recurrent_7,
    ("LogSoftmax", 13): normalization.softmax_13,
    ("PRelu", 7): broadcast.prelu_7,
    ("Pad", 11): inputs.pad_11,
    ("RNN", 7): broadcast.recurrent_7,
    **{(op, 18): inputs.axes_input for op in _REDUCTIONS_18},
    ("ReduceSum", 13): inputs.axes_input,
    ("Resize", 11): resize.resize_11,
    ("Resize", 13): resize.resize_13,
    ("RoiAlign", 16): renamed.roi_align_16,
    ("Scatter", 11): renamed.scatter_11,
    ("Slice", 10): inputs.slice_10,
    ("Softmax", 13): normalization.softmax_13,
    ("Split", 13): inputs.split_13,
    ("Split", 18): inputs.split_18,
    ("Squeeze", 13): inputs.axes_input,
    ("TopK", 10): inputs.topk_10,
    ("Unsqueeze", 13): inputs.axes_input,
    ("Upsample", 7): broadcast.upsample_7,
    ("Upsample", 9): resize.upsample_9,
    ("Upsample", 10): resize.upsample_10,
}

REVIEWED: Mapping[tuple[str, int], str] = {
    ("Constant", 11): "Constant nodes become constants in all their forms",
    ("Scan", 9): "becomes two nodes, see graphopt.onnx_io.batched_scan",
    ("Resize", 18): "the axes that were all are all by default",
}
