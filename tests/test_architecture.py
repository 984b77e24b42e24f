"""The packages' arrows: who may import whom. A forbidden arrow would soon be a ring."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parent.parent

SOURCES = {
    "graphopt": ROOT / "graphopt",
    "graphopt_passes": ROOT / "passes" / "graphopt_passes",
    "golden_models": ROOT / "golden_models",
}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "units": set(),
    "ir": {"errors"},
    "ops": {"errors", "ir", "units"},
    "analysis": {"errors", "ir", "ops"},
    "onnx_io": {"errors", "ir", "ops", "units"},
    "evaluate": {"errors", "ir", "onnx_io"},
    "rewrite": {"errors", "ir"},
    "targets": {"errors"},
    "verify": {"errors", "ir", "ops", "onnx_io", "evaluate"},
    "pipeline": {"errors", "ir", "ops", "analysis", "rewrite", "evaluate", "targets", "verify"},
    "page": {"errors", "ir"},
    "diff": {"errors", "ir", "ops", "page", "units"},
    "runtime": {"errors", "ir", "targets", "units"},
    "backend": {"errors", "ir", "ops", "analysis", "evaluate", "targets", "runtime"},
    "report": {"errors", "ir", "analysis", "pipeline", "runtime", "backend", "page", "diff", "units"},
    "bench": {"errors", "ir", "runtime", "targets", "page", "units"},
    "profile": {"errors", "ir", "analysis", "targets", "runtime", "backend"},
    "tune": {"errors", "ir", "targets", "runtime", "backend"},
    "testing": {
        "errors", "ir", "ops", "rewrite", "pipeline", "evaluate", "targets", "runtime", "diff", "verify", "units",
        "api",
    },
    "__main__": {"cli"},
    "bisect": {"errors", "ir", "onnx_io", "evaluate", "verify", "pipeline", "targets", "runtime", "backend"},
    "api": {"errors", "ir", "onnx_io", "pipeline", "targets", "backend", "tune"},
    "graphopt": {
        "errors", "ir", "diff", "rewrite", "pipeline", "targets", "runtime", "backend", "verify", "api",
    },
    "cli": {
        "errors", "ir", "analysis", "onnx_io", "evaluate", "pipeline", "targets", "runtime", "backend", "bench",
        "profile", "tune", "diff", "bisect", "report", "units", "api", "graphopt",
    },
    "passes": {"errors", "ir", "ops", "analysis", "rewrite", "pipeline", "evaluate", "targets"},
}  # fmt: skip
"""For each package those of graphopt's that it may import; ``graphopt`` is what its ``__init__`` holds, and
``passes`` are the built-in ones, which nothing imports by name."""


def _base(found: ast.ImportFrom, package: str) -> str:
    """The module that an import in a module of ``package`` is from."""
    if not found.level:
        return found.module or ""
    above = package.split(".")
    above = above[: len(above) - found.level + 1]
    return ".".join([*above, found.module] if found.module else above)


def _imports(text: str, package: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, package)
            # What graphopt holds is a package, or a name of its __init__.
            yield from (f"{base}.{alias.name}" for alias in node.names) if base == "graphopt" else [base]


def _package(module: str) -> str | None:
    """The package that a module belongs to; None for one that is not graphopt's."""
    first, _, rest = module.partition(".")
    if first == "graphopt_passes":
        return "passes"
    if first != "graphopt":
        return None
    second = rest.partition(".")[0]
    return second if second in _packages() else "graphopt"


@cache
def _packages() -> frozenset[str]:
    """The packages and single modules that graphopt is made of."""
    found = (ROOT / "graphopt").iterdir()
    return frozenset(
        path.stem for path in found if path.suffix == ".py" or (path / "__init__.py").is_file()
    ) - {"__init__"}


def _forbidden(text: str, module: str, *, is_package: bool = False) -> list[str]:
    """What a module imports and may not."""
    own = _package(module)
    assert own is not None
    imported = _imports(text, module if is_package else module.rpartition(".")[0])
    return [name for name in imported if _package(name) not in {None, own, *ALLOWED[own]}]


def test_every_package_has_its_arrows() -> None:
    assert {"ir", "cli", "api", "errors"} <= _packages()
    assert set(ALLOWED) == {*_packages(), "graphopt", "passes"}


