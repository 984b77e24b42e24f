"""The packages' arrows: who may import whom. A forbidden arrow would soon be a ring."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parent.parent

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "ir": {"errors"},
    "ops": {"errors", "ir"},
    "onnx_io": {"errors", "ir", "ops"},
    "evaluate": {"errors", "ir", "ops", "onnx_io"},
    "rewrite": {"errors", "ir", "ops"},
    "targets": {"errors"},
    "pipeline": {"errors", "ir", "ops", "rewrite", "evaluate", "targets"},
    "runtime": {"errors", "ir", "targets"},
    "backend": {"errors", "ir", "ops", "evaluate", "targets", "runtime"},
    "bench": {"errors", "ir", "runtime"},
    "passes": {"errors", "ir", "ops", "rewrite", "pipeline", "evaluate", "targets"},
}


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _package(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] == "graphopt_passes":
        return "passes"
    return parts[1] if parts[0] == "graphopt" and len(parts) > 1 and parts[1] in ALLOWED else None


def _files(package: str) -> list[Path]:
    if package == "passes":
        return sorted((ROOT / "passes" / "graphopt_passes").rglob("*.py"))
    folder = ROOT / "graphopt" / package
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


@pytest.mark.parametrize("package", ALLOWED)
def test_arrows_point_one_way(package: str) -> None:
    files = _files(package)
    assert files
    for path in files:
        for module in _imports(path):
            target = _package(module)
            allowed = target is None or target == package or target in ALLOWED[package]
            assert allowed, f"{path.relative_to(ROOT)} imports {module}"


def test_the_allowed_arrows_form_no_ring() -> None:
    assert nx.is_directed_acyclic_graph(nx.DiGraph(ALLOWED))


def test_nothing_imports_the_built_in_passes_by_name() -> None:
    for path in sorted((ROOT / "graphopt").rglob("*.py")):
        assert not any(m.split(".")[0] == "graphopt_passes" for m in _imports(path)), path
