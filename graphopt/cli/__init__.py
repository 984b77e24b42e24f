"""The command line. Exit codes: 0 done, 2 can't be done, 130 interrupted."""

from __future__ import annotations

from graphopt.cli.app import main

__all__ = ["main"]
