"""Damaged and edited artifacts are refused with the file and the fault named; nothing crashes."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.errors import ArtifactError, GraphoptError, TargetError
from graphopt.runtime import load
from graphopt.runtime.manifest import _BLANK, encode, read

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture()
def copy(toy_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_path, tmp_path / "copy.gopt"))


def library(folder: Path) -> Path:
    return next(folder.glob("*.so"))


def edit(folder: Path, change: Edit) -> None:
    """Change the manifest and sign it again, as somebody who knows the format would."""
    import hashlib

    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    content["sha256"] = _BLANK
    text = json.dumps(content)
    path.write_text(text.replace(_BLANK, hashlib.sha256(text.encode()).hexdigest()))


def test_the_untouched_copy_loads(copy: Path) -> None:
    edit(copy, lambda content: None)
    assert load(copy)(np.ones((1, 8), np.float32))[0].shape == (1, 8)


@pytest.mark.parametrize("name", ["manifest.json", "weights.bin", "*.so"])
@pytest.mark.parametrize("fault", ["missing", "truncated", "flipped", "empty", "link", "directory", "pipe"])
def test_faults_of_each_file(copy: Path, name: str, fault: str) -> None:
    path = next(copy.glob(name))
    content = path.read_bytes()
    path.unlink()
    if fault == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif fault == "flipped":
        path.write_bytes(content[:10] + bytes([content[10] ^ 4]) + content[11:])
    elif fault == "empty":
        path.write_bytes(b"")
    elif fault == "link":
        (copy.parent / "elsewhere").write_bytes(content)
        path.symlink_to(copy.parent / "elsewhere")
    elif fault == "directory":
        path.mkdir()
    elif fault == "pipe":
        os.mkfifo(path)
    with pytest.raises(ArtifactError) as caught:
        load(copy)
    assert path.name in str(caught.value)


def test_places_that_are_not_artifacts(tmp_path: Path) -> None:
    (tmp_path / "empty.gopt").mkdir()
    (tmp_path / "file.gopt").write_text("hello")
    for name in ("absent.gopt", "empty.gopt", "file.gopt"):
        with pytest.raises(ArtifactError, match="is not an artifact"):
            load(tmp_path / name)


def set_weight(**fields: Any) -> Edit:
    return lambda content: content["weights"][0].update(fields)


def set_variant(**fields: Any) -> Edit:
    return lambda content: content["variants"][0].update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format_version=2), "format version 2; this graphopt reads version 1"),
        (
            lambda c: c.update(format_version=2, surprise=1, variants="elsewhere"),
            "format version 2; this graphopt reads version 1",
        ),
        (
            lambda c: (c.clear(), c.update(format_version=99)),
            "format version 99; this graphopt reads version 1",
        ),
        (lambda c: c.update(format_version="one"), "damaged"),
        (lambda c: c.update(surprise=1), "unknown field"),
        (lambda c: c.pop("weights"), "missing required field `weights`"),
        (lambda c: c.update(variants=[]), "holds no variant"),
        (set_weight(offset=-64), "does not lie in weights.bin"),
        (set_weight(offset=64), "does not lie in weights.bin"),
        (set_weight(offset=2**62), "does not lie in weights.bin"),
        (set_weight(offset=2**70), "does not lie in weights.bin"),
        (set_weight(offset=1), "does not lie in weights.bin"),
        (set_weight(shape=[2**40, 2**40]), "can't have 32 bytes"),
        (set_weight(shape=[-1, -8]), "has shape [-1, -8]"),
        (set_weight(dtype="float128"), "unknown element type 'float128'"),
        (set_weight(name="v"), "takes the weight 'w', which is not listed"),
        (set_variant(library="../evil.so"), "'../evil.so', which is not listed"),
        (
            lambda c: c["files"].update({"../evil.so": c["files"]["weights.bin"]}),
            "not the path of a file inside",
        ),
        (
            lambda c: c["files"].update({"/etc/passwd": c["files"]["weights.bin"]}),
            "not the path of a file inside",
        ),
        (lambda c: c["inputs"][0].update(shape=["__import__('os')", 8]), "has shape"),
        (lambda c: c["inputs"].append(c["inputs"][0]), "two inputs are named 'x'"),
        (lambda c: c["files"].pop("weights.bin"), "does not lie in weights.bin of 0 bytes"),
    ],
)
def test_contradictions_are_named_even_when_signed(copy: Path, change: Edit, message: str) -> None:
    edit(copy, change)
    for verify in (True, False):
        with pytest.raises(ArtifactError, match=re.escape(message)):
            load(copy, verify=verify)


def test_an_edited_manifest_is_noticed(copy: Path) -> None:
    path = copy / "manifest.json"
    path.write_text(path.read_text().replace("fold-constants", "fold-constantz"))
    with pytest.raises(ArtifactError, match=r"manifest\.json was changed after it was written"):
        load(copy)
    assert load(copy, verify=False).manifest.pipeline == "fold-constantz"


def test_a_cpu_without_the_features_gets_an_error_not_an_illegal_instruction(copy: Path) -> None:
    edit(copy, set_variant(required_features=["avx2", "quantum"]))
    with pytest.raises(TargetError, match="needs quantum, which this CPU lacks"):
        load(copy)


def test_code_for_other_machines_is_refused_by_name(copy: Path) -> None:
    edit(copy, set_variant(triple="riscv64-unknown-linux-gnu", target="rv64"))
    with pytest.raises(TargetError, match="rv64 is for riscv64, this machine is"):
        load(copy)
    edit(copy, set_variant(kind="cuda", target="cuda:sm_80"))
    with pytest.raises(TargetError, match="cuda:sm_80 is for a GPU"):
        load(copy)


def test_the_first_variant_that_runs_here_is_taken(copy: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        good = content["variants"][0]
        content["variants"] = [{**good, "required_features": ["quantum"]}, {**good, "target": "second"}]

    edit(copy, change)
    assert load(copy).variant.target == "second"


def test_a_shared_object_that_is_none_is_refused_unverified(copy: Path) -> None:
    path = library(copy)
    path.write_bytes(b"not an ELF file".ljust(path.stat().st_size, b"."))
    with pytest.raises(ArtifactError, match=r"\.so can't be loaded"):
        load(copy, verify=False)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_damage_to_the_manifest_is_found(toy_path: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Any changed byte is found with ``verify``; without it, reading still ends in a value or an error."""
    raw = bytearray((toy_path / "manifest.json").read_bytes())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(1, 255))
    (tmp_path / "manifest.json").write_bytes(raw)
    with pytest.raises(ArtifactError):
        read(tmp_path)
    try:
        read(tmp_path, verify=False)
    except GraphoptError as error:
        assert "manifest.json" in str(error)


def test_the_manifest_prints_and_parses_back(toy_path: Path) -> None:
    assert encode(read(toy_path)) == (toy_path / "manifest.json").read_bytes()
