"""The layering of design and CONTRIBUTING, read off the source: imports go downwards only."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("search", "distill", "bench")
PLAIN = ("errors", "schedule", "device", "measurement", "accuracy", "host", "budget", "verdict", "candidate", "front",
         "records", "latency_table", "model_card", "tokens_text")  # fmt: skip
HEAVY = {"torch", "torchvision", "timm", "numpy", "scipy", "openvino", "onnx", "onnxruntime", "onnxscript", "nncf",
         "pymoo", "plotly", "fvcore", "torch_pruning", "accelerate", "safetensors", "PIL"}  # fmt: skip
NO_TORCH = ("preprocess", "predictions", "data", "reports", "runtimes/on_onnxruntime", "runtimes/on_openvino")


def sources() -> list[Path]:
    folders = [ROOT / name for name in ("tavt_kit", *PARTS)]
    return [ROOT / "cli.py", *sorted(path for folder in folders for path in folder.rglob("*.py"))]


def name_of(path: Path) -> str:
    """The module's name below tavt_kit, with slashes: ``verbs/search``, ``search/loop``, ``cli``."""
    relative = path.relative_to(ROOT).with_suffix("").as_posix()
    return relative.removeprefix("tavt_kit/").removesuffix("/__init__")


def imports(tree: ast.AST, *, top_level: bool = False) -> Iterator[str]:
    """Every imported module, dotted; with ``top_level`` only what is imported when the module is."""
    nodes = list(top_level_nodes(tree)) if top_level else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are refused"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield node
        yield from top_level_nodes(node)


def layer(name: str) -> int:
    """Higher may import lower, never the other way round."""
    first = name.split("/")[0]
    if first in ("cli", "__main__", ""):
        return 6
    if first == "verbs":
        return 5
    if first in PARTS:
        return 4
    if first in ("reports", "checks", "exporters", "kept"):
        return 3
    if first in ("runtimes", "adaptive", "checkpoints", "macs", "counting", "data", "predictions", "sources"):
        return 2
    if first in PLAIN:
        return 0
    return 1


def ours(imported: str) -> str | None:
    if not imported.startswith("tavt_kit."):
        return None
    name = imported.removeprefix("tavt_kit.").replace(".", "/")
    while name and not ((ROOT / "tavt_kit" / name).is_dir() or (ROOT / name).is_dir() or is_file(name)):
        name = name.rpartition("/")[0]
    return name or None


def is_file(name: str) -> bool:
    return (ROOT / "tavt_kit" / f"{name}.py").is_file() or (ROOT / f"{name}.py").is_file()


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_imports_go_downwards(path: Path) -> None:
    name = name_of(path)
    tree = ast.parse(path.read_text())
    for imported in imports(tree):
        first = imported.split(".")[0]
        assert first not in (*PARTS, "cli"), f"{name} imports {imported}: spell it tavt_kit.{imported}"
        target = ours(imported)
        if target is None or target == name:
            continue
        part, other = name.split("/")[0], target.split("/")[0]
        assert not (part in PARTS and other in PARTS and part != other), (
            f"{name} imports {target}: parts meet in verbs/"
        )
        if name not in ("", "__init__"):
            assert layer(target) <= layer(name), f"{name} imports {target}, which lies above it"


@pytest.mark.parametrize("path", [p for p in sources() if name_of(p) in PLAIN], ids=name_of)
def test_plain_values_need_the_standard_library_only(path: Path) -> None:
    for imported in imports(ast.parse(path.read_text())):
        first = imported.split(".")[0]
        assert first in sys.stdlib_module_names or first == "tavt_kit", f"{name_of(path)} imports {imported}"
        target = ours(imported)
        assert target is None or target in PLAIN, f"{name_of(path)} imports {target}, which is no plain value"


@pytest.mark.parametrize("path", [p for p in sources() if name_of(p).startswith(("verbs", "cli"))], ids=name_of)
def test_verbs_import_nothing_heavy_before_they_run(path: Path) -> None:
    for imported in imports(ast.parse(path.read_text()), top_level=True):
        assert imported.split(".")[0] not in HEAVY, f"{name_of(path)} imports {imported} at its top"


@pytest.mark.parametrize("path", [p for p in sources() if name_of(p).startswith(NO_TORCH)], ids=name_of)
def test_edge_and_report_modules_need_no_torch(path: Path) -> None:
    for imported in imports(ast.parse(path.read_text()), top_level=True):
        assert imported.split(".")[0] not in ("torch", "timm", "torchvision"), f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize("path", [p for p in sources() if "timm_import" not in p.name], ids=name_of)
def test_timm_is_imported_in_one_place(path: Path) -> None:
    for imported in imports(ast.parse(path.read_text())):
        assert imported.split(".")[0] != "timm", f"{name_of(path)} imports timm: take it from tavt_kit.timm_import"
