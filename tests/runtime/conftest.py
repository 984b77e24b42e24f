from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from graphopt.runtime import Executable, load
from tests.backend import toys

WEIGHT = np.linspace(-2, 3, 8, dtype=np.float32).reshape(1, 8)


@pytest.fixture(scope="session")
def toy_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of ``(x*w + 1, x)`` for float32 x[n, 8]."""
    folder = tmp_path_factory.mktemp("toy")
    return toys.artifact(toys.scale_and_add(), WEIGHT).save(folder / "toy.gopt")


@pytest.fixture()
def toy(toy_path: Path) -> Iterator[Executable]:
    with load(toy_path, threads=1) as executable:
        yield executable
