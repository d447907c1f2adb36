"""What ``import tavt_kit`` promises."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import tavt_kit
from tavt_kit import errors

PUBLIC = [
    "Accuracy", "AdaptiveViT", "Budget", "BudgetError", "BudgetTooTight", "Candidate", "CheckpointError",
    "DataError", "ExportError", "LeanViT", "Measurement", "MeasurementError", "MissingDependency", "OutputError",
    "ParameterError", "ParetoFront", "Preprocessing", "RecordError", "ScheduleError", "TargetDevice", "TargetError",
    "TavtError", "TokenLayout", "TokenSchedule", "TrainingError", "UnknownName", "UnsupportedBackbone", "__version__",
    "average", "bench", "check", "compare", "convert_checkpoint", "count_macs", "distill", "evaluate", "explain",
    "export", "fit", "load_model", "predict", "profile", "prune", "report", "search", "train", "wrap",
]  # fmt: skip
HEAVY = {"torch", "torchvision", "timm", "numpy", "PIL", "scipy", "openvino", "onnx", "onnxruntime", "pymoo"}


def test_public_names_are_pinned() -> None:
    assert tavt_kit.__all__ == PUBLIC
    assert sorted(tavt_kit.__all__) == sorted(dir(tavt_kit))


def test_all_errors_are_public() -> None:
    assert set(errors.__all__) <= set(PUBLIC)


def test_every_public_name_resolves_and_is_documented() -> None:
    for name in set(PUBLIC) - {"__version__"}:
        value = getattr(tavt_kit, name)
        assert callable(value) and value.__doc__, name
        if name not in tavt_kit._PACKAGES:
            assert not isinstance(value, ModuleType) and value.__module__.startswith("tavt_kit."), name
    assert not hasattr(tavt_kit, "nothing")


def test_type_checkers_see_the_same_names() -> None:
    """The imports under TYPE_CHECKING and the table of homes must say the same."""
    tree = ast.parse(Path(str(tavt_kit.__file__)).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    homes = {name: f"tavt_kit.{home}" for name, home in tavt_kit._HOMES.items()}
    assert seen == homes | {name: f"tavt_kit.workflows.{name}" for name in tavt_kit._PACKAGES}
    assert set(PUBLIC) == {*seen, "__version__"}


def test_no_public_name_is_also_a_module() -> None:
    folder = Path(str(tavt_kit.__file__)).parent
    for name in PUBLIC:
        assert not (folder / name).exists() and not (folder / f"{name}.py").exists(), name


def loaded_after(code: str) -> set[str]:
    """What a fresh interpreter has loaded after the code."""
    script = f"import sys\n{code}\nprint(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_else() -> None:
    loaded = loaded_after("import tavt_kit")
    assert {name for name in loaded if name.startswith("tavt_kit")} == {"tavt_kit"}
    assert not loaded & (HEAVY | {"typer", "rich"})


@pytest.mark.parametrize("name", ["TokenSchedule", "Budget", "TargetDevice", "Candidate", "ParetoFront", "TavtError"])
def test_plain_values_load_nothing_heavy(name: str) -> None:
    assert not loaded_after(f"import tavt_kit\ntavt_kit.{name}") & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["doctor", "--help"]])
def test_help_loads_neither_torch_nor_timm(arguments: list[str]) -> None:
    code = (
        "from tavt_kit.cli import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )
    loaded = loaded_after(code)
    assert "typer" in loaded and not loaded & HEAVY
