"""Emitters of operators that need loops of their own. Importing registers them all."""

from graphopt.backend.emitters import (
    convolve,
    einsum,
    matmul,
    normalize,
    pool,
    quantized,
    recurrent,
    reduce,
    scan,
    transposed,
)
from graphopt.backend.emitters.region import emit_region, is_emitted
from graphopt.backend.emitters.registry import EMITTERS, Sink, Work, emitter
from graphopt.backend.emitters.stages import Stages

__all__ = [
    "EMITTERS",
    "Sink",
    "Stages",
    "Work",
    "convolve",
    "einsum",
    "emit_region",
    "emitter",
    "is_emitted",
    "matmul",
    "normalize",
    "pool",
    "quantized",
    "recurrent",
    "reduce",
    "scan",
    "transposed",
]
