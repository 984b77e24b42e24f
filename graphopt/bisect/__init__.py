"""From a compile that gives wrong numbers to what makes them wrong: a rewrite of a pass, a kernel, its schedule."""

from graphopt.bisect.artifact import compiled_fault, require_runnable
from graphopt.bisect.finding import Finding, PredicateFault, PredicateKernelFault
from graphopt.bisect.kernels import KernelFault
from graphopt.bisect.search import bisect

__all__ = [
    "Finding",
    "KernelFault",
    "PredicateFault",
    "PredicateKernelFault",
    "bisect",
    "compiled_fault",
    "require_runnable",
]
