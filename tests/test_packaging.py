"""One import package, all parts inside, nothing beside it: as a wheel, from an sdist, and in editable mode."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tavt_kit.core.records import read_record
from tests.verbs.tiny import write_images

ROOT = Path(__file__).resolve().parents[1]
USE = (
    "import tavt_kit, tavt_kit.search, tavt_kit.distill, tavt_kit.bench, tavt_kit.cli, tavt_kit.verbs.measuring\n"
    "print(tavt_kit.__file__, tavt_kit.search.__file__, tavt_kit.cli.__file__)\n"
)


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return next(out.glob("*.whl"))


def data_files() -> set[str]:
    """Templates and tables that lie beside the code, as they are named in the wheel."""
    kinds = (".html", ".css", ".js", ".toml", ".json", ".typed")
    core = {p.relative_to(ROOT).as_posix() for p in (ROOT / "tavt_kit").rglob("*") if p.suffix in kinds}
    parts = [p for part in ("search", "distill", "bench") for p in (ROOT / part).rglob("*") if p.suffix in kinds]
    return core | {f"tavt_kit/{p.relative_to(ROOT).as_posix()}" for p in parts}


def test_nothing_but_tavt_kit_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {"tavt_kit", f"{wheel.name.split('-py3')[0]}.dist-info"}
    for needed in ("cli.py", "search/__init__.py", "distill/__init__.py", "bench/__init__.py", "py.typed"):
        assert f"tavt_kit/{needed}" in names
    assert {"tavt_kit/py.typed", "tavt_kit/distill/presets/tavt-cub.toml"} <= data_files() <= names
    assert not [name for name in names if name.startswith(("tavt_kit/tests", "tavt_kit/tavt_kit"))]
    assert any(name.endswith("LICENSE") for name in names)


def test_the_checkout_runs_without_being_installed(tmp_path: Path) -> None:
    for command in ([ROOT / "cli.py"], ["-m", "tavt_kit"]):
        elsewhere = tmp_path if command[0] == ROOT / "cli.py" else ROOT
        assert run(sys.executable, *command, "--version", cwd=elsewhere).startswith("fgvc-kit ")


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A new environment that sees this one's packages, so that nothing is downloaded or copied."""
    folder = tmp_path / "fresh"
    venv.create(folder, with_pip=False, symlinks=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    # Only the directory: its .pth files, such as that of an editable tavt_kit, are not read.
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def install(environment: Path, *what: str | Path) -> set[str]:
    """Install without dependencies; the answer is what the installation added to site-packages."""
    site = next((environment / "lib").glob("python*/site-packages"))
    before = {path.name for path in site.iterdir()}
    command = ("-m", "pip", "--python", environment / "bin" / "python", "install", "--quiet", "--no-deps")
    run(sys.executable, *command, "--ignore-installed", "--no-build-isolation", *what, cwd=environment)
    return {path.name for path in site.iterdir()} - before


def check_use(environment: Path, home: Path) -> None:
    """The installed program runs from an empty folder, and from the home that is expected."""
    empty = environment.parent / "empty"
    empty.mkdir()
    bin_ = environment / "bin"
    files = run(bin_ / "python", "-c", USE, cwd=empty).split()
    assert all(Path(file).is_relative_to(home) for file in files), files
    for command in ([bin_ / "fgvc-kit"], [bin_ / "python", "-m", "tavt_kit"]):
        assert "doctor" in run(*command, "--help", cwd=empty)


@pytest.mark.slow
def test_the_wheel_installs_and_runs(wheel: Path, fresh: Path) -> None:
    added = install(fresh, wheel)
    assert added == {"tavt_kit", f"{wheel.name.split('-py3')[0]}.dist-info"}
    check_use(fresh, fresh)
    assert "doctor" in run(fresh / "bin" / "python", ROOT / "cli.py", "--help", cwd=fresh)


@pytest.mark.slow
def test_the_installed_wheel_fits_and_its_folder_predicts(wheel: Path, fresh: Path, tmp_path: Path) -> None:
    """The environment is new but for the packages that it borrows: torch and the like are not fetched again."""
    install(fresh, wheel)
    images, out, empty = write_images(tmp_path / "images", each=12), tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    words = "--budget latency=2s --max-time 1s --model test_vit --set weights=random --set image-size=64"
    said = run(fresh / "bin" / "fgvc-kit", "fit", images, "-o", out, *words.split(), cwd=empty)
    assert "recommended" in said and "ship:" in said
    record = read_record(out / "fit.json", "fit")
    assert {row["configuration"].get("precision") for row in record["rows"]} >= {None, "int8"}
    image = next((images / "disc").iterdir())
    file = out / "recommended" / "model.xml"
    for command in (["-I", file.parent / "predict.py", file], ["-m", "tavt_kit", "predict", file]):
        assert str(image) in run(fresh / "bin" / "python", *command, image, cwd=empty)


@pytest.mark.slow
def test_an_editable_install_runs_from_the_checkout(fresh: Path) -> None:
    pytest.importorskip("editables", reason="hatchling needs it for editable installs; .venv has it")
    added = install(fresh, "--editable", ROOT)
    assert {name for name in added if not name.endswith((".dist-info", ".pth"))} <= {"tavt_kit"}
    check_use(fresh, ROOT)


@pytest.mark.slow
def test_a_wheel_made_from_the_sdist_is_the_same(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = next(path for path in tmp_path.iterdir() if path.is_dir())
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, unpacked, cwd=tmp_path)
    again = next(tmp_path.glob("*.whl"))
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())
