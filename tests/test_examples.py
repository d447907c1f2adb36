"""The examples run, and say what their texts promise."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tavt_kit.data import inherit_split, load_images
from tests.verbs.tiny import write_images, write_run

EXAMPLES = Path(__file__).parents[1] / "examples"
STANDALONE = EXAMPLES.parent / "tavt_kit" / "exporters" / "standalone.py"


@pytest.mark.slow
def test_pim_over_any_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "pim_over_any_backbone.py"), run_name="__main__")
    cnn, vit = re.split(r"\n(?=deit3)", capsys.readouterr().out)
    assert "nothing to drop" in cnn and "taper 0.2: 0.43 GMACs" in vit
    for said in (cnn, vit):
        assert float(re.search(r"batch 3: (\S+) of the largest logit", said)[1]) < 1e-4  # type: ignore[index]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images in ``data`` and a tiny run."""
    from tests.verbs.tiny import write_images, write_run

    folder = tmp_path_factory.mktemp("shipped")
    write_images(folder / "data", each=2, size=37)
    write_run(folder / "run")
    return folder


def _exported(folder: Path, kind: str) -> Path:
    """The run as ``model.onnx`` or ``model.xml``."""
    from tavt_kit.checkpoints import load_model
    from tavt_kit.core.schedule import TokenSchedule
    from tavt_kit.exporters.to_onnx import to_onnx
    from tavt_kit.exporters.to_openvino import to_openvino
    from tavt_kit.exporters.writer import describe

    model, file = load_model(folder / "run"), folder / f"model{kind}"
    if not file.exists():
        card = describe(model, TokenSchedule((14, 11, 8, 8)))
        (to_onnx if kind == ".onnx" else to_openvino)(model, card, file)
    return file


def _images(folder: Path) -> list[Path]:
    return sorted(folder.glob("data/*/*.png"))


def _expected(file: Path) -> list[str]:
    """What ``fgvc-kit predict`` says, as the examples print it."""
    from tavt_kit.workflows.predict import predict

    answers = predict(file, _images(file.parent), top=3)
    return ["  ".join([one.path, *(f"{label} {100 * share:.1f} %" for label, share in one.ranked)]) for one in answers]


@pytest.mark.parametrize("kind", [".onnx", pytest.param(".xml", marks=pytest.mark.slow)])
def test_the_shipped_script_needs_numpy_pillow_and_the_runtime_only(kind: str, shipped: Path, tmp_path: Path) -> None:
    """In an interpreter of its own, where importing anything of ours or of torch fails."""
    from tavt_kit.checks import Predicted

    file, logits = _exported(shipped, kind), tmp_path / "logits.npz"
    code = (
        "import runpy, sys\n"
        "for name in ('tavt_kit', 'torch', 'timm', 'torchvision', 'onnx', 'nncf', 'scipy'): sys.modules[name] = None\n"
        f"runpy.run_path({str(STANDALONE)!r}, run_name='__main__')\n"
    )
    arguments = [str(file), *map(str, _images(shipped)), f"--save={logits}"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == _expected(file)
    kept = Predicted.read(logits)
    assert kept.names == tuple(map(str, _images(shipped)))
    assert kept.logits.shape == (6, 3)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("c++") is None, reason="no cmake or C++ compiler")
def test_the_cpp_example_says_the_same(shipped: Path, tmp_path: Path) -> None:
    import openvino
    from PIL import Image

    places = f"-DOpenVINO_DIR={Path(openvino.__file__).parent / 'cmake'}"
    for step in (["-S", EXAMPLES / "cpp", "-B", tmp_path / "build", places], ["--build", tmp_path / "build"]):
        subprocess.run(["cmake", *map(str, step)], check=True, capture_output=True)
    images = []
    for number, path in enumerate(_images(shipped)):
        images.append(tmp_path / f"{number}.ppm")
        # The preprocessing of the tiny model keeps the whole shorter edge.
        Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC).save(images[-1])

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(tmp_path / "build" / "run_artifact"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    file = _exported(shipped, ".xml")
    done = run(file, *images)
    assert (done.returncode, done.stderr) == (0, "")
    for said, expected in zip(done.stdout.splitlines(), _expected(file), strict=True):
        assert (
            re.sub(r"(\d+\.?\d*) %", lambda m: f"{float(m[1]):.1f} %", said).split("  ")[1:] == expected.split("  ")[1:]
        )
    wrong = run(file, _images(shipped)[0])
    assert wrong.returncode == 2
    assert "must be a binary PPM of 32x32 pixels" in wrong.stderr


@pytest.mark.slow
def test_the_whole_way_in_python(tmp_path: Path) -> None:
    """Train, distil, search under a measured latency, export, bench, evaluate and predict, all of them from Python."""
    from tests.verbs.tiny import write_images

    write_images(tmp_path / "data", each=30)
    size = ["--model", "test_vit", "--weights", "random", "--image-size", "32", "--steps", "3", "--evaluations", "8"]
    where = ["--target", "openvino:cpu:threads=1", "--budget", "latency=50ms"]
    script = [sys.executable, "examples/whole_way.py", str(tmp_path / "data"), str(tmp_path / "out"), *size, *where]
    done = subprocess.run(
        script, cwd=EXAMPLES.parent, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "SearchRun(PASS" in done.stdout and "ExportedFile" in done.stdout and "Predictions" in done.stdout
    assert (tmp_path / "out" / "found" / "report.html").is_file()


def _notebook(name: str, **given: object) -> dict[str, object]:
    """Run a notebook's code with other parameters, where the cell of that tag has them."""
    names: dict[str, object] = {}
    for cell in json.loads((EXAMPLES / "notebooks" / f"{name}.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}.ipynb", "exec"), names)
            if "parameters" in cell["metadata"].get("tags", ()):
                assert given.keys() <= names.keys()
                names.update(given)
    return names


@pytest.mark.slow
def test_the_notebook_of_an_own_model_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_images(tmp_path / "data", each=12)
    _notebook("own_model", MODEL="vit_tiny_patch16_224", WEIGHTS="random", IMAGE_SIZE=64, DATA=str(data),
              OUT=str(tmp_path / "out"))  # fmt: skip
    assert "stages:0.5" in capsys.readouterr().out


@pytest.mark.slow
def test_the_notebook_of_a_fit_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_images(tmp_path / "data", each=30)
    _notebook("fit", DATA=str(data), OUT=str(tmp_path / "out"), BUDGET="latency=2s", MAX_TIME="1s",
              CHOICES={"model": "vit_tiny_patch16_224", "weights": "random", "image_size": 64})  # fmt: skip
    assert "predict.py" in capsys.readouterr().out


@pytest.mark.slow
def test_the_notebook_of_many_budgets_runs(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    inherit_split(run, load_images(str(write_images(tmp_path / "data", each=20))))
    found = _notebook("many_budgets", RUN=str(run), OUT=str(tmp_path / "out"), SEARCH={"evaluations": 12})
    assert len(found["timed"].record["candidates"]) > 1  # type: ignore[attr-defined]
