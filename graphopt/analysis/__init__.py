"""Analyses of graphs for passes, instruments and the command line.

A pass asks ``rewriter.analysis(Liveness)``; the result is kept until a rewrite may have changed it, from one
pass to the next too. Elsewhere ``Liveness.of(graph)`` computes it.
"""

from graphopt.analysis.constness import ConstantNodes
from graphopt.analysis.cost import Work, flops, open_loop, work
from graphopt.analysis.dominators import Dominators, PostDominators
from graphopt.analysis.liveness import Liveness, Peak

__all__ = [
    "ConstantNodes",
    "Dominators",
    "Liveness",
    "Peak",
    "PostDominators",
    "Work",
    "flops",
    "open_loop",
    "work",
]
