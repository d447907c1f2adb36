"""TAVT's official evolutionary search: operators, fronts and a whole run."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tavt_kit.distill.sampling import ratio_counts
from tavt_kit.errors import RecordError
from tavt_kit.search.algorithms.tavt import OfficialEvolution, approx_ratio, first_ratios, inverse_ratio
from tests.parity.official import load

pytestmark = pytest.mark.kind("tavt_evolution")
LENGTH, LAYERS = 60, 5


def macs(gene: tuple[int, ...]) -> int:
    """The file's synthetic cost."""
    return sum(1000 * length + 3 * length * length for length in gene)


def score(gene: tuple[int, ...]) -> float:
    """The file's synthetic accuracy."""
    base = sum(length**0.5 * (i + 1) for i, length in enumerate(gene)) / sum(60**0.5 * (i + 1) for i in range(LAYERS))
    hashed = sum((i + 1) * length for i, length in enumerate(gene)) * 2654435761 % 1000 / 1000
    return round(0.5 + 0.4 * base + 0.05 * hashed, 6)


@pytest.fixture
def recorded(reference: Path, name: str) -> dict[str, Any]:
    arrays, meta = load(reference, name)
    data: dict[str, Any] = meta["data"]
    assert (meta["synthetic"]["max_len"], meta["synthetic"]["layers"]) == (LENGTH, LAYERS)
    return {**data, "pareto_area": float(arrays["pareto_area"])}


def rows(evolution: OfficialEvolution) -> list[list[Any]]:
    return [[list(gene), seen.macs, seen.score] for gene, seen in evolution.store.items()]


def genes(found: list[tuple[int, ...]]) -> list[list[int]]:
    return [list(gene) for gene in found]


def test_fixed_genes(recorded: dict[str, Any]) -> None:
    data = recorded["fixed"]
    evolution = OfficialEvolution(LENGTH, macs, score, data["lower_constraint"], data["upper_constraint"])
    given = [data["lower"], data["upper"], *data["genes"]]
    assert [evolution.add(tuple(gene)) for gene in given] == data["add_gene_returned"]
    assert rows(evolution) == [row[:3] for row in data["store"]]
    assert genes(evolution.population) == data["population_before"]
    assert evolution.turn(*evolution.population[:3]) == pytest.approx(data["ccw_first3"], rel=1e-12)
    assert genes(evolution.frontier()) == data["pareto_frontier"] == genes(evolution.population)
    assert evolution.area == pytest.approx(data["area"], rel=1e-12) == recorded["pareto_area"]
    assert genes(evolution.hull()) == data["convex_hull"]


def test_given_costs_and_scores(recorded: dict[str, Any]) -> None:
    data = recorded["explicit"]
    evolution = OfficialEvolution(LENGTH, macs, score, data["lower_constraint"], data["upper_constraint"])
    returned = [evolution.add(tuple(gene), cost, value) for gene, cost, value in data["entries"]]
    assert returned == data["add_gene_returned"] and rows(evolution) == data["store"]
    assert genes(evolution.frontier()) == data["pareto_frontier"]
    assert evolution.area == pytest.approx(data["area"], rel=1e-12)
    assert genes(evolution.hull()) == data["convex_hull"]


def test_the_store_file(recorded: dict[str, Any]) -> None:
    data = recorded["explicit"]
    written, read = (OfficialEvolution(LENGTH, macs, score, data["lower_constraint"]) for _ in range(2))
    for gene, cost, value in data["entries"]:
        written.add(tuple(gene), cost, value)
    assert written.as_text() == recorded["store_file"]["text"]
    read.read(recorded["store_file"]["text"])
    loaded = [[list(gene), s.macs, s.score, s.method, s.parents] for gene, s in read.store.items()]
    assert loaded == recorded["store_file"]["loaded"]
    with pytest.raises(RecordError, match="line 1 of the store"):
        read.read("no gene")


def test_ratios(recorded: dict[str, Any]) -> None:
    for drop, usual, own in recorded["approx_ratio"]:
        assert approx_ratio(drop) == usual and approx_ratio(drop, LAYERS, LENGTH) == own
    for share, drop in recorded["inverse"]:
        assert inverse_ratio(share) == pytest.approx(drop, abs=1e-9)


def test_a_whole_search(recorded: dict[str, Any]) -> None:
    data, settings = recorded["search"], recorded["search"]["settings"]
    ratios = first_ratios(settings["bound"], settings["population_size"])
    assert ratios == pytest.approx(data["ratios"], abs=1e-9)
    first = [ratio_counts(LENGTH, LAYERS, ratio) for ratio in data["ratios"]]
    assert genes(first) == data["initial_genes"]
    random.seed(data["py_and_np_seed"])
    np.random.seed(data["py_and_np_seed"])
    evolution = OfficialEvolution(LENGTH, macs, score)
    lower, upper = ratio_counts(LENGTH, LAYERS, settings["bound"]), (LENGTH,) * LAYERS
    evolution.add(lower)
    evolution.add(upper)
    evolution.lower, evolution.upper = evolution.store[lower].macs, evolution.store[upper].macs
    for gene in first:
        evolution.add(gene)
    for step in data["iterations"]:
        assert genes(evolution.frontier()) == step["population"]
        assert evolution.area == pytest.approx(step["area"], rel=1e-12)
        assert genes(evolution.hull()) == step["parents"]
        if "mutation_tries" not in step:
            break
        for kind, size, tries in (("mutate", settings["mutation_size"], step["mutation_tries"]),
                                  ("cross", settings["crossover_size"], step["crossover_tries"])):  # fmt: skip
            done = [evolution.mutate(settings["mutation_prob"]) if kind == "mutate" else evolution.cross()
                    for _ in range(tries)]  # fmt: skip
            assert sum(done) <= size
    final = [[*row[:4], row[4]] for row in data["final_store"]]
    mine = [
        [list(gene), seen.macs, seen.score, seen.method, None if seen.parents is None else genes(list(seen.parents))]
        for gene, seen in evolution.store.items()
    ]
    assert mine == final
