"""The layering of CONTRIBUTING's table, read off the source: imports go downwards only."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("search", "distill", "bench")
LAYERS = (
    ("errors", "core"),
    (
        "models/backbones",
        "models/costs",
        "models/timm_import",
        "models/token_reduction",
        "models/vision_ops",
    ),
    ("models", "data"),
    ("checkpoints", "evaluation", "runtimes"),
    ("checks", "comparison", "exporters", "pruning", "reports"),
    PARTS,
    ("workflows",),
    ("verbs",),
    ("cli",),
    ("__main__",),
)
"""Lowest first; a module may import its own layer and those below. A new folder takes its place here."""
PLAIN = ("errors", "core", "comparison")
"""What needs the standard library alone."""
HEAVY = {"torch", "torchvision", "timm", "numpy", "scipy", "openvino", "onnx", "onnxruntime", "onnxscript", "nncf",
         "pymoo", "safetensors", "PIL"}  # fmt: skip
TORCH = {"torch", "torchvision", "timm"}
WITHOUT_TORCH = (
    "data",
    "evaluation/answers",
    "evaluation/metrics",
    "evaluation/record",
    "reports",
    "runtimes/on_onnxruntime",
    "runtimes/on_openvino",
)
"""What an edge box and the report need; torch comes in only inside the functions that take a module."""


parsed = cache(ast.parse)


def sources() -> list[Path]:
    folders = [ROOT / name for name in ("tavt_kit", *PARTS)]
    return [ROOT / "cli.py", *sorted(path for folder in folders for path in folder.rglob("*.py"))]


def name_of(path: Path) -> str:
    """The module's name below tavt_kit, with slashes: ``verbs/search``, ``search/study``, ``cli``."""
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
    """The height of the longest beginning of the name that has one."""
    heights = {first: height for height, names in enumerate(LAYERS) for first in names}
    head = name
    while head and head not in heights:
        head = head.rpartition("/")[0]
    assert head, f"{name} has no layer yet: add its folder to LAYERS and to CONTRIBUTING's table"
    return heights[head]


def ours(imported: str) -> str | None:
    """The module of this package that a dotted name lies in, if any."""
    name = imported.removeprefix("tavt_kit.").replace(".", "/") if imported.startswith("tavt_kit.") else ""
    while name and name not in KNOWN:
        name = name.rpartition("/")[0]
    return name or None


def problems(name: str, source: str) -> list[str]:
    """What is wrong with the imports of one module."""
    tree = parsed(source)
    found = []
    for imported in imports(tree):
        first = imported.split(".")[0]
        if not first:
            found.append(f"{imported} is relative")
        if first in (*PARTS, "cli"):
            found.append(f"{imported} must be spelled tavt_kit.{imported}")
        if first == "timm" and name != "models/timm_import":
            found.append("timm is imported from tavt_kit.models.timm_import only")
        if first == "tavt_kit" and ours(imported) is None and imported != "tavt_kit.__version__":
            found.append(f"{imported} hides where it comes from: import it from its own module")
        if name.split("/")[0] in PLAIN and first not in sys.stdlib_module_names and first != "tavt_kit":
            found.append(f"{imported} is not in the standard library, which is all a plain value needs")
        target = ours(imported)
        if target is not None and target != name:
            found += wrong_direction(name, target)
    for imported in imports(tree, top_level=True):
        first = imported.split(".")[0]
        if name.split("/")[0] in ("cli", "verbs", "workflows") and first in HEAVY:
            found.append(f"{imported} is heavy: import it inside the function, so that --help stays fast")
        if name.startswith(WITHOUT_TORCH) and first in TORCH:
            found.append(f"{imported} is needed at the top, but this module must serve without torch")
    return found


def wrong_direction(name: str, target: str) -> list[str]:
    here, there = name.split("/")[0], target.split("/")[0]
    if here in PARTS and there in PARTS and here != there:
        return [f"{target} is another part: they meet in workflows/"]
    if layer(target) > layer(name):
        return [f"{target} lies above"]
    return []


