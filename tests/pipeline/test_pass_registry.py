"""How passes get their names: by decorator, by entry point, by plugin file."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from graphopt.errors import PassError, PipelineError
from graphopt.ir.rewriter import Rewriter
from graphopt.pipeline import (
    Context,
    Instrument,
    Pass,
    PatternPass,
    Pipeline,
    instruments,
    load_plugin,
    passes,
    pipelines,
    register_instrument,
    register_pass,
    register_pipeline,
    registry,
)

PLUGIN = '''
"""A plugin."""
from dataclasses import dataclass
from graphopt.pipeline import Pass, register_pass, register_pipeline

@register_pass("{name}")
@dataclass(frozen=True)
class Mine(Pass):
    """Mine."""
    depth: int = 2

    def run(self, rewriter, context):
        pass

register_pipeline("{name}-twice", "{name},{name}{{depth=3}}")
'''


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    registry.load_entry_points()
    for table in ("_passes", "_pipelines", "_instruments"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    monkeypatch.setattr(registry, "_loaded", set(registry._loaded))
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]


class Idle(Pass):
    def run(self, rewriter: Rewriter, context: Context) -> None:
        pass


def test_the_built_in_passes_come_by_the_entry_point() -> None:
    found = passes()
    assert {"fold-constants", "fuse-regions"} <= set(found)
    assert all(
        cls.__module__.startswith("graphopt_passes.")
        for name, cls in found.items()
        if name == "fold-constants"
    )
    assert {"O0", "O1", "O2"} <= set(pipelines())
    assert list(found) == sorted(found)


@pytest.mark.parametrize("name", ["O0", "O1", "O2"])
def test_the_named_pipelines_parse(name: str) -> None:
    pipeline = Pipeline.parse(name)
    assert Pipeline.parse(str(pipeline)) == pipeline


def test_two_passes_with_one_name_name_both_modules() -> None:
    @register_pass("same-name")
    @dataclass(frozen=True)
    class First(Idle):
        """First."""

    with pytest.raises(
        PipelineError, match=rf'the name "same-name": .*First in {__file__} and .*Second in {__file__}'
    ):

        @register_pass("same-name")
        @dataclass(frozen=True)
        class Second(Idle):
            """Second."""

    with pytest.raises(PipelineError, match=rf'the name "same-name": .*First in {__file__} and {__file__}'):
        register_pipeline("same-name", "")
    assert registry.find("same-name") is First


@pytest.mark.parametrize("name", ["", "a b", "a,b", "{", "1a"])
def test_names_that_no_text_can_hold_are_refused(name: str) -> None:
    with pytest.raises(PipelineError, match="is no name"):
        register_pipeline(name, "")


def test_what_is_no_pass_is_refused() -> None:
    class NoDataclass(Idle):
        """No dataclass."""

    @dataclass
    class NotFrozen(Idle):
        """Not frozen."""

    @dataclass(frozen=True)
    class NoPass:
        """No pass."""

    for wrong in (NoDataclass, NotFrozen, NoPass):
        with pytest.raises(PipelineError, match="is not a frozen dataclass that inherits from Pass"):
            register_pass("wrong")(wrong)  # type: ignore[type-var]

    @dataclass(frozen=True)
    class NoDefault(Idle):
        """No default."""

        size: int

    with pytest.raises(PipelineError, match="option size has no default"):
        register_pass("wrong")(NoDefault)

    @dataclass(frozen=True)
    class OddType(Idle):
        """Odd type."""

        size: complex = 0

    with pytest.raises(PipelineError, match=r"option size has type .*complex.*, which has no text form"):
        register_pass("wrong")(OddType)


def test_a_plugin_file_registers_its_passes_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN.format(name="plug-one"))
    load_plugin(file)
    load_plugin(str(file))
    assert str(Pipeline.parse("plug-one-twice")) == "plug-one,plug-one{depth=3}"


def test_two_plugins_with_one_name_clash(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(PLUGIN.format(name="plug-two"))
    first, second = tmp_path / "a" / "mine.py", tmp_path / "b" / "mine.py"
    load_plugin(first)
    with pytest.raises(PipelineError, match=rf'the name "plug-two": Mine in {first} and Mine in {second}'):
        load_plugin(second)


def test_a_plugin_that_is_missing_or_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="there is no plugin"):
        load_plugin(tmp_path / "none.py")
    broken = tmp_path / "broken.py"
    broken.write_text("\n1 / 0")
    for _ in range(2):
        with pytest.raises(
            PipelineError, match=rf"broken.py failed: ZeroDivisionError: .* \({broken}:2\)"
        ) as caught:
            load_plugin(broken)
        assert "a fault of the plugin" in (caught.value.hint or "")
    broken.write_text("x = 1\ndef f(:\n")
    with pytest.raises(PipelineError, match=rf"broken.py failed: SyntaxError: .* \({broken}:2\)"):
        load_plugin(broken)
    broken.write_text("import sys\nsys.exit(0)")
    with pytest.raises(PipelineError, match=rf"broken.py failed: SystemExit: 0 \({broken}:2\)"):
        load_plugin(broken)


def test_instruments_have_names_too_and_are_made_without_arguments() -> None:
    @register_instrument("count-passes")
    class CountPasses(Instrument):
        """Counts passes."""

    assert instruments()["count-passes"] is registry.find_instrument("count-passes") is CountPasses
    with pytest.raises(PipelineError, match='no instrument "count-passe"; did you mean "count-passes"'):
        registry.find_instrument("count-passe")
    with pytest.raises(PipelineError, match=r'the name "count-passes": .*CountPasses in .* and '):
        register_pipeline("count-passes", "")

    class NeedsMore(Instrument):
        def __init__(self, file: str) -> None:
            self.file = file

    for wrong in (NeedsMore, Idle):
        with pytest.raises(PipelineError, match="made without arguments"):
            register_instrument("wrong")(wrong)  # type: ignore[type-var]


class Point:
    """Stands for an importlib.metadata.EntryPoint."""

    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value

    def load(self) -> object:
        return importlib.import_module(self.value)


def test_a_third_party_package_registers_like_the_built_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "third_party_passes.py").write_text(PLUGIN.format(name="third-party"))
    monkeypatch.syspath_prepend(tmp_path)
    points = [Point("third", "third_party_passes")]
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: points if group == "graphopt.passes" else []
    )
    assert "third-party" in passes()


def test_a_package_that_can_not_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [Point("ghost", "no_such_module_here")]
    )
    with pytest.raises(
        PipelineError, match=r'the pass package "ghost" \(no_such_module_here\) can\'t be imported'
    ):
        passes()


def test_rules_that_are_no_list_are_told_with_their_line() -> None:
    class NoRules(PatternPass):
        name = "no-rules"

        def rules(self) -> Any:
            return None

    with pytest.raises(
        PassError, match=r"rules\(\) returned NoneType, not a list of rules \(.*registry.py:\d+\)"
    ):
        NoRules().run(None, Context())  # type: ignore[arg-type]