@pytest.mark.parametrize("package", ALLOWED)
def test_arrows_point_one_way(package: str) -> None:
    modules = {module: path for module, path in _modules().items() if _package(module) == package}
    assert modules
    for module, path in modules.items():
        text = path.read_text()
        assert not _forbidden(text, module, is_package=path.name == "__init__.py"), module


@pytest.mark.parametrize(
    ("module", "text", "forbidden"),
    [
        ("graphopt.ir.graph", "import graphopt.cli.app as app", "graphopt.cli.app"),
        ("graphopt.ir.graph", "def f():\n    from graphopt.cli import app", "graphopt.cli"),
        ("graphopt.ir.graph", "from graphopt import errors, api", "graphopt.api"),
        ("graphopt.ir.graph", "from graphopt import Graph", "graphopt.Graph"),
        ("graphopt.ir.graph", "import graphopt", "graphopt"),
        ("graphopt.ir.graph", "from .. import errors, cli", "graphopt.cli"),
        ("graphopt.ir.graph", "from ..ops.content import partial_content", "graphopt.ops.content"),
        ("graphopt.backend.readers.context", "from ...bench import page", "graphopt.bench"),
        ("graphopt.api", "from .cli import app", "graphopt.cli"),
        ("graphopt.cli.app", "import graphopt_passes.attention", "graphopt_passes.attention"),
    ],
)
def test_forbidden_arrows_are_found(module: str, text: str, forbidden: str) -> None:
    assert _forbidden(text, module) == [forbidden]


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (
            "graphopt.ir.graph",
            "from . import dims\nfrom ..errors import ModelError\nimport ast, numpy.random",
        ),
        ("graphopt.cli.app", "from graphopt import __version__, runtime\nimport graphopt"),
        ("graphopt.backend.readers.context", "from ..region import shape_of\nfrom ... import ops"),
    ],
)
def test_allowed_arrows_are_let_pass(module: str, text: str) -> None:
    assert _forbidden(text, module) == []


def test_a_package_s_own_init_is_inside_it() -> None:
    assert (
        _forbidden(
            "from .graph import Graph\nfrom ..errors import ModelError", "graphopt.ir", is_package=True
        )
        == []
    )
    assert _forbidden("from ..cli import app", "graphopt.ir", is_package=True) == ["graphopt.cli"]


def test_the_allowed_arrows_form_no_ring() -> None:
    assert nx.is_directed_acyclic_graph(nx.DiGraph(ALLOWED))


def _modules() -> dict[str, Path]:
    found = {}
    for name, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [name, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def _rings(modules: dict[str, Path]) -> set[frozenset[str]]:
    """Modules that need each other, be it for a type, or late, inside a function."""
    arrows = nx.DiGraph()
    for module, path in modules.items():
        for found in ast.walk(ast.parse(path.read_text())):
            if not isinstance(found, ast.Import | ast.ImportFrom):
                continue
            names = [alias.name for alias in found.names]
            if isinstance(found, ast.ImportFrom):
                base = _base(found, module if path.name == "__init__.py" else module.rpartition(".")[0])
                names = [n if (n := f"{base}.{name}") in modules else base for name in names]
            arrows.add_edges_from((module, name) for name in names if name in modules)
    return {frozenset(ring) for ring in nx.strongly_connected_components(arrows) if len(ring) > 1}


def test_no_modules_import_each_other_in_a_ring() -> None:
    modules = _modules()
    assert len(modules) > 200
    assert _rings(modules) == set()


@pytest.mark.parametrize(
    "last",
    [
        "from p.a import x",
        "from . import a",
        "def f():\n    from .a import x",
        "if TYPE_CHECKING:\n    from p.a import x",
    ],
)
def test_rings_are_found(tmp_path: Path, last: str) -> None:
    texts = {"a": "from p import b", "b": "import p.c", "c": last, "d": "from . import a"}
    modules = {f"p.{name}": tmp_path / f"{name}.py" for name in texts}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert _rings(modules) == {frozenset({"p.a", "p.b", "p.c"})}
    (tmp_path / "c.py").write_text("import q.a")
    assert _rings(modules) == set()
