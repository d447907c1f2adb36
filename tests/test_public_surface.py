"""What ``import tavt_kit`` promises."""

from __future__ import annotations

import subprocess
import sys

import tavt_kit

PUBLIC = [
    "AdaptiveViT", "Budget", "Candidate", "LeanViT", "Measurement", "ParetoFront", "Preprocessing", "TargetDevice",
    "TavtError", "TokenSchedule", "__version__", "count_macs", "load_model", "wrap",
]  # fmt: skip


def test_public_names_are_pinned() -> None:
    assert tavt_kit.__all__ == PUBLIC


def test_every_public_name_resolves() -> None:
    for name in PUBLIC:
        assert getattr(tavt_kit, name) is not None
    assert not hasattr(tavt_kit, "nothing")


def test_no_public_name_is_also_a_module() -> None:
    for name in set(PUBLIC) - {"__version__"}:
        assert type(getattr(tavt_kit, name)).__name__ != "module"


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_after("import tavt_kit") & {"torch", "timm", "numpy", "PIL", "openvino", "typer"}


def test_plain_values_load_nothing_heavy() -> None:
    loaded = loaded_after("import tavt_kit\ntavt_kit.TokenSchedule((5, 4)), tavt_kit.Budget, tavt_kit.TargetDevice")
    assert not loaded & {"torch", "timm", "numpy"}


def test_help_loads_neither_torch_nor_timm() -> None:
    code = (
        "from tavt_kit.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code"
    )
    assert not loaded_after(code) & {"torch", "timm", "torchvision", "numpy", "openvino", "onnxruntime", "scipy"}