def test_imports_keep_the_rules() -> None:
    modules = [path for path in sources() if path != ROOT / "tavt_kit" / "__init__.py"]
    found = {name_of(path): problems(name_of(path), path.read_text(encoding="utf-8")) for path in modules}
    assert {name: complaints for name, complaints in found.items() if complaints} == {}


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("search/study", "from tavt_kit.bench import bench", "another part"),
        ("search/study", "import tavt_kit.distill", "another part"),
        ("search/study", "def f():\n    from tavt_kit.verbs import options", "lies above"),
        ("models/wrap", "from tavt_kit.search.study import search", "lies above"),
        ("reports/page", "from tavt_kit.search import search", "lies above"),
        ("models/token_reduction", "from tavt_kit.models.wrap import wrap", "lies above"),
        ("models/backbones/timm_vit", "from tavt_kit.models.flops import count_macs", "lies above"),
        ("models/wrap", "from tavt_kit.runtimes import open_file", "lies above"),
        ("workflows/schedules", "def f():\n    from tavt_kit.verbs.console import console_of", "lies above"),
        ("core/schedule", "import numpy", "standard library"),
        ("comparison/comparison", "import scipy", "standard library"),
        ("core/schedule", "from tavt_kit.models.token_reduction import TokenState", "lies above"),
        ("models/wrap", "from search import study", "spelled tavt_kit.search"),
        ("search/study", "from . import space", "relative"),
        ("models/wrap", "import timm.layers", "timm_import"),
        ("verbs/doctor", "import numpy as np", "heavy"),
        ("workflows/schedules", "import numpy as np", "heavy"),
        ("cli", "from torch import nn", "heavy"),
        ("reports/page", "import torch", "without torch"),
        ("models/wrap", "from tavt_kit import TokenSchedule", "its own module"),
    ],
)
def test_a_broken_rule_is_found(name: str, source: str, complaint: str) -> None:
    assert any(complaint in problem for problem in problems(name, source))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("verbs/doctor", "def f():\n    import torch\n    from tavt_kit.search import search"),
        ("workflows/schedules", "from tavt_kit.search.space import Space\nfrom tavt_kit.bench import bench"),
        ("search/study", "from tavt_kit.search.space import Space\nfrom tavt_kit.core.records import atomic_path"),
        ("reports/page", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
    ],
)
def test_what_is_allowed_passes(name: str, source: str) -> None:
    assert problems(name, source) == []


def test_every_layer_is_there() -> None:
    missing = [name for names in LAYERS for name in names if name not in KNOWN]
    assert not missing, f"{missing} left: take them out of LAYERS"
    loose = {path.stem for path in (ROOT / "tavt_kit").glob("*.py")}
    assert loose == {"__init__", "__main__", "errors"}, "every other module lies in a folder"


def test_every_folder_of_modules_has_an_init() -> None:
    for path in sources():
        assert path.parent == ROOT or (path.parent / "__init__.py").is_file(), f"{path.parent} is not a package"


def test_only_the_table_spells_schemas() -> None:
    """Kinds and versions of records stand in ``records.SCHEMAS``; a call names the kind."""
    spelled = [name_of(path) for path in sources() if re.search(r"fgvc-kit/\S+", path.read_text(encoding="utf-8"))]
    assert spelled == ["core/records"]


def printed(path: Path) -> list[str]:
    """Calls of a module that only verbs may make, and calls that nobody may."""
    calls = [node for node in ast.walk(parsed(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    names = [(node.func.id, node.lineno) for node in calls if isinstance(node.func, ast.Name)]
    return [f"line {line}: {name}()" for name, line in names if name in ("print", "input", "eval", "exec")]


def test_only_verbs_print() -> None:
    calls = {name_of(path): printed(path) for path in sources() if not name_of(path).startswith(("verbs", "cli"))}
    assert {name: lines for name, lines in calls.items() if lines} == {}


def test_what_examples_and_tests_import_exists() -> None:
    """A study that nobody runs every day breaks silently when a module of the library moves."""
    folders = [ROOT / name for name in ("examples", "benchmarks", "tests")]
    missing = []
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tavt_kit"):
                missing += [f"{path.relative_to(ROOT)}:{node.lineno} {node.module}.{name}" for name in _absent(node)]
    assert missing == []


def _absent(node: ast.ImportFrom) -> Iterator[str]:
    try:
        module = importlib.import_module(str(node.module))
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("tavt_kit"):
            return  # a package that is not installed here
        yield from (alias.name for alias in node.names)
        return
    for alias in node.names:
        if not hasattr(module, alias.name) and importlib.util.find_spec(f"{node.module}.{alias.name}") is None:
            yield alias.name
