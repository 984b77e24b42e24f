"""The condition of tests that run aarch64 code: an emulator and its libraries, which come from apt."""

from __future__ import annotations

import os

import pytest

from graphopt.backend.cross import emulation_missing

MISSING = emulation_missing()
REQUIRED = os.environ.get("GRAPHOPT_REQUIRE_AARCH64") == "1"
EMULATED = pytest.mark.skipif(
    # Where it is required the test runs, and fails with the name of what is missing.
    MISSING is not None and not REQUIRED,
    reason=f"missing to emulate aarch64: {MISSING}",
)
