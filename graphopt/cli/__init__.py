"""The command line. Exit codes: 0 done, 1 done but the answer is "no" (a difference), 2 can't be done."""

from __future__ import annotations

from graphopt.cli.app import main

__all__ = ["main"]
