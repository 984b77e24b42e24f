"""What each operator is: its kind, its traits, and the types of its outputs.

One module per family holds the type rules; importing this package registers them all.
"""

from graphopt.ops import (  # noqa: F401 - each registers its operators
    attention,
    content_rules,
    control,
    convolution,
    elementwise,
    generation,
    indexing,
    matmul,
    microsoft,
    movement,
    normalization,
    others,
    pooling,
    quantization,
    recurrent,
    reductions,
    sequences,
    signal,
    strings,
    vision,
)
from graphopt.ops.content import partial_content, static_content, symbolic_content
from graphopt.ops.registry import Kind, OpInfo, info, is_pure, is_random
from graphopt.ops.semantics import SEMANTICS, OnnxSemantics

__all__ = [
    "SEMANTICS",
    "Kind",
    "OnnxSemantics",
    "OpInfo",
    "info",
    "is_pure",
    "is_random",
    "partial_content",
    "static_content",
    "symbolic_content",
]
