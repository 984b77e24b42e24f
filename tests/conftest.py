"""What all tests share: the options of the suite, and a clear word when graphopt is not installed."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # golden_models is a folder of the repository, not part of the wheel

# Threads of engines that only wait would disturb the tests that run beside them.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    try:
        importlib.metadata.version("graphopt")
    except importlib.metadata.PackageNotFoundError:
        pytest.exit("graphopt is not installed, so its passes can't be found: pip install -e '.[dev]'", 4)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sweeps run only when asked for with ``-m sweep``."""
    if "sweep" in str(config.getoption("-m")):
        return
    kept = [item for item in items if item.get_closest_marker("sweep") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the repository."""
    return ROOT
