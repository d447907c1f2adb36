"""The schedules of a joint search: one row for one schedule, and nothing else than before without the genes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import ScheduleError
from tavt_kit.search import Store
from tavt_kit.search.algorithms.base import Outcome
from tavt_kit.search.algorithms.nsga2 import Evolution
from tavt_kit.search.proposals import fit
from tavt_kit.search.space import BASELINES, GENES, JointSpace


def joint(*, token_pooled: bool = True, tokens: int = 17) -> JointSpace:
    layout, sizes = TokenLayout(tokens, 4, token_pooled=token_pooled), ((32, 32), (24, 24))
    return JointSpace(layout, 2, sizes=sizes, at_size=(tokens, 10), spared=(2, 0), scores=("column", "cls"),
                      precisions=("f32", "bf16", "int8"), reductions=("drop", "merge"))  # fmt: skip


@pytest.mark.parametrize("token_pooled", [True, False])
def test_every_row_is_one_schedule_and_back(token_pooled: bool) -> None:
    space = joint(token_pooled=token_pooled)
    rng = np.random.default_rng(0)
    rows = [space.sample(rng) for _ in range(200)]
    schedules = [space.decode(row) for row in rows]
    for row, schedule in zip(rows, schedules, strict=True):
        assert np.array_equal(space.mend(row), row) and np.array_equal(space.encode(schedule), row)
        wanted = Configuration.of(schedule)
        wanted.schedule.check(TokenLayout(space.at_size[1 if wanted.image_size else 0], 4))
    assert len({row.tobytes() for row in rows}) == len(set(schedules))
    assert len({type(schedule) for schedule in schedules}) == 2


def test_a_small_space_is_listed_without_repeats() -> None:
    layout, sizes = TokenLayout(5, 2, token_pooled=False), ((32, 32), (16, 16))
    space = JointSpace(layout, sizes=sizes, at_size=(5, 3), spared=(1,), scores=("column", "cls"))
    schedules = [space.decode(row) for row in space.every()]
    assert len(schedules) == len(set(schedules)) and space.dense in schedules and space.least in schedules
    assert Configuration(TokenSchedule((3, 2)), image_size=(16, 16), score="cls") in schedules


def test_shares_keep_their_shape_at_another_size() -> None:
    space = joint(tokens=65)
    row = space.encode(TokenSchedule((65, 33, 33, 33)))
    row[0] = 1
    # Half of the patches here, half of them there.
    assert Configuration.of(space.decode(space.mend(row))).schedule.counts == (10, 6, 6, 6)


def test_the_baselines_are_the_dense_model_smaller_shallower_and_in_fewer_bits() -> None:
    assert {str(one).partition(" ")[2]: kind for one, kind in joint().baselines.items()} == {
        "in bf16": "other", "in int8": "int8",
        "at 24 px": "resolution", "at 24 px, in bf16": "resolution", "at 24 px, in int8": "resolution",
        "without layer 2": "layers", "without layer 2, in int8": "layers",
        "without layers 0 and 2": "layers", "without layers 0 and 2, in int8": "layers",
    }  # fmt: skip
    schedules = [Configuration.of(one).schedule for one in joint().baselines]
    assert all(len(set(one.counts)) == 1 for one in schedules)  # nothing is dropped


@pytest.mark.parametrize("kind", BASELINES)
def test_a_baseline_is_another_network_of_the_space_with_every_token(kind: str) -> None:
    space = joint()
    for genes in BASELINES[kind](space):
        choice = space.given(space.dense, **genes)
        assert choice != space.dense and space.decode(space.encode(choice)) == choice
        assert len(set(Configuration.of(choice).schedule.counts)) == 1
        assert space.baselines[choice] in BASELINES


def test_a_baseline_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BASELINES, "small and shallow", lambda space: [{"image_size": 1, "layers": 1}])
    (added,) = (one for one, kind in joint().baselines.items() if kind == "small and shallow")
    assert str(added).partition(" ")[2] == "at 24 px, without layer 2"


def test_first_proposals_are_in_the_fewest_bits_and_take_turns_in_the_other_genes() -> None:
    space = joint()
    found = [Configuration.of(space.dressed(TokenSchedule((17, 12, 9, 9)), number)) for number in range(8)]
    assert {one.precision for one in found} == {"int8"}
    genes = [(one.reduction, one.image_size, one.score) for one in found]
    assert len(set(genes)) == 8 and [one[0] for one in genes] == [None, "merge"] * 4


def test_a_gene_is_put_back_alone() -> None:
    space = joint()
    schedule = TokenSchedule((10, 5, 5, 5), (0, 1, 3))
    chosen = Configuration(schedule, image_size=(24, 24), score="cls", precision="int8")
    found = {gene: Configuration.of(space.given(chosen, **{gene: 0})) for gene in GENES}
    assert found["layers"].schedule.executed is None and found["score"].schedule.executed == (0, 1, 3)
    assert found["image_size"].image_size is None
    assert found["image_size"].schedule.counts[0] == 17 and found["image_size"].score == "cls"
    assert found["precision"] == replace(chosen, precision=None)


def test_budgets_that_only_other_genes_meet_are_met() -> None:
    space = joint()
    least = TokenSchedule((10, 2, 2, 2), (1, 3))
    assert Configuration(least, image_size=(24, 24), precision="int8") in space.ends

    def counts(choice: Choice) -> tuple[int, ...]:
        return Configuration.of(choice).schedule.counts

    def fits(choice: Choice) -> bool:
        return Configuration.of(choice).precision == "int8" and sum(counts(choice)) < 30

    evolution = Evolution(space, seed=0, population=12, fits=fits)
    for _ in range(3):
        asked = evolution.ask()
        assert asked and all(map(fits, asked))
        evolution.tell([Outcome(float(sum(counts(one))), counts(one)[-1] / 17) for one in asked])
    assert {evolution.origin(one) for one in asked} <= {"joint", "nsga2", "random"}


def test_what_fits_by_fewer_bits_keeps_its_size_and_score() -> None:
    space = joint()
    dear = Configuration(TokenSchedule((17, 12, 9, 9)), score="cls")

    def fits(choice: Choice) -> bool:
        return Configuration.of(choice).precision == "int8"

    assert space.decode(fit(space.encode(dear), space, fits, fill=False)) == replace(dear, precision="int8")


def test_layers_of_another_order_are_refused() -> None:
    with pytest.raises(ScheduleError, match="in the order"):
        joint().encode(TokenSchedule((17, 17, 9, 9), (0, 2, 3)))


def test_evolution_asks_for_each_once_and_finds_the_genes() -> None:
    space = joint()

    def cost(choice: Choice) -> float:
        schedule = Configuration.of(choice).schedule
        return float(sum(n for layer, n in enumerate(schedule.counts) if schedule.runs(layer)))

    seeds = list(space.baselines)
    evolution = Evolution(space, seed=0, population=12, seeds=seeds, fits=lambda schedule: cost(schedule) <= 40)
    seen: set[Choice] = set()
    for _ in range(8):
        asked = evolution.ask()
        assert len(set(asked)) == len(asked) and not seen & set(asked)
        seen |= set(asked)
        evolution.tell([Outcome(cost(one), Configuration.of(one).schedule.counts[-1] / 17) for one in asked])
    found = [Configuration.of(one) for one in seen]
    assert {one.image_size for one in found} == {None, (24, 24)} and {one.score for one in found} == {None, "cls"}
    assert {one.precision for one in found} == {None, "bf16", "int8"}
    assert {one.reduction for one in found} == {None, "merge"}
    assert {"user", "nsga2"} <= {evolution.origin(one) for one in seen}


def test_the_store_tells_variants_apart() -> None:
    from tavt_kit.core.accuracy import Accuracy
    from tavt_kit.evaluation.result import EvaluationResult

    store = Store(None)
    plain = TokenSchedule((5, 4))
    variants = [plain, Configuration(plain, score="cls"), Configuration(plain, image_size=(9, 9)),
                Configuration(TokenSchedule((5, 5), (0,))), Configuration(plain, precision="int8"),
                Configuration(plain, reduction="merge")]  # fmt: skip
    for right, schedule in enumerate(variants):
        store.add(schedule, EvaluationResult(Accuracy.of_counts(right, 8, split="val"), 0.1))
    answers = [store.get(one) for one in variants]
    assert [one and one.accuracy and one.accuracy.value for one in answers] == [0.0, 0.125, 0.25, 0.375, 0.5, 0.625]
