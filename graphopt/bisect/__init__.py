"""From a compile that gives wrong numbers to what makes them wrong: a rewrite of a pass, a kernel, its schedule."""

from graphopt.bisect.kernels import KernelFault
from graphopt.bisect.search import Finding, PredicateFault, bisect, compiled_fault, require_runnable

__all__ = ["Finding", "KernelFault", "PredicateFault", "bisect", "compiled_fault", "require_runnable"]
