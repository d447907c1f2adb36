from __future__ import annotations

import subprocess
import sys

from tavt_kit.vision_ops import declare_missing_ops


def test_declaring_twice_does_nothing() -> None:
    declare_missing_ops()
    assert declare_missing_ops() is False


def test_timm_imports_in_a_fresh_process() -> None:
    code = "from tavt_kit.timm_import import timm; print(len(timm.create_model('vit_tiny_patch16_224').blocks))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "12"
