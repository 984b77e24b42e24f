"""The built-in passes and named pipelines; importing this package registers them."""

from graphopt_passes import common_subexpressions, dead_code, fuse_regions, identities

__all__ = ["common_subexpressions", "dead_code", "fuse_regions", "identities"]
