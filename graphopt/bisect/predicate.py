"""A user's own word on whether a model is good: a Python function, or a command."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from graphopt.errors import FAULT_HINT, GraphoptError, InputError, raised_at

Model = Callable[[Mapping[str, Any]], dict[str, Any]]
"""model(inputs) runs a model on arrays by input name and gives its outputs by name."""
_FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")
PLACEHOLDER = "{}"
_SHOWN = 300


class Savable(Protocol):
    """What writes itself to a path: a graph as ``.onnx``, an artifact as ``.gopt``."""

    suffix: str

    def save(self, path: Path) -> object: ...


class Predicate(Protocol):
    """Decides on a model."""

    text: str
    runs_files: bool

    def is_good(self, model: Model, files: Savable) -> bool:
        """Whether the model is good.

        Raises:
            InputError: the predicate fails.
        """
        ...


class FunctionPredicate:
    """``FILE.py:FUNCTION``; the function gets a :data:`Model` and gives True where it is good.

    Raises:
        InputError: there is no such file or function, or the file fails.
    """

    runs_files = False

    def __init__(self, text: str) -> None:
        found = _FUNCTION.fullmatch(text)
        assert found is not None
        self.text = text
        self.file, name = Path(found["file"]), found["name"]
        spec = importlib.util.spec_from_file_location("graphopt_predicate", self.file)
        if not self.file.is_file() or spec is None or spec.loader is None:
            raise InputError(f"predicate {text}: there is no file {self.file}")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise self._failed(error) from error
        function = getattr(module, name, None)
        if not callable(function):
            functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
            raise InputError(
                f"predicate {text}: {self.file} has no function {name}",
                hint=f"it has {', '.join(functions)}" if functions else None,
            )
        self._function = function

    def is_good(self, model: Model, files: Savable) -> bool:
        try:
            verdict = self._function(model)
        except GraphoptError:
            raise
        except (Exception, SystemExit) as error:
            raise self._failed(error) from error
        if not isinstance(verdict, bool | int | np.bool_):
            raise InputError(
                f"predicate {self.text} returned {type(verdict).__name__}, not True or False",
                hint="return whether the model is good",
            )
        return bool(verdict)

    def _failed(self, error: BaseException) -> InputError:
        at = raised_at(error, str(self.file))
        return InputError(
            f"predicate {self.text} failed: {type(error).__name__}: {error} ({at})",
            hint=FAULT_HINT.replace("pass, not of the model", "predicate, not of graphopt"),
        )


class CommandPredicate:
    """A shell command; ``{}`` in it is the model's file (``.onnx``, at last ``.gopt``), else that is added at its
    end. Exit code 0 says that the model is good, 126 and more that the command could not be run."""

    runs_files = True

    def __init__(self, text: str) -> None:
        self.text = text

    def is_good(self, model: Model, files: Savable) -> bool:
        with tempfile.TemporaryDirectory(prefix="graphopt-bisect-") as folder:
            path = Path(folder) / f"model{files.suffix}"
            files.save(path)
            quoted = shlex.quote(str(path))
            held = PLACEHOLDER in self.text
            command = self.text.replace(PLACEHOLDER, quoted) if held else f"{self.text} {quoted}"
            done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True)
        if done.returncode >= 126 or done.returncode < 0:
            said = " ".join((done.stderr or done.stdout).split())[:_SHOWN]
            raise InputError(
                f"predicate {self.text!r} failed with exit code {done.returncode}: {said}",
                hint="exit code 0 says that a model is good, 1 to 125 that it is not",
            )
        return done.returncode == 0


def predicate_of(text: str) -> Predicate:
    """The predicate that ``text`` names: ``FILE.py:FUNCTION``, else a command.

    Raises:
        InputError: it is empty, there is no such function, or it names a file alone.
    """
    if not text.strip():
        raise InputError("the predicate is empty", hint="give FILE.py:FUNCTION or a command")
    if text.endswith(".py") and Path(text).is_file() and not os.access(text, os.X_OK):
        raise InputError(
            f"predicate {text}: is no command, and names no function", hint=f"give {text}:FUNCTION"
        )
    return FunctionPredicate(text) if _FUNCTION.fullmatch(text) else CommandPredicate(text)
