"""Passes, named pipelines and instruments by name.

Built-in and third-party ones come the same way: an entry point of the group ``graphopt.passes``
names a module, and importing it registers what it holds. A script registers its own with the
decorator, or is loaded by path.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import inspect
import logging
import re
import sys
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from graphopt.errors import PipelineError, raised_at
from graphopt.pipeline.base import Pass
from graphopt.pipeline.instruments import Instrument
from graphopt.pipeline.options import options_of, suggest

ENTRY_POINTS = "graphopt.passes"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]*")

P = TypeVar("P", bound=Pass)
I = TypeVar("I", bound=Instrument)  # noqa: E741


@dataclass(frozen=True, slots=True)
class NamedPipeline:
    """A pipeline that texts can refer to by name."""

    name: str
    text: str
    help: str
    module: str


_passes: dict[str, type[Pass]] = {}
_pipelines: dict[str, NamedPipeline] = {}
_instruments: dict[str, type[Instrument]] = {}
_loaded: set[str] = set()


def register_pass(name: str) -> Callable[[type[P]], type[P]]:
    """Decorates a frozen dataclass that is a :class:`Pass`; ``name`` is what pipeline texts call it.

    Raises:
        PipelineError: the name is taken or malformed, or the class is not what a pass must be.
    """

    def register(pass_type: type[P]) -> type[P]:
        where = _origin(pass_type)
        params = pass_type.__dict__.get("__dataclass_params__")
        if not issubclass(pass_type, Pass) or params is None or not params.frozen:
            raise PipelineError(
                f'pass "{name}" ({where}) is not a frozen dataclass that inherits from Pass',
                hint="put @dataclass(frozen=True) below @register_pass",
            )
        try:
            options_of(pass_type)
        except TypeError as error:
            raise PipelineError(f'pass "{name}" ({where}): {error}') from error
        _claim(name, where)
        pass_type.name = name
        _passes[name] = pass_type
        return pass_type

    return register


def register_pipeline(name: str, text: str, help: str = "", *, module: str = "") -> None:
    """Makes ``name`` stand for the pipeline ``text``, which may name others; it is parsed at first use.

    Raises:
        PipelineError: the name is taken or malformed.
    """
    if not module:
        module = sys._getframe(1).f_globals.get("__name__", "")
    _claim(name, _file_of(module))
    _pipelines[name] = NamedPipeline(name, text, help, module)


def register_instrument(name: str) -> Callable[[type[I]], type[I]]:
    """Decorates an :class:`Instrument` that takes no arguments; ``--instrument`` calls it ``name``.

    Raises:
        PipelineError: the name is taken or malformed, or the class is not such an instrument.
    """

    def register(kind: type[I]) -> type[I]:
        if not issubclass(kind, Instrument) or any(
            parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
            for parameter in inspect.signature(kind).parameters.values()
        ):
            raise PipelineError(
                f'instrument "{name}" ({_origin(kind)}) is not a class that inherits from Instrument and is made '
                "without arguments"
            )
        _claim(name, _origin(kind))
        _instruments[name] = kind
        return kind

    return register


def _claim(name: str, origin: str) -> None:
    if not NAME.fullmatch(name):
        raise PipelineError(f"{name!r} ({origin}) is no name for a pass, pipeline or instrument")
    taken = _holder(name)
    # The same class again is a module that was reloaded, not a clash.
    if taken and taken != origin:
        raise PipelineError(
            f'two passes, pipelines or instruments have the name "{name}": {taken} and {origin}',
            hint="rename one of them, or leave out the plugin or package that holds it",
        )


def origin(name: str) -> str | None:
    """The class and file, or the file, that a name of a pass, pipeline or instrument is from; None if it is free."""
    load_entry_points()
    return _holder(name)


def _holder(name: str) -> str | None:
    kind = _passes.get(name) or _instruments.get(name)
    if kind is not None:
        return _origin(kind)
    return _file_of(_pipelines[name].module) if name in _pipelines else None


def _origin(kind: type) -> str:
    """``Class in FILE``, as messages say where a pass is from."""
    return f"{kind.__qualname__} in {_file_of(kind.__module__)}"


def _file_of(module: str) -> str:
    return getattr(sys.modules.get(module), "__file__", None) or module


def load_entry_points() -> None:
    """Imports the pass packages that are installed, each once, in the order of their names.

    Raises:
        PipelineError: one can't be imported.
    """
    points = importlib.metadata.entry_points(group=ENTRY_POINTS)
    for point in sorted(points, key=lambda point: (point.name, point.value)):
        if point.value in _loaded:
            continue
        _loaded.add(point.value)
        try:
            point.load()
        except PipelineError:
            _loaded.discard(point.value)
            raise
        except (Exception, SystemExit) as error:
            _loaded.discard(point.value)
            raise PipelineError(
                f'the pass package "{point.name}" ({point.value}) can\'t be imported: '
                f"{type(error).__name__}: {error} ({raised_at(error)})"
            ) from error


def load_plugin(path: str | Path) -> None:
    """Runs a Python file, whose passes, pipelines and instruments register themselves; once per file.

    Raises:
        PipelineError: there is no such Python file, it fails, or a name of its passes is taken.
    """
    # First, so that a plugin can't take the name of an installed pass before it.
    load_entry_points()
    file = Path(path).resolve()
    name = f"graphopt_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return
    if not file.is_file():
        raise PipelineError(f"there is no plugin {path}", hint="give the path of a Python file")
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PipelineError(f"the plugin {path} is not a Python file by its name", hint="end its name in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    before = _names()
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        _forget_since(before)
        if isinstance(error, PipelineError) or not isinstance(error, Exception | SystemExit):
            raise
        raise PipelineError(
            f"plugin {path} failed: {type(error).__name__}: {error} ({raised_at(error, str(file))})",
            hint="this is a fault of the plugin; GRAPHOPT_DEBUG=1 shows the traceback",
        ) from error
    if before == _names():
        logging.getLogger("graphopt").warning("plugin %s registers no pass, pipeline or instrument", path)


def _names() -> set[str]:
    return {*_passes, *_pipelines, *_instruments}


def _forget_since(before: Container[str]) -> None:
    """Takes away what a plugin registered before it failed."""
    tables: tuple[dict[str, Any], ...] = (_passes, _pipelines, _instruments)
    for table in tables:
        for name in [name for name in table if name not in before]:
            del table[name]


def passes() -> dict[str, type[Pass]]:
    """All passes by name, sorted."""
    load_entry_points()
    return dict(sorted(_passes.items()))


def pipelines() -> dict[str, NamedPipeline]:
    """All named pipelines, sorted."""
    load_entry_points()
    return dict(sorted(_pipelines.items()))


def instruments() -> dict[str, type[Instrument]]:
    """All registered instruments by name, sorted."""
    load_entry_points()
    return dict(sorted(_instruments.items()))


def find_instrument(name: str) -> type[Instrument]:
    """The instrument with this name.

    Raises:
        PipelineError: there is none; suggests the nearest.
    """
    known = instruments()
    if name not in known:
        raise PipelineError(f'there is no instrument "{name}"{suggest(name, known)}')
    return known[name]


def find(name: str) -> type[Pass] | NamedPipeline:
    """The pass or pipeline with this name.

    Raises:
        PipelineError: there is none; suggests the nearest.
    """
    found = _passes.get(name) or _pipelines.get(name)
    if found is None:
        load_entry_points()
        found = _passes.get(name) or _pipelines.get(name)
    if found is None:
        raise PipelineError(f'there is no pass "{name}"{suggest(name, [*passes(), *pipelines()])}')
    return found


def make_pass(pass_type: type[P], options: dict[str, object]) -> P:
    """A pass with these options.

    Raises:
        PipelineError: the pass refuses them.
    """
    try:
        return dataclasses.replace(pass_type(), **options)  # type: ignore[type-var]
    except ValueError as error:
        raise PipelineError(f'pass "{pass_type.name}": {error}') from error
