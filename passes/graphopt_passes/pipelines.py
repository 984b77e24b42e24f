"""The named pipelines.

The order of cleanup: shapes first, since they make constants; then folding; branches whose
condition that made constant; once more for what was in the branches; then what all this made equal,
redundant or dead.
"""

from __future__ import annotations

from graphopt.pipeline import register_pipeline

CLEANUP = (
    "eliminate-dead-code,simplify-identities,simplify-shapes,fold-constants,"
    "fold-control-flow,simplify-shapes,fold-constants,"
    "eliminate-common-subexpressions,simplify-identities,eliminate-dead-code"
)
FUSIONS = "fuse-layer-norm,fuse-gelu,fuse-conv-bn,decompose-batch-norm,fuse-matmul-bias,fold-constants"

register_pipeline("O0", "eliminate-dead-code", "Only what nothing depends on is removed.")
register_pipeline("O1", CLEANUP, "Clean up: folding, shapes, identities, common subexpressions; exact.")
register_pipeline(
    "O2",
    f"O1,scale-after-product,{FUSIONS},eliminate-dead-code,fuse-attention,fuse-regions,assign-layouts",
    "O1, then fusion into regions, and layouts for a target.",
)
register_pipeline(
    "int8",
    f"O1,{FUSIONS},eliminate-dead-code,quantize-static,lower-int8,eliminate-dead-code,fuse-regions",
    "O2 with layers quantized to 8 bits; give samples of real inputs to calibrate on.",
)
