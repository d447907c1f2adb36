"""``tk.search(...)`` and its like: packages that are workflows too, whatever was imported before."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import tavt_kit as tk

ROOT = Path(__file__).resolve().parents[1]


CALLED = """
import importlib
import tavt_kit as tk
for name in {names}:
    exec("{before}".replace("NAME", name))
    workflow = importlib.import_module(f"tavt_kit.workflows.{{name}}")
    calls = []
    setattr(workflow, name, lambda *args, **options: calls.append((args, options)))
    getattr(tk, name)("runs/x", out="y")
    importlib.import_module(f"tavt_kit.{{name}}")
    getattr(tk, name)("runs/z")
    assert calls == [(("runs/x",), {{"out": "y"}}), (("runs/z",), {{}})], calls
"""


@pytest.mark.parametrize(
    ("names", "before"),
    [
        (("bench",), "from tavt_kit.NAME import NAME"),
        pytest.param(tk._PACKAGES, "from tavt_kit.NAME import NAME", marks=pytest.mark.slow),
        pytest.param(("search",), "", marks=pytest.mark.slow),
        pytest.param(("search",), "import tavt_kit.NAME", marks=pytest.mark.slow),
    ],
    ids=["from", "each-from", "nothing", "import"],
)
def test_a_package_is_called_as_its_workflow(names: tuple[str, ...], before: str) -> None:
    """In a fresh interpreter: what was imported before decides what a name is bound to."""
    code = CALLED.format(names=tuple(names), before=before)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("name", tk._PACKAGES)
def test_a_package_that_is_long_imported_is_called_as_its_workflow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow, calls = importlib.import_module(f"tavt_kit.workflows.{name}"), []
    monkeypatch.setattr(workflow, name, lambda *given, **options: calls.append((given, options)))
    importlib.import_module(f"tavt_kit.{name}")
    getattr(tk, name)("runs/x", out="y")
    assert calls == [(("runs/x",), {"out": "y"})]


@pytest.mark.slow
def test_type_checkers_know_what_a_call_gives(tmp_path: Path) -> None:
    """Against the built wheel, as a user has it: in the checkout a type checker sees a part of the files."""
    snippet = """
import tavt_kit as tk
from tavt_kit.workflows.search import SearchRun
found: SearchRun = tk.search("runs/x", out="y", target="openvino:cpu", budget="latency=8ms")
from tavt_kit.search import search
again: SearchRun = tk.search("runs/x", out="y")
files: int = tk.export(again.folder)
"""
    (tmp_path / "snippet.py").write_text(snippet)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site")]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), "snippet.py"],
        cwd=tmp_path, capture_output=True, text=True, env={"MYPYPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    errors = [line for line in done.stdout.splitlines() if "error" in line]
    assert len(errors) == 2 and "ExportResult" in errors[0], done.stdout  # the one that is planted, and the count


@pytest.mark.parametrize(
    ("name", "count"),
    [("train", {"steps": 10**30}), ("distill", {"steps": 10**30}), ("prune", {"limit": 10**30}),
     ("search", {"workers": 10**6}), ("search", {"population": 10**9}), ("export", {"calibrate": 10**30}),
     ("check", {"limit": 10**30}), ("bench", {"image_size": [10**6]}), ("profile", {"held_out": 10**30}),
     ("evaluate", {"batch": 10**30}), ("predict", {"batch": 10**30}), ("explain", {"number": 10**30}),
     ("fit", {"seed": 10**30})],
)  # fmt: skip
def test_counts_that_nothing_could_hold_are_refused_first(name: str, count: dict[str, object], tmp_path: Path) -> None:
    """As on the command line, before the model, the data or a folder is looked at."""
    given = {"bench": [[tmp_path / "none"]], "predict": [tmp_path / "none", "x.png"]}
    with pytest.raises(tk.ParameterError, match=f"`{next(iter(count))}` is at most"):
        getattr(tk, name)(*given.get(name, [tmp_path / "none"]), **count)
    assert not any(tmp_path.iterdir())
