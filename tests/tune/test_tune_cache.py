"""The file that holds what tuning found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from graphopt.errors import TuneError
from graphopt.tune import TuneCache, default_path
from graphopt.tune.cache import Entry, code_digest


def _entry(kernel: str = "conv", code: str | None = None, **choices: str) -> Entry:
    return Entry(kernel, "x86-64-v3", code_digest() if code is None else code, choices, True, 2.5, 2.0)


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    cache = TuneCache({"b": _entry(tile="6x4"), "a": _entry("gemm")})
    cache.save(tmp_path / "tuned.json")
    assert TuneCache.read(tmp_path / "tuned.json") == cache
    assert [path.name for path in tmp_path.iterdir()] == ["tuned.json"]


def test_choices_are_those_that_differ_from_the_models() -> None:
    cache = TuneCache({"a": _entry(tile="6x4"), "b": _entry()})
    assert cache.choices == {"a": {"tile": "6x4"}}


def test_the_order_of_entries_does_not_matter(tmp_path: Path) -> None:
    entries = {"b": _entry(tile="6x4", chunk="8"), "a": _entry("gemm")}
    TuneCache(entries).save(tmp_path / "one.json")
    for name in reversed(entries):
        TuneCache({name: entries[name]}).save(tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_saving_keeps_what_others_wrote(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    TuneCache({"a": _entry(tile="6x4"), "b": _entry(tile="8x2")}).save(path)
    TuneCache({"b": _entry(tile="5x4")}).save(path)
    assert TuneCache.read(path).choices == {"a": {"tile": "6x4"}, "b": {"tile": "5x4"}}


def test_entries_of_other_code_are_stale(tmp_path: Path) -> None:
    cache = TuneCache({"a": _entry(tile="6x4"), "b": _entry(code="other", tile="8x2")})
    assert (cache.stale, cache.choices) == (1, {"a": {"tile": "6x4"}})


_VALID = json.loads(msgspec.json.encode({"graphopt_tune_cache": 1, "kernels": {"a": _entry()}}))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"kernels": {}}',
        json.dumps({**_VALID, "graphopt_tune_cache": 2}).encode(),
        json.dumps({**_VALID, "more": 1}).encode(),
        json.dumps({**_VALID, "kernels": {"a": {"kernel": "conv"}}}).encode(),
        json.dumps({**_VALID, "kernels": {"a": {**_VALID["kernels"]["a"], "choices": {"tile": 3}}}}).encode(),
        json.dumps(_VALID).encode()[:-3],
    ],
)
def test_files_that_are_no_cache_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tuned.json"
    path.write_bytes(content)
    with pytest.raises(TuneError, match=r"tuned\.json is not a tuning cache"):
        TuneCache.read(path)
    with pytest.raises(TuneError, match="is not a tuning cache"):
        TuneCache({"a": _entry()}).save(path)
    assert path.read_bytes() == content


def test_files_that_are_missing_or_unreadable(tmp_path: Path) -> None:
    with pytest.raises(TuneError, match="there is no such tuning cache"):
        TuneCache.read(tmp_path / "none.json")
    with pytest.raises(TuneError, match="can't be read: Is a directory"):
        TuneCache.read(tmp_path)
    (tmp_path / "file").touch()
    for folder in ("file", "missing"):
        with pytest.raises(TuneError, match=f"can't be written: there is no folder {tmp_path / folder}"):
            TuneCache().save(tmp_path / folder / "tuned.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


_WRITER = """
import sys
from pathlib import Path
from graphopt.tune.cache import Entry, TuneCache
for index in range(8):
    name = f"{sys.argv[2]}{index}"
    TuneCache({name: Entry(name, "x86-64-v3", "c", {}, True, 1.0, 1.0)}).save(Path(sys.argv[1]))
"""


def test_writers_side_by_side_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, str(path), name]) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(TuneCache.read(path).entries) == 16
    assert [file.name for file in tmp_path.iterdir()] == ["tuned.json"]


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "own"))
    assert default_path() == tmp_path / "own" / "tuned.json"
    monkeypatch.delenv("GRAPHOPT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert default_path() == tmp_path / "user" / "graphopt" / "tuned.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_path() == tmp_path / ".cache" / "graphopt" / "tuned.json"
