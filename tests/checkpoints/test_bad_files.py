"""What is wrong with a weight file is one sentence, exit code 2 and nothing written, whatever family reads it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tavt_kit import cli
from tavt_kit.checkpoints import convert
from tavt_kit.errors import TavtError
from tests.checkpoints.readers import READERS, Sample, sample
from tests.parameters import few

SLOW = ("mixvit", "transfg", "pim_swin", "vitaev2")
NAMED = few(READERS, *(name for name in READERS if name not in SLOW))
Spoil = Callable[[Sample, Path], tuple[Path, tuple[str, ...]]]


def options_of(found: Sample) -> list[str]:
    flags = []
    for name, value in found.options.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        flags += [f"--{name.replace('_', '-')}", text]
    return flags


def truncated(found: Sample, folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = found.save(folder)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path, ("damaged",)


def of_foreign_names(found: Sample, folder: Path) -> tuple[Path, tuple[str, ...]]:
    path = found.save(folder)
    if path.suffix == ".npz":
        np.savez(path, cls=np.array([{}], dtype=object))
    else:
        torch.save({"model": found.tensors, "args": Path("/")}, path)
    return path, ("holds Python objects",)


def of_another_family(found: Sample, folder: Path) -> tuple[Path, tuple[str, ...]]:
    return found.save(folder, {f"stem.{name}": t for name, t in found.tensors.items()}), ("no family", "lacks", "adds")


def not_finite(found: Sample, folder: Path) -> tuple[Path, tuple[str, ...]]:
    name = next(n for n, t in found.tensors.items() if t.is_floating_point())
    return found.save(folder, {**found.tensors, name: found.tensors[name] * torch.nan}), ("not finite",)


def of_a_wrong_grid(found: Sample, folder: Path) -> tuple[Path, tuple[str, ...]]:
    tables = [n for n, t in found.tensors.items() if "pos_embed" in n or "position_embeddings" in n]
    tables = tables or [n for n in found.tensors if n.endswith("relative_position_bias_table")]
    if not tables:
        pytest.skip("its convolutions supply the positions")
    rows = 1 if found.tensors[tables[0]].dim() == 3 else 0
    table = found.tensors[tables[0]].narrow(rows, 1, found.tensors[tables[0]].shape[rows] - 1)
    return found.save(folder, {**found.tensors, tables[0]: table}), ("no square grid", "other shapes", "make no")


def lacking(found: Sample, folder: Path) -> tuple[Path, tuple[str, ...]]:
    name = [
        n for n, t in found.tensors.items() if n.endswith(("weight", "kernel")) and t.dim() == 2 and "mask" not in n
    ][-1]
    short = {n: t for n, t in found.tensors.items() if n != name}
    return found.save(folder, short), ("lacks ", "no classifier")


def misshapen(found: Sample, folder: Path) -> tuple[Path, tuple[str, ...]]:
    name = next(n for n, t in found.tensors.items() if n.endswith(("weight", "kernel")) and t.dim() == 2)
    spoilt = {**found.tensors, name: torch.zeros(5, 7)}
    return found.save(folder, spoilt), ("other shapes", "have the shapes", "tokens")


SPOILT = (truncated, of_foreign_names, of_another_family, not_finite, of_a_wrong_grid, lacking, misshapen)


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("reader", NAMED)
def test_a_bad_file_is_one_sentence(
    reader: str, spoil: Spoil, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = sample(reader, reference)
    path, says = spoil(found, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        cli.main(["convert", str(path), "-o", str(tmp_path / "out"), *options_of(found)])
    said = capsys.readouterr()
    assert ended.value.code == 2 and said.err.count("\n") == 1 and not said.out
    assert any(text in said.err for text in says), said.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("reader", NAMED)
def test_a_wrong_class_count(reader: str, reference: Path, tmp_path: Path) -> None:
    found = sample(reader, reference)
    path = found.save(tmp_path)
    model, card = convert(path, **found.options)
    assert len(card.classes) == model.num_classes and not model.training
    with pytest.raises(TavtError, match=rf"a head of {len(card.classes)} classes, but 99 are named"):
        convert(path, **found.options, classes=[f"class {i}" for i in range(99)])


def changes(tensor: Tensor) -> dict[str, Tensor | None]:
    return {
        "absent": None,
        "flat": tensor.reshape(-1),
        "scalar": torch.zeros(()),
        "larger": torch.zeros([size + 1 for size in tensor.shape]),
        "empty": torch.zeros([0, *tensor.shape[1:]]),
        "five dimensions": torch.zeros((2,) * 5),
    }


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_no_tensor_can_be_spoilt_into_a_traceback(reader: str, reference: Path, tmp_path: Path) -> None:
    """Every kind of tensor, changed in every way: a sentence, or a file that is read all the same."""
    found = sample(reader, reference)
    kinds = {re.sub(r"\d+", "N", name): name for name in reversed(found.tensors)}
    for name in kinds.values():
        for change, tensor in changes(found.tensors[name]).items():
            spoilt = {n: t for n, t in {**found.tensors, name: tensor}.items() if t is not None}
            try:
                convert(found.save(tmp_path, spoilt), **found.options)
            except TavtError as error:
                assert "\n" not in str(error), (name, change)
