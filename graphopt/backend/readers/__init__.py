"""Readers: how the scalar of any value in a region is computed. Importing registers those of all operators."""

from graphopt.backend.readers import elementwise, movement, padding, quantize
from graphopt.backend.readers.context import READERS, Context, Memory, Trace
from graphopt.backend.readers.indices import Indices, Placed, flat_offset, variables_of

__all__ = [
    "READERS",
    "Context",
    "Indices",
    "Memory",
    "Placed",
    "Trace",
    "elementwise",
    "flat_offset",
    "movement",
    "padding",
    "quantize",
    "variables_of",
]
