"""The layering of CONTRIBUTING's table, read off the source: imports go downwards only."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("search", "distill", "bench")
PLAIN = ("errors", "schedule", "device", "measurement", "accuracy", "host", "budget", "verdict", "candidate", "front",
         "records", "latency_table", "layer_cells", "model_card", "artifact_card", "code_version", "sealed",
         "memory_fit", "foreign_times", "onnx_metadata", "quieted", "control_group", "comparison", "comparable",
         "compared", "command_line", "part_names", "block_bootstrap")  # fmt: skip
LAYERS = (
    PLAIN,
    ("backbones", "drop", "merge", "scores", "tokens", "packed", "part_scope", "preprocess", "timm_import", "vision_ops",
     "out_of_memory"),  # fmt: skip
    (
        "runtimes",
        "adaptive",
        "checkpoints",
        "data",
        "macs",
        "counting",
        "evaluation",
        "scoring",
        "predictions",
        "answer",
        "shared_passes",
        "shared_evaluation",
        "switchable_evaluation",
        "openvino_evaluation",
    ),
    (
        "reports",
        "checks",
        "exporters",
        "pruning",
        "explaining",
        "evaluating",
        "pim_evaluation",
        "lettering",
        "kept",
        "thumbnails",
    ),
    PARTS,
    ("verbs",),
    ("cli",),
    ("__main__",),
)  # fmt: skip
"""Lowest first; a module may import its own layer and those below. A new module takes its place here."""
HEAVY = {"torch", "torchvision", "timm", "numpy", "scipy", "openvino", "onnx", "onnxruntime", "onnxscript", "nncf",
         "pymoo", "plotly", "fvcore", "torch_pruning", "accelerate", "safetensors", "PIL"}  # fmt: skip
TORCH = {"torch", "torchvision", "timm"}
WITHOUT_TORCH = (
    "preprocess",
    "predictions",
    "artifact_card",
    "data",
    "evaluating",
    "reports",
    "runtimes/on_onnxruntime",
    "runtimes/on_openvino",
)
"""What an edge box and the report need; torch comes in only inside the functions that take a module."""


def sources() -> list[Path]:
    folders = [ROOT / name for name in ("tavt_kit", *PARTS)]
    return [ROOT / "cli.py", *sorted(path for folder in folders for path in folder.rglob("*.py"))]


def name_of(path: Path) -> str:
    """The module's name below tavt_kit, with slashes: ``verbs/search``, ``search/loop``, ``cli``."""
    relative = path.relative_to(ROOT).with_suffix("").as_posix()
    return relative.removeprefix("tavt_kit/").removesuffix("/__init__")


KNOWN = {name_of(path) for path in sources()}


def imports(tree: ast.AST, *, top_level: bool = False) -> Iterator[str]:
    """Every imported name, dotted; with ``top_level`` only what is imported when the module is."""
    for node in top_level_nodes(tree) if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def top_level_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield node
        yield from top_level_nodes(node)


def layer(name: str) -> int:
    first = name.split("/")[0]
    found = [height for height, names in enumerate(LAYERS) if first in names]
    assert found, f"{first} has no layer yet: add it to LAYERS and to CONTRIBUTING's table"
    return found[0]


def ours(imported: str) -> str | None:
    """The module of this package that a dotted name lies in, if any."""
    name = imported.removeprefix("tavt_kit.").replace(".", "/") if imported.startswith("tavt_kit.") else ""
    while name and name not in KNOWN:
        name = name.rpartition("/")[0]
    return name or None


def problems(name: str, source: str) -> list[str]:
    """What is wrong with the imports of one module."""
    tree = ast.parse(source)
    found = []
    for imported in imports(tree):
        first = imported.split(".")[0]
        if not first:
            found.append(f"{imported} is relative")
        if first in (*PARTS, "cli"):
            found.append(f"{imported} must be spelled tavt_kit.{imported}")
        if first == "timm" and name != "timm_import":
            found.append("timm is imported from tavt_kit.timm_import only")
        if first == "tavt_kit" and ours(imported) is None and imported != "tavt_kit.__version__":
            found.append(f"{imported} hides where it comes from: import it from its own module")
        if name in PLAIN and first not in sys.stdlib_module_names and first != "tavt_kit":
            found.append(f"{imported} is not in the standard library, which is all a plain value needs")
        target = ours(imported)
        if target is not None and target != name:
            found += wrong_direction(name, target)
    for imported in imports(tree, top_level=True):
        first = imported.split(".")[0]
        if name.split("/")[0] in ("cli", "verbs") and first in HEAVY:
            found.append(f"{imported} is heavy: import it inside the verb")
        if name.startswith(WITHOUT_TORCH) and first in TORCH:
            found.append(f"{imported} is needed at the top, but this module must serve without torch")
    return found


def wrong_direction(name: str, target: str) -> list[str]:
    here, there = name.split("/")[0], target.split("/")[0]
    if here in PARTS and there in PARTS and here != there:
        return [f"{target} is another part: they meet in verbs/"]
    if layer(target) > layer(name):
        return [f"{target} lies above"]
    return []


@pytest.mark.parametrize("path", [p for p in sources() if p != ROOT / "tavt_kit" / "__init__.py"], ids=name_of)
def test_imports_keep_the_rules(path: Path) -> None:
    assert problems(name_of(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("search/loop", "from tavt_kit.bench import bench", "another part"),
        ("search/loop", "import tavt_kit.distill", "another part"),
        ("search/loop", "def f():\n    from tavt_kit.verbs import options", "lies above"),
        ("adaptive", "from tavt_kit.search.loop import search", "lies above"),
        ("reports/page", "from tavt_kit.search import search", "lies above"),
        ("drop", "from tavt_kit.adaptive import wrap", "lies above"),
        ("schedule", "import numpy", "standard library"),
        ("schedule", "from tavt_kit.tokens import TokenState", "lies above"),
        ("adaptive", "from search import loop", "spelled tavt_kit.search"),
        ("search/loop", "from . import space", "relative"),
        ("adaptive", "import timm.layers", "timm_import"),
        ("verbs/doctor", "import numpy as np", "heavy"),
        ("cli", "from torch import nn", "heavy"),
        ("reports/page", "import torch", "without torch"),
        ("adaptive", "from tavt_kit import TokenSchedule", "its own module"),
    ],
)
def test_a_broken_rule_is_found(name: str, source: str, complaint: str) -> None:
    assert any(complaint in problem for problem in problems(name, source))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("verbs/doctor", "def f():\n    import torch\n    from tavt_kit.search import search"),
        ("search/loop", "from tavt_kit.search.space import Space\nfrom tavt_kit.records import atomic_path"),
        ("reports/page", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
    ],
)
def test_what_is_allowed_passes(name: str, source: str) -> None:
    assert problems(name, source) == []


def test_every_folder_of_modules_has_an_init() -> None:
    for path in sources():
        assert path.parent == ROOT or (path.parent / "__init__.py").is_file(), f"{path.parent} is not a package"


@pytest.mark.parametrize("path", [p for p in sources() if not name_of(p).startswith(("verbs", "cli"))], ids=name_of)
def test_only_verbs_print(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id
        assert called not in ("print", "input", "eval", "exec"), f"{name_of(path)}, line {node.lineno}: {called}()"  # type: ignore[attr-defined]
