"""The driver of the study of a GPU, with steps made up: limits, failures, going on, and the bundle."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

STUDY = Path(__file__).resolve().parents[1] / "examples" / "studies" / "gpu.py"

WORKER = """
import json, os, sys, time
for line in sys.stdin:
    name = line.strip()
    if name == "slow": time.sleep(60)
    if name == "dies": os._exit(7)
    state = "failed" if name == "fails" else "done"
    print(json.dumps({"state": state, "record": os.getpid(), "lines": [name + " said"], "why": "w", "mocked": ["m"],
                      "goals": [[name, 3.0, 2.0], [name + " less", 3.0, -2.0]]}),
          flush=True)
"""


def study() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(STUDY)))


def test_steps_that_fail_or_take_too_long_stop_no_other(tmp_path: Path) -> None:
    found = study()
    (tmp_path / "gpu_steps.py").write_text(WORKER)
    names = found.drive.__globals__
    names["HERE"], names["STEPS"] = (
        tmp_path,
        {"a": 20, "slow": 0.25, "b": 20, "dies": 20, "fails": 20, "c": 20, "d": 20},
    )
    given = SimpleNamespace(device="cpu", out=tmp_path / "out", minutes=1.0, only="", packages=tmp_path / "none")
    steps = found.drive(given)["steps"]
    assert steps == json.loads((given.out / "gpu.json").read_text())["steps"]
    assert {name: one["state"] for name, one in steps.items()} == {
        "a": "done", "slow": "stopped", "b": "done", "dies": "failed", "fails": "failed", "c": "done", "d": "done"
    }  # fmt: skip
    assert "limit of 1 s" in steps["slow"]["why"] and "exit code 7" in steps["dies"]["why"]
    assert steps["c"]["record"] == steps["d"]["record"] != steps["b"]["record"] != steps["a"]["record"]
    text = (given.out / "gpu.txt").read_text()
    assert "- a: unmeasured (at least 2 wanted)" in text and "- a less: unmeasured (at most 2 wanted)" in text
    told = found.summary({"device": "cuda", "steps": steps})
    assert "- a: 3, met (at least 2)" in told and "- a less: 3, NOT met (at most 2)" in told
    assert "mocked: m" in text and "a said" in text and not list(given.out.glob("*.part"))
    names["STEPS"] = {"a": 20, "slow": 0.25, "e": 20}
    again = found.drive(given)["steps"]  # what is done stays, what is new comes first
    assert again["a"] == steps["a"] and list(again)[-1] == "e" and again["slow"]["state"] == "stopped"


@pytest.mark.slow
def test_a_bundle_brings_what_is_absent_or_too_old(tmp_path: Path) -> None:
    found = study()
    bundle = tmp_path / "bundle.zip"
    found.pack.__globals__.update(ROOTS=("timm", "filelock"), COMPILED=())
    found.pack(bundle)
    own = "own@{}.{}".format(*sys.version_info)
    with zipfile.ZipFile(bundle, "a") as archive:
        for name in (own, "own@2.7"):
            archive.writestr(f"{name}/.least", "")
    with zipfile.ZipFile(bundle) as archive:
        names = archive.namelist()
    assert "timm/timm/__init__.py" in names and "filelock/filelock/__init__.py" in names
    assert not any(name.endswith(".so") and ".abi3." not in name for name in names)
    assert not any(name.startswith(("torch/", "numpy/")) for name in names)
    installed: dict[str, Any] = {"timm": "0.1.4", "filelock": "99.1"}

    def distribution(name: str) -> SimpleNamespace:
        if name not in installed:
            raise found.PackageNotFoundError(name)
        return SimpleNamespace(version=installed[name])

    found.unpacked.__globals__["distribution"] = distribution
    folders = {Path(one).name for one in found.unpacked(bundle, tmp_path / "there")}
    assert own in folders and "own@2.7" not in folders
    assert "timm" in folders and "filelock" not in folders and "pyyaml" in folders
    assert (tmp_path / "there" / "timm" / "timm" / "__init__.py").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("step", ["facts", "parity", "bench base 448 bf16 b1", "memory", "evaluation", "training"])
def test_a_step_passes_on_the_pretended_device(tmp_path: Path, step: str) -> None:
    flags = ["--device", "cpu", "--out", tmp_path, "--minutes", "6", "--only", step]
    done = subprocess.run([sys.executable, STUDY, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + (tmp_path / "gpu.log").read_text()
    (name, *_) = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert name == step and "mocked: " in done.stdout and "NOT met" not in done.stdout
