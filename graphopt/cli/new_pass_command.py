"""``graphopt new-pass``"""

from __future__ import annotations

import keyword
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from string import Template

import click

from graphopt.cli.output import require_writable_folder, write_text
from graphopt.errors import GraphoptError, PipelineError

_TEMPLATES = Path(__file__).parent / "templates"


@click.command("new-pass")
@click.argument("name")
@click.option(
    "--kind", type=click.Choice(["pattern", "whole-graph"]), default="pattern",
    help="A list of rules, each a pattern and what replaces it; or a function of the whole graph.",
)  # fmt: skip
@click.option("--package", is_flag=True, help="A whole package that can be installed, not only a file.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path(), show_default="here", metavar="FOLDER",
    help="Where the files go.",
)  # fmt: skip
def command(name: str, kind: str, package: bool, output: Path) -> None:
    """Write a pass called NAME, ready to run, with its test; nothing is overwritten.

    It is a small example that works. Change it step by step, and keep its test passing.
    """
    module = _module_of(name)
    files = _package_files(module, kind) if package else _single_files(module, kind)
    folder = output / name if package else output
    there = [path for path in ((folder,) if package else (folder / file for file in files)) if path.exists()]
    if there:
        raise GraphoptError(
            f"{' and '.join(map(str, there))}: already there, and nothing is overwritten",
            hint="take another name, or another folder with -o",
        )
    _require_free(name, module)
    require_writable_folder(folder if package else folder / f"{module}.py")
    texts = _filled(files, name, module)
    if package:
        _write_folder(folder, texts)
    else:
        for file, text in texts.items():
            write_text(folder / file, text)
    for file in texts:
        click.echo(f"wrote {folder / file}")
    _say_next(name, folder, module, package)


def _module_of(name: str) -> str:
    """The Python module for a pass.

    Raises:
        PipelineError: the name can't be one of a pass, or of a module.
    """
    from graphopt.pipeline.registry import NAME

    module = name.replace("-", "_").replace(".", "_").lower()
    if keyword.iskeyword(module):
        raise PipelineError(f"{name!r} is no name for a pass: a Python keyword", hint="take another name")
    if not NAME.fullmatch(name) or not name[-1].isalnum():
        raise PipelineError(
            f"{name!r} is no name for a pass",
            hint="begin with a letter and go on with letters, digits and dashes, such as fuse-swish",
        )
    return module


def _require_free(name: str, module: str) -> None:
    """Refuses names that are taken.

    Raises:
        PipelineError: by a pass, pipeline, instrument, or module.
    """
    from importlib.util import find_spec

    from graphopt.pipeline.registry import origin

    taken = origin(name)
    if taken is not None:
        raise PipelineError(f'the name "{name}" is taken by {taken}', hint="take another name")
    if find_spec(module) is not None:
        raise PipelineError(f"there is a Python module {module} already", hint="take another name")


def _single_files(module: str, kind: str) -> dict[str, str]:
    template = kind.replace("-", "_")
    return {f"{module}.py": f"{template}.py.txt", f"test_{module}.py": f"test_{template}.py.txt"}


def _package_files(module: str, kind: str) -> dict[str, str]:
    template = kind.replace("-", "_")
    return {
        "pyproject.toml": "pyproject.toml.txt",
        f"src/{module}/__init__.py": "init.py.txt",
        f"src/{module}/passes.py": f"{template}.py.txt",
        f"src/{module}/py.typed": "py.typed.txt",
        f"tests/test_{module}.py": f"test_{template}.py.txt",
    }


def _filled(files: Mapping[str, str], name: str, module: str) -> dict[str, str]:
    """The text of each file, from its template."""
    templates = {
        file: (_TEMPLATES / template).read_text(encoding="utf-8") for file, template in files.items()
    }
    klass = "".join(part[:1].upper() + part[1:] for part in module.split("_"))
    if keyword.iskeyword(klass) or any(re.search(rf"\b{klass}\b", text) for text in templates.values()):
        klass += "Pass"  # a name that the text has already, such as Rule
    return {
        file: Template(text).substitute(name=name, module=module, klass=klass)
        for file, text in templates.items()
    }


def _write_folder(folder: Path, texts: Mapping[str, str]) -> None:
    """Writes a folder of files whole or not at all.

    Raises:
        GraphoptError: it can't be written.
    """
    scratch: Path | None = None
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        for file, text in texts.items():
            path = scratch / "new" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        (scratch / "new").rename(folder)
    except OSError as error:
        raise GraphoptError(f"{folder} can't be written: {error.strerror}") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _say_next(name: str, folder: Path, module: str, package: bool) -> None:
    if package:
        lines = [
            f"python -m pytest {folder}",
            f"python -m pip install -e {folder}",
            f"graphopt passes {name}",
            f'graphopt opt MODEL -o OUT.onnx -p "O1,{name}" --verify numeric',
        ]
    else:
        file = folder / f"{module}.py"
        lines = [
            f"python -m pytest {folder / f'test_{module}.py'}",
            f"graphopt passes {name} --plugin {file}",
            f'graphopt opt MODEL -o OUT.onnx --plugin {file} -p "O1,{name}" --verify numeric',
        ]
    click.echo("next:")
    for line in lines:
        click.echo(f"  {line}")
