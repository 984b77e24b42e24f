"""What `compile` does about tuning: read a cache, search if asked to, keep what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from graphopt.backend.compile import KERNEL_ERROR
from graphopt.errors import TuneError
from graphopt.ir.graph import Graph
from graphopt.targets import Target
from graphopt.tune.cache import TuneCache, default_path
from graphopt.tune.result import Tuned
from graphopt.tune.search import refuse_target, tune_graph


class Tuner:
    """Tuning of one compile.

    Args:
        seconds: how long to search, for each target; None for not at all.
        path: the cache; without one, a search keeps its own at :func:`default_path`, and else none is read.

    Attributes:
        path: the cache in use; None for none.
        choices: what :func:`graphopt.backend.compile.compile_graph` is to be given.
        stale: entries of the cache that another version of graphopt made, and that are not used.

    Raises:
        TuneError: the cache is missing and nothing is to be searched, or it is damaged.
    """

    def __init__(self, seconds: float | None, path: Path | None) -> None:
        self._seconds = seconds
        self._owns_path = path is None and seconds is not None
        self.path = default_path() if self._owns_path else path
        self._cache = TuneCache()
        if self.path is not None and (seconds is None or self.path.exists()):
            self._cache = TuneCache.read(self.path)
        self.stale = self._cache.stale

    @property
    def choices(self) -> Mapping[str, Mapping[str, str]]:
        return self._cache.choices

    def check(self, targets: Iterable[Target]) -> None:
        """Makes sure that what is to be searched can be, and be kept.

        Raises:
            TargetError: this machine can't run code for a target.
            TuneError: the cache can't be written.
        """
        if self._seconds is not None and self.path is not None:
            for target in targets:
                refuse_target(target)
            if self._owns_path:
                _make_folder(self.path)
            self._cache.save(self.path)

    def tune(
        self,
        graph: Graph,
        target: Target,
        *,
        kernel_error: float = KERNEL_ERROR,
        progress: Callable[[int, int, str], None] = lambda done, total, step: None,
    ) -> Tuned | None:
        """Searches if asked to, and keeps what it found; see :func:`graphopt.tune.tune_graph`.

        Raises:
            TargetError: this machine can't run code for the target.
            CompileError: the graph can't be compiled.
            TuneError: the cache can't be written.
        """
        if self._seconds is None or self.path is None:
            return None
        found = tune_graph(
            graph,
            target,
            self._seconds,
            kernel_error=kernel_error,
            cache=self._cache,
            progress=progress,
        )
        self._cache = found.cache
        self._cache.save(self.path)
        return found


def _make_folder(path: Path) -> None:
    """Makes the folder of the cache that nobody named; that of another file is its user's to make."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TuneError(f"{path} can't be written: {error.strerror}") from error
