"""Readers: how the scalar of any value in a region is computed. Importing registers those of all operators."""

from graphopt.backend.readers import elementwise, movement, padding, quantize
from graphopt.backend.readers.context import Context, Memory, Placed, Trace, flat_offset, variables_of
from graphopt.backend.readers.registry import READERS, Indices, refuse

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
    "refuse",
    "variables_of",
]
