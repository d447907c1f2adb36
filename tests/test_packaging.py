"""The built wheel: one import package, all parts inside, nothing beside it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_nothing_but_tavt_kit_reaches_site_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"tavt_kit"}
    for needed in ("cli.py", "search/__init__.py", "distill/__init__.py", "bench/__init__.py", "py.typed"):
        assert f"tavt_kit/{needed}" in names
    in_checkout = {p.relative_to(ROOT / "tavt_kit").as_posix() for p in (ROOT / "tavt_kit").rglob("*.*")}
    data = {name for name in in_checkout if Path(name).suffix in (".html", ".css", ".js", ".toml")}
    assert {f"tavt_kit/{name}" for name in data} <= set(names)


def test_the_installed_wheel_runs_from_elsewhere(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    code = (
        "import tavt_kit, tavt_kit.search, tavt_kit.distill, tavt_kit.bench, tavt_kit.cli\n"
        f"assert tavt_kit.__file__.startswith({str(site)!r}), tavt_kit.__file__\n"
        f"assert all(m.__file__.startswith({str(site)!r}) for m in (tavt_kit.search, tavt_kit.cli))\n"
    )
    environment = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"}
    empty = tmp_path / "empty"
    empty.mkdir()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=empty, env=environment)
    shown = subprocess.run(
        [sys.executable, "-m", "tavt_kit", "--help"],
        check=True, cwd=empty, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert "search" in shown.stdout


def test_the_checkout_runs_without_being_installed() -> None:
    for command in (["cli.py", "--version"], ["-m", "tavt_kit", "--version"]):
        done = subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True, text=True)
        assert done.stdout.startswith("fgvc-kit ")
