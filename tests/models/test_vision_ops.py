"""timm can be imported wherever torch can, quietly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tavt_kit.models.vision_ops import declare_missing_ops

ROOT = Path(__file__).resolve().parents[2]


def run(code: str) -> str:
    # -W error: a warning at import would be every user's first impression, and fails the tests of others.
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.strip()


def test_declaring_twice_does_nothing() -> None:
    declare_missing_ops()
    assert declare_missing_ops() is False


@pytest.mark.slow
def test_a_timm_model_can_be_made_in_a_fresh_process() -> None:
    code = "from tavt_kit.models.timm_import import timm; print(len(timm.create_model('vit_tiny_patch16_224').blocks))"
    assert run(code) == "12"


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        # A torch that knows one operator.
        "import torch; library = torch.library.Library('torchvision', 'FRAGMENT'); "
        "library.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'); "
        "import tavt_kit as tk; import timm",
        "import tavt_kit as tk; import timm",
        # The first imports torchvision too, and the last of the operators' cases declares them beside torch.
        "import torch; import tavt_kit; import torchvision",
        "import tavt_kit, importlib; importlib.reload(tavt_kit); from torchvision import ops",
    ],
)
def test_torchvision_can_be_imported_after_the_package(imports: str) -> None:
    assert run(f"{imports}; import torch; print(torch.ops.torchvision.nms is not None)") == "True"


def test_looking_for_torchvision_loads_nothing() -> None:
    code = (
        "import tavt_kit, sys; from importlib.util import find_spec\n"
        "print(find_spec('torchvision').name, 'torch' in sys.modules, 'tavt_kit.models.vision_ops' in sys.modules)"
    )
    assert run(code) == "torchvision False False"


DEFINE = "library.define('{0}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"


@pytest.mark.slow  # the first of the imports above is a quick one
@pytest.mark.parametrize(("there", "declared"), [(("nms", "qnms"), "False"), (("nms",), "True")])
def test_only_what_is_missing_is_declared(there: tuple[str, ...], declared: str) -> None:
    """Operators that torch knows already, as beside a torchvision that loads, are left alone."""
    code = (
        "import torch\n"
        "library = torch.library.Library('torchvision', 'FRAGMENT')\n"
        + "".join(DEFINE.format(name) for name in there)
        + "from tavt_kit.models.vision_ops import declare_missing_ops\n"
        "print(declare_missing_ops())\n"
        "import torchvision"
    )
    assert run(code) == declared
