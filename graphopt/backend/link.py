"""From what TVM generated to a shared object, with the system's C compiler or with zig's.

The same objects, target and toolchain give the same bytes: no build id, no temporary path, no date.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import LinkError
from graphopt.targets import Target, host_machine

if TYPE_CHECKING:
    from graphopt.backend.relax_build import Built

# The oldest glibc that zig's shared objects run with: RHEL 8, Debian 10 and later.
_GLIBC = "2.28"
_FLAGS = ("-shared", "-fPIC", "-Wl,--build-id=none")


def compiler_command(machine: str) -> list[str]:
    """The command of a C compiler that links for ``machine``.

    The system's ``cc`` where it is for this machine and there is one, else the one that the Python
    package ``ziglang`` carries.

    Raises:
        LinkError: there is neither.
    """
    system = shutil.which("cc")
    if system is not None and machine == host_machine():
        return [system]
    return zig_command("cc", machine, _GLIBC)


def zig_command(tool: str, machine: str, glibc: str) -> list[str]:
    """The command of zig's ``cc`` or ``c++`` for ``machine`` on Linux with that version of glibc.

    Raises:
        LinkError: the package ``ziglang`` is not installed.
    """
    if importlib.util.find_spec("ziglang") is None:
        wanted = (
            "no C compiler was found"
            if machine == host_machine()
            else f"no cross compiler for {machine} was found"
        )
        raise LinkError(f"{wanted} to link with", hint='pip install "graphopt[zig]"')
    return [sys.executable, "-m", "ziglang", tool, "-target", f"{machine}-linux-gnu.{glibc}"]


def link(built: Built, target: Target) -> bytes:
    """The shared object of ``main`` and its kernels.

    Raises:
        LinkError: no C compiler was found, or it failed.
    """
    command = compiler_command(target.machine)
    with tempfile.TemporaryDirectory(prefix="graphopt-link-") as folder:
        path = Path(folder) / "kernels.so"

        def compile_objects(output: str, objects: Sequence[str], **_: Any) -> None:
            # Relative names, in a fixed order: the names of object files can enter the output.
            names = [os.path.relpath(name, folder) for name in objects]
            run_tool([*command, *_FLAGS, "-o", os.path.relpath(output, folder), *names, "-lm"], Path(folder))

        kernels = []
        for position, content in enumerate(built.objects.values()):
            kernels.append(Path(folder) / f"kernel{position:04}.o")
            kernels[-1].write_bytes(content)
        built.executable.export_library(
            str(path), fcompile=compile_objects, addons=[str(name) for name in kernels], workspace_dir=folder
        )
        library = path.read_bytes()
    if target.kind == "cuda":
        from graphopt.backend.gpu import name_cubins

        return name_cubins(library)
    return library


def link_objects(objects: Sequence[bytes], target: Target) -> bytes:
    """The shared object of kernels alone, each of which is called by its name.

    Raises:
        LinkError: no C compiler was found, or it failed.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-link-") as name:
        folder = Path(name)
        files = [f"kernel{position:04}.o" for position in range(len(objects))]
        for file, content in zip(files, objects, strict=True):
            (folder / file).write_bytes(content)
        run_tool([*compiler_command(target.machine), *_FLAGS, "-o", "kernels.so", *files, "-lm"], folder)
        return (folder / "kernels.so").read_bytes()


def run_tool(command: Sequence[str], folder: Path) -> None:
    """Run a compiler in ``folder``, with its scratch files there.

    Raises:
        LinkError: it could not be started or failed; the message holds what it said.
    """
    environment = {**os.environ, "ZIG_LOCAL_CACHE_DIR": str(folder / "zig-cache"), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise LinkError(f"{command[0]} could not be started: {error.strerror}") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[:600]
        raise LinkError(f"linking with {Path(command[0]).name} failed: {said}")
