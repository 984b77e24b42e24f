"""The command line. Exit codes: `graphopt --help` says them."""

from __future__ import annotations

from graphopt.cli.app import main

__all__ = ["main"]
