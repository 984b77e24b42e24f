"""The built-in passes and named pipelines; importing this package registers them."""

from graphopt_passes import (
    common_subexpressions,
    control_flow,
    conv_affine,
    dead_code,
    fold_constants,
    fuse_regions,
    gelu,
    identities,
    inline_regions,
    layer_norm,
    lower_int8,
    matmul_bias,
    pipelines,
    prune_magnitude,
    quantize_static,
    shapes,
)

__all__ = [
    "common_subexpressions",
    "control_flow",
    "conv_affine",
    "dead_code",
    "fold_constants",
    "fuse_regions",
    "gelu",
    "identities",
    "inline_regions",
    "layer_norm",
    "lower_int8",
    "matmul_bias",
    "pipelines",
    "prune_magnitude",
    "quantize_static",
    "shapes",
]
