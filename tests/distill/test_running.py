from __future__ import annotations

from typing import Any

import pytest

from tavt_kit.distill.options import TrainingOptions
from tavt_kit.distill.recipes import distill_recipe, train_recipe
from tavt_kit.errors import TrainingError


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"accumulation": 0}, "`accumulation` must be at least 1, got 0"),
        ({"ema": 1.0}, "`ema` must be above 0 and below 1, got 1.0"),
        ({"ema": float("nan")}, "`ema` .* got nan"),
        ({"evaluate_every": 0}, "`evaluate_every`"),
    ],
)
def test_values_that_cannot_be_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        TrainingOptions(**values)


def test_a_record_holds_what_decides_the_result() -> None:
    record = train_recipe("finetune", ema=0.99).as_record()
    assert record["ema"] == 0.99 and record["accumulation"] == 1 and record["metric"] == "top1"
    recipe = distill_recipe("tavt", ema=0.9, steps=7, bound=0.3)
    assert (recipe.running.ema, recipe.optimisation.steps, recipe.bound) == (0.9, 7, 0.3)
    assert recipe.as_record()["ema"] == 0.9


def test_a_batch_is_divided_evenly_or_refused() -> None:
    TrainingOptions(accumulation=2).check_split(batch=12)
    with pytest.raises(TrainingError, match="multiple of 3, for 3 micro-batches of equal size, got 16"):
        TrainingOptions(accumulation=3).check_split(batch=16)
