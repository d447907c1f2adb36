from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.distill.losses import attention_loss, feature_loss
from tavt_kit.distill.sandwich import SandwichRule, sandwich_step
from tavt_kit.errors import TrainingError, UnsupportedBackbone
from tavt_kit.models.prefix_sharing import Placed
from tavt_kit.models.token_reduction import REDUCTIONS
from tavt_kit.models.wrap import AdaptiveViT, wrap
from tests.contracts.zoo import ZOO
from tests.distill.test_sandwich import batch, shaken, taken

Make = Callable[..., AdaptiveViT]


def test_features_are_compared_token_by_token_by_hand() -> None:
    draws = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 5, 6, generator=draws), torch.randn(2, 2, 6, generator=draws)
    place = torch.tensor([[0, 3], [1, 4]])
    total = 0.0
    for image in range(2):
        for row in range(2):
            theirs = teacher[image, place[image, row]]
            ours = student[image, row]
            unit = [(v - v.mean()) / (v.var(correction=0) + 1e-5).sqrt() for v in (ours, theirs)]
            total += (unit[0] - unit[1]).square().mean().item()
    assert feature_loss(Placed(student, place), Placed(teacher)).item() == pytest.approx(total / 4, rel=1e-5)
    # A teacher that itself holds some of the tokens: its rows are found by their places.
    own = torch.tensor([[0, 1, 3], [1, 2, 4]])
    some = torch.stack([teacher[i, own[i]] for i in range(2)])
    assert feature_loss(Placed(student, place), Placed(some, own)).item() == pytest.approx(total / 4, rel=1e-5)


def test_attention_is_compared_with_the_softmax_over_the_tokens_that_are_left() -> None:
    draws = torch.Generator().manual_seed(1)
    scores = torch.randn(2, 3, 6, 6, generator=draws)
    student = torch.randn(2, 3, 4, 4, generator=draws).softmax(-1)
    place = torch.tensor([[0, 1, 3, 5], [0, 2, 3, 4]])
    left = torch.stack([scores[i][:, place[i]][:, :, place[i]] for i in range(2)])
    expected = F.kl_div(student.log(), left.softmax(-1), reduction="sum") / (2 * 3 * 4)
    ours = attention_loss(Placed(student, place), Placed(scores.softmax(-1)))
    torch.testing.assert_close(ours, expected)
    assert attention_loss(Placed(scores.softmax(-1)), Placed(scores.softmax(-1))).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("what", ["features", "maps"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_terms_reach_the_gradients_as_the_whole_expression(make_model: Make, what: str, reduction: str) -> None:
    model = shaken(make_model())
    model.reduction = reduction
    images, labels = batch()
    sub = TokenSchedule((17, 12, 9, 7, 5, 4))
    rule = SandwichRule(**{what: (1, 4)}, feature_weight=2.0, attention_weight=3.0, chunk=2)  # type: ignore[arg-type]
    step = sandwich_step(model, images, labels, [sub], rule=rule)
    ours = taken(model)
    term = step.inside["features" if what == "features" else "attention"]
    assert term > 0
    plain = sandwich_step(model, images, labels, [sub])
    without = taken(model)
    weight = 2.0 if what == "features" else 3.0
    assert step.loss.item() == pytest.approx((plain.loss + weight * term / 2).item(), rel=1e-5)
    # What is added to the gradients is the term's own gradient, the full network's side of it left out.
    added = {name: (ours[name] - without[name]) * 2 / weight for name in ours}
    expected = _inside_gradients(model, images, sub, what)
    scale = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(added[name], gradient, rtol=1e-2, atol=1e-3 * scale)


def _inside_gradients(model: AdaptiveViT, images: Tensor, sub: TokenSchedule, what: str) -> dict[str, Tensor]:
    from tavt_kit.models.backbones.base import MapWatch

    def look(schedule: TokenSchedule) -> dict[int, Placed]:
        state, found = model.start(images, track=model.reduction == "merge"), {}
        for layer in range(model.layers):
            watch, entered = MapWatch(model.score), (state.place, state.owner)
            state = model.advance(state, [layer], schedule.counts, watch=watch)
            left = Placed(state.tokens, state.place, state.owner)
            found[layer] = left if what == "features" else Placed(watch.taken(layer), *entered)
        return found

    theirs, ours = look(model.dense_schedule), look(sub)
    compare = feature_loss if what == "features" else attention_loss
    (sum(compare(ours[layer], theirs[layer]) for layer in (1, 4)) / 2).backward()  # type: ignore[union-attr]
    return taken(model)


def test_a_merged_token_is_compared_with_the_mean_of_those_that_went_into_it() -> None:
    draws = torch.Generator().manual_seed(2)
    teacher = torch.randn(1, 5, 6, generator=draws)
    owner = torch.tensor([[0, 1, 0, 1, 2]])
    means = torch.stack([teacher[0, [0, 2]].mean(0), teacher[0, [1, 3]].mean(0), teacher[0, 4]])[None]
    assert feature_loss(Placed(means, None, owner), Placed(teacher)).item() == pytest.approx(0, abs=1e-6)
    assert feature_loss(Placed(teacher[:, [0, 1, 4]], None, owner), Placed(teacher)).item() > 0.1
    rows = torch.rand(1, 2, 5, 5, generator=draws).softmax(-1)
    groups = ([0, 2], [1, 3], [4])
    added = torch.stack([rows[..., columns].sum(-1) for columns in groups], dim=-1)
    ours = torch.stack([added[:, :, group].mean(2) for group in groups], dim=2)
    assert attention_loss(Placed(ours, None, owner), Placed(rows)).item() == pytest.approx(0, abs=1e-6)
    assert attention_loss(Placed(ours.flip(3), None, owner), Placed(rows)).item() > 0.001
    with pytest.raises(UnsupportedBackbone, match="keeps all of its tokens"):
        feature_loss(Placed(means, None, owner), Placed(teacher, owner[:, :5]))


def test_nothing_is_added_without_sub_networks_and_skipped_layers_are_left_out(make_model: Make) -> None:
    model = shaken(make_model())
    images, labels = batch()
    rule = SandwichRule(features=(4,), maps=(4,))
    assert not sandwich_step(model, images, labels, [], rule=rule).inside
    without = TokenSchedule((12, 9, 7, 5, 5, 4), executed=(0, 1, 2, 3, 5))
    assert not sandwich_step(model, images, labels, [without], rule=rule).inside


def test_models_that_show_no_map_are_refused() -> None:
    model = wrap(ZOO["transfg"]())
    sub = TokenSchedule.taper(model.layout, 0.3)
    with pytest.raises(UnsupportedBackbone, match="feature.weight"):
        sandwich_step(model, torch.zeros(2, 3, 64, 64), torch.tensor([0, 1]), [sub], rule=SandwichRule(maps=(1,)))


@pytest.mark.parametrize("wrong", [{"feature_weight": -1.0}, {"attention_weight": float("inf")}, {"chunk": 0},
                                   {"teacher_weight": 1.5}])  # fmt: skip
def test_weights_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(TrainingError):
        SandwichRule(**wrong)  # type: ignore[arg-type]
