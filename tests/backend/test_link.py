"""Linking with whatever compiler there is, to the same bytes each time."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.backend import link as linking
from graphopt.backend.link import compiler_command, link
from graphopt.backend.relax_build import build_executable
from graphopt.errors import LinkError
from graphopt.runtime import load
from graphopt.targets import Target, host_machine
from tests.backend import toys

ZIG = pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed")
NATIVE = Target.parse("native")


@pytest.fixture(scope="module")
def executable() -> Any:
    return build_executable(toys.scale_and_add()[0], NATIVE, inputs=1)


@pytest.fixture()
def no_cc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A PATH without any compiler."""
    monkeypatch.setenv("PATH", str(tmp_path))


def test_two_links_give_equal_bytes(executable: Any) -> None:
    first = link(executable, NATIVE)
    again = link(build_executable(toys.scale_and_add()[0], NATIVE, inputs=1), NATIVE)
    assert first == again
    for trace in (b"/tmp", os.getcwd().encode(), b"graphopt-link-"):
        assert trace not in first


@ZIG
def test_zig_links_where_there_is_no_cc(executable: Any, no_cc: None, tmp_path: Path) -> None:
    assert compiler_command(host_machine())[1:3] == ["-m", "ziglang"]
    assert link(executable, NATIVE) == link(executable, NATIVE)
    x = np.ones((3, 8), np.float32)
    artifact = toys.artifact(toys.scale_and_add(), x[:1])
    path = artifact.save(tmp_path / "zig.gopt")
    np.testing.assert_array_equal(load(path)(x)[0], 2 * x)
    versions = {
        tuple(map(int, v.split(b"."))) for v in re.findall(rb"GLIBC_([0-9.]+)", *artifact.libraries.values())
    }
    assert all(version <= (2, 28) for version in versions)


def test_without_any_compiler_the_error_names_the_extra(
    executable: Any, no_cc: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LinkError, match=re.escape('pip install "graphopt[zig]"')):
        link(executable, NATIVE)


def test_what_the_compiler_says_is_passed_on(
    executable: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "cc"
    script.write_text("#!/bin/sh\necho 'the disk is made of cheese' >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(LinkError, match="linking with cc failed: the disk is made of cheese"):
        link(executable, NATIVE)
