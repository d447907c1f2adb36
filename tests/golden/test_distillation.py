"""Seeded distillations of three steps: the weights they end with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.golden.exact import arithmetic, bits, weights, without_keys
from tests.golden.golden import FOLDER, Golden
from tests.verbs.command import run

RECIPES: dict[str, tuple[object, ...]] = {
    "tavt": ("--recipe", "tavt", "--lr", 0.03),
    "modern": ("--lr", 1e-3, "--ema", 0.9),
}
TOLERANCE = 1e-3
"""Of the norm of each tensor's change. Without vector instructions the most is 3e-5."""
KNOWN = FOLDER / "distilled-bits.json"


@pytest.fixture(scope="module", params=RECIPES)
def distilled(
    request: pytest.FixtureRequest, start: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run folder named by its recipe."""
    out: Path = tmp_path_factory.mktemp("distilled") / request.param
    brief = ("--data", data, "--steps", 3, "--batch", 8, "--freeze", 1, "--precision", "f32")
    assert run("distill", start, *brief, *RECIPES[request.param], "-o", out) == 0
    return out


def test_the_weights(golden: Golden, distilled: Path, start: Path) -> None:
    path = FOLDER / f"distilled-{distilled.name}.safetensors"
    before, after = weights(start), weights(distilled)
    if golden.regenerate:
        save_file(after, path)
    expected = load_file(path)
    assert after.keys() == expected.keys()
    moved = [name for name in expected if not torch.equal(expected[name], before[name])]
    assert len(moved) > 20
    for name in expected:
        change, wanted = (without_keys(name, new[name] - before[name]) for new in (after, expected))
        off = float((change - wanted).norm())
        assert off <= TOLERANCE * float(wanted.norm()), f"{name} changed otherwise: {off:.2e} of {wanted.norm():.2e}"


def test_the_bits(golden: Golden, distilled: Path) -> None:
    """On the processors, and with the torch, that they were recorded with."""
    hashes = json.loads(KNOWN.read_text(encoding="utf-8")) if KNOWN.is_file() else {}
    name, key, found = distilled.name, arithmetic(), bits(weights(distilled))
    if golden.regenerate:
        hashes[name] = {key: found}  # those of other processors are of the code before
        KNOWN.write_text(json.dumps(hashes, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if key not in hashes[name]:
        pytest.skip(f"recorded on {'; '.join(hashes[name])}; this is {key}")
    assert found == hashes[name][key]
