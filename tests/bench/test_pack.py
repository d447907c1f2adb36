"""Packs: what is in them, and that their runner needs numpy and one runtime only."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tavt_kit.bench.edge import main
from tavt_kit.bench.pack import CARRIED, pack_profile
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.latency_table import LatencyTable
from tavt_kit.core.progress import Silent
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import TargetError
from tests.runtimes.models import tiny_vit

NEEDED = {
    "onnxruntime": ("numpy", "numpy.libs", "onnxruntime"),
    "openvino": ("numpy", "numpy.libs", "openvino", "openvino.libs"),
}


def bare_environment(folder: Path, runtime: str) -> dict[str, str]:
    """Variables under which ``python -S`` finds numpy and one runtime, and nothing else that pip installed."""
    found = importlib.util.find_spec("numpy")
    assert found is not None and found.origin is not None
    site = Path(found.origin).parents[1]
    folder.mkdir()
    for name in NEEDED[runtime]:
        if (site / name).exists():
            (folder / name).symlink_to(site / name)
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def run_bare(arguments: Sequence[str], cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


def packed(folder: Path, text: str) -> Path:
    path = folder / "edge.zip"
    pack_profile(tiny_vit(depth=2), TargetDevice.parse(text), path, name="tiny", progress=Silent(), points=2)
    return path


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory.mktemp("pack"), "onnxruntime:cpu")


@pytest.mark.parametrize(
    "text",
    [
        "onnxruntime:cpu",
        *(
            pytest.param(text, marks=pytest.mark.slow)
            for text in ("onnxruntime:cpu:precision=int8", "openvino:cpu", "openvino:cpu:precision=int8")
        ),
    ],
)
def test_a_pack_writes_a_profile_where_there_is_neither_torch_nor_tavt_kit(
    tmp_path: Path, text: str, request: pytest.FixtureRequest
) -> None:
    target = TargetDevice.parse(text)
    environment = bare_environment(tmp_path / "site", target.runtime)
    device = tmp_path / "device"
    device.mkdir()
    absent = "import importlib.util as u; print([n for n in ('torch', 'tavt_kit', 'onnx', 'timm') if u.find_spec(n)])"
    assert run_bare(["-c", absent], device, environment).stdout.strip() == "[]"
    if text == "onnxruntime:cpu":
        shutil.copy(request.getfixturevalue("pack"), device)
    else:
        packed(device, text)
    done = run_bare(["edge.zip", "--max-time", "0.3", "--threads", "1"], device, environment)
    assert done.returncode == 0, done.stderr
    record = json.loads((device / "profile.json").read_text())
    assert record["schema"] == "fgvc-kit/profile"
    table = LatencyTable.from_record(record)
    assert table.target == replace(target, threads=1)
    assert (table.model.name, table.model.image_size, table.model.pool) == ("tiny", (32, 32), "kept")
    assert (
        set(table.quantile_ratios) == {"p90", "p99"} and table.host is not None and "torch" not in table.host.packages
    )
    assert (table.calibration is not None) == (target.precision == "int8")
    assert table.predict(TokenSchedule((9, 5))) > 0


def test_a_pack_holds_each_weight_once_and_only_what_is_run(pack: Path) -> None:
    with zipfile.ZipFile(pack) as zipped:
        names = zipped.namelist()
        record = json.loads(zipped.read("pack.json"))
        weights = zipped.getinfo("graphs/weights.bin").file_size
        modules = [name for name in names if name.endswith(".py")]
    own = sum(parameter.numel() * 4 for parameter in tiny_vit(depth=2).parameters())
    assert len(record["wholes"]) == 4 and len(record["graphs"]) > 5
    assert weights < 1.5 * own  # four whole passes and every part of them
    assert len(modules) == len(CARRIED) + 1 and record["plan"]["target"]["threads"] is None


def test_a_damaged_pack_says_so_and_writes_nothing(
    pack: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copy(pack, tmp_path))
    whole, out = path.read_bytes(), tmp_path / "out"
    with zipfile.ZipFile(path) as zipped:
        begin = zipped.getinfo("graphs/weights.bin").header_offset
    broken = bytearray(whole)
    broken[begin + 400] ^= 1
    for content, sentence in ((bytes(broken), "is damaged"), (whole[: len(whole) // 2], "is damaged")):
        path.write_bytes(content)
        assert main(str(path), ["-o", str(out)]) == 2
        said = capfd.readouterr().err
        assert sentence in said and "copy it again" in said and said.count("\n") == 1
    assert list(out.iterdir()) == []


def test_what_lacks_its_runtime_or_needs_torch_is_refused(pack: Path, tmp_path: Path) -> None:
    done = run_bare([str(pack)], tmp_path, bare_environment(tmp_path / "site", "openvino"))
    assert done.returncode == 2 and "needs the package onnxruntime" in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(TargetError, match="a pack runs without torch"):
        packed(tmp_path, "torch:cpu")
