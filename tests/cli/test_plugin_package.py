"""A third party's package of passes, installed in a fresh environment, and what the command line makes of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODEL = """gir 1
graph "g" opset 26 {
  input %x: f32[8, 16]
  const %w: f32[16, 16] = WEIGHTS
  %m: f32[8, 16] = MatMul(%x, %w) "first"
  %s: f32[8, 16] = Softplus(%m)
  %t: f32[8, 16] = Tanh(%s)
  %a: f32[8, 16] = Mul(%t, %m) "act"
  %n: f32[8, 16] = MatMul(%a, %w) "second"
  %y: f32[8, 16] = Relu(%n)
  return %y as "y"
}
""".replace("WEIGHTS", str([(i * 7 % 11 - 5) / 16 for i in range(256)]))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment, which sees the packages of this one and has acme-passes besides."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    inner = folder / "venv" / "bin" / "python"
    ask = [inner, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    # Not a bare path: the .pth files there count too, as the one of an editable installation.
    here = sysconfig.get_path("purelib")
    Path(packages, "outer.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    shutil.copytree(ROOT / "tests" / "plugin_package", folder / "source")  # a build leaves files
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", inner, "install", "--quiet", "--no-deps", "--no-index",
         "--no-build-isolation", "--disable-pip-version-check", folder / "source"],
        check=True,
    )  # fmt: skip
    return inner


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m.gir").write_text(MODEL)
    return tmp_path


def graphopt(python: Path, *args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [python, "-c", "from graphopt.cli import main; main()", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


def test_what_it_brings_is_listed_beside_the_built_in_ones(python: Path, folder: Path) -> None:
    document = json.loads(graphopt(python, "passes", "--json", cwd=folder).stdout)
    modules = {entry["name"]: entry["module"] for entry in document["passes"]}
    assert modules["fuse-mish"] == "acme_passes.mish" and modules["fuse-gelu"] == "graphopt_passes.gelu"
    assert document["pipelines"]["acme"] == "O1,fuse-mish"
    assert document["instruments"] == {"slowest": "Name the pass that took longest, on stderr."}
    text = graphopt(python, "passes", "cut-in-two", cwd=folder).stdout
    assert "from acme_passes.cut" in text and "flops|nodes" in text and "what both parts have" in text
    assert (
        "(instrument, from acme_passes.slowest)" in graphopt(python, "passes", "slowest", cwd=folder).stdout
    )


def test_it_is_timed_verified_and_reported_like_any_other(python: Path, folder: Path) -> None:
    done = graphopt(
        python, "opt", "m.gir", "-o", "o.gir", "-p", "acme,cut-in-two{by=nodes},O1", "--verify", "numeric",
        "--instrument", "slowest", "--json", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["spec"]: row for row in json.loads(done.stdout)["passes"]}
    mish, cut = rows["fuse-mish"], rows["cut-in-two{by=nodes}"]
    assert (mish["effect"], mish["rewrites"], mish["nodes_before"], mish["nodes_after"]) == (
        "approximate",
        1,
        6,
        4,
    )
    assert mish["seconds"] > 0 and 0 <= mish["distance"]["y"] < 1e-5 and mish["unverified"] == ""
    assert mish["rules"]["mish"]["hits"] == 1 and "mish.py:" in mish["rules"]["mish"]["source"]
    assert cut["notes"] == {"cut after": 'Mish "a"'}
    assert done.stderr.startswith("slowest: ")
    assert "Mish(" in (folder / "o.gir").read_text()


def test_a_wrong_pass_of_it_is_found_out(python: Path, folder: Path) -> None:
    done = graphopt(
        python, "opt", "m.gir", "-o", "o.gir", "-p", "wrong-mish", "--verify", "numeric", cwd=folder
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert 'pass "wrong-mish": ' in done.stderr
    assert not (folder / "o.gir").exists()


@pytest.mark.parametrize(
    ("pipeline", "said"),
    [
        ("fuse-mish{max_rank=9}", 'pass "fuse-mish": max_rank must be from 0 to 8, not 9'),
        ("fuse-mish{max_rnk=2}", 'pass "fuse-mish" has no option "max_rnk"; did you mean "max_rank"?'),
        ("cut-in-two{by=flop}", "by can't be 'flop'; did you mean \"flops\"?"),
        ("fuse-mush", 'there is no pass "fuse-mush"; did you mean "fuse-mish"?'),
    ],
)
def test_its_options_are_checked(pipeline: str, said: str, python: Path, folder: Path) -> None:
    done = graphopt(python, "opt", "m.gir", "-o", "o.gir", "-p", pipeline, cwd=folder)
    assert done.returncode == 2 and said in done.stderr, done.stderr


def test_a_plugin_that_takes_its_name_is_told_from_it(python: Path, folder: Path) -> None:
    source = (ROOT / "tests" / "plugin_package" / "src" / "acme_passes" / "mish.py").read_text()
    (folder / "mine.py").write_text(source)
    done = graphopt(python, "passes", "--plugin", "mine.py", cwd=folder)
    assert done.returncode == 2
    installed = python.parent.parent / "lib"
    assert f'the name "fuse-mish": FuseMish in {installed}' in done.stderr
    assert f"acme_passes/mish.py and FuseMish in {folder / 'mine.py'}" in done.stderr


def test_this_environment_does_not_have_it(folder: Path) -> None:
    done = graphopt(Path(sys.executable), "passes", "fuse-mish", cwd=folder)
    assert done.returncode == 2 and 'no pass "fuse-mish"' in done.stderr
