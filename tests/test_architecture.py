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
    "bench": {"errors", "ir", "runtime", "targets"},
    "profile": {"errors", "ir", "ops", "targets", "runtime", "backend"},
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


SOURCES = {
    "graphopt": ROOT / "graphopt",
    "graphopt_passes": ROOT / "passes" / "graphopt_passes",
    "golden_models": ROOT / "golden_models",
}
LATE_RINGS = {frozenset({"graphopt.backend.emitters.rows", "graphopt.backend.emitters.stages"})}
"""Rings that only imports inside functions close."""


def _modules() -> dict[str, Path]:
    found = {}
    for name, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [name, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def _run_imports(tree: ast.Module, *, late: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that happen when the module is loaded; ``late``: those inside functions too."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending += node.orelse
        elif late or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += ast.iter_child_nodes(node)


def _rings(modules: dict[str, Path], *, late: bool) -> set[frozenset[str]]:
    arrows = nx.DiGraph()
    for module, path in modules.items():
        for found in _run_imports(ast.parse(path.read_text()), late=late):
            names = [alias.name for alias in found.names]
            if isinstance(found, ast.ImportFrom):
                package = found.module or ""
                names = [n if (n := f"{package}.{name}") in modules else package for name in names]
            arrows.add_edges_from((module, name) for name in names if name in modules)
    return {frozenset(ring) for ring in nx.strongly_connected_components(arrows) if len(ring) > 1}


def test_no_modules_import_each_other_in_a_ring() -> None:
    modules = _modules()
    assert len(modules) > 200
    assert _rings(modules, late=False) == set()
    assert _rings(modules, late=True) <= LATE_RINGS


def test_rings_are_found(tmp_path: Path) -> None:
    texts = {
        "a": "from p import b",
        "b": "def f():\n    import p.c",
        "c": "from p.a import x",
        "d": "import p.a",
    }
    modules = {f"p.{name}": tmp_path / f"{name}.py" for name in texts}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert _rings(modules, late=False) == set()
    assert _rings(modules, late=True) == {frozenset({"p.a", "p.b", "p.c"})}
    (tmp_path / "b.py").write_text("if TYPE_CHECKING:\n    import p.c\nelse:\n    import p.c")
    assert _rings(modules, late=False) == {frozenset({"p.a", "p.b", "p.c"})}
