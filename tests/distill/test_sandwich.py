from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.distill.losses import divergence
from tavt_kit.distill.optimizer import freeze
from tavt_kit.distill.sampling import Sampler
from tavt_kit.distill.sandwich import SandwichRule, sandwich_step, training_attention
from tavt_kit.errors import ScheduleError, TrainingError, UnknownName
from tavt_kit.models.timm_import import timm
from tavt_kit.models.token_reduction import REDUCTIONS, TokenState
from tavt_kit.models.wrap import AdaptiveViT, wrap
from tests.parameters import few

Make = Callable[..., AdaptiveViT]


def shaken(model: AdaptiveViT) -> AdaptiveViT:
    """Weights at which token choice and every bias matter."""
    draws = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=draws))
    return model


def batch(size: int = 4, edge: int = 64) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(3)
    return torch.randn(size, 3, edge, edge, generator=draws), torch.arange(size) % 3


def taken(model: AdaptiveViT) -> dict[str, Tensor]:
    """The gradients, taken off the model."""
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def naive(
    model: AdaptiveViT, images: Tensor, labels: Tensor, subs: Sequence[TokenSchedule], rule: SandwichRule
) -> dict[str, Tensor]:
    """The whole step as one expression, differentiated at once, by the plain path."""
    model.schedule = model.dense_schedule
    teacher = model(images)
    total = F.cross_entropy(teacher, labels)
    for sub in subs:
        model.schedule = sub
        total = total + divergence(model(images), teacher, rule.kl, rule.temperature)
    model.schedule = model.dense_schedule
    torch.autograd.backward(total / (len(subs) + 1))
    return taken(model)


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], **tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, **(tolerance or {"atol": 2e-5, "rtol": 2e-4}))


@pytest.mark.parametrize(
    "rule", [SandwichRule(), SandwichRule(kl="forward", temperature=2.0), SandwichRule(lean=False)]
)
def test_gradients_are_those_of_the_whole_loss_and_reach_every_weight(make_model: Make, rule: SandwichRule) -> None:
    model = shaken(make_model())
    images, labels = batch()
    _, subs = Sampler(model.layout, bound=0.4).draw(np.random.default_rng(0))
    before = model.schedule
    step = sandwich_step(model, images, labels, subs, rule=rule)
    ours = taken(model)
    assert_same(ours, naive(model, images, labels, subs, rule))
    assert ours.keys() == dict(model.named_parameters()).keys()
    assert all(gradient.abs().max() > 0 for gradient in ours.values())
    assert model.schedule == before
    assert len(step.logits) == 4 and len(step.divergences) == 3
    assert step.loss.item() == pytest.approx(
        ((step.full["cross_entropy"] + sum(step.divergences)) / 4).item(), rel=1e-5
    )
    assert not any(value.requires_grad for value in (*step.logits, step.loss, step.full["cross_entropy"]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_small_patch14_reg4_dinov2", {"img_size": 56, "embed_dim": 48, "num_heads": 3, "depth": 4}),
        ("vit_tiny_patch16_224", {"img_size": 64, "embed_dim": 48, "depth": 4, "global_pool": "avg"}),
        ("eva02_tiny_patch14_224", {"img_size": 56, "embed_dim": 48, "depth": 4}),
        ("deit_tiny_distilled_patch16_224", {"img_size": 64, "embed_dim": 48, "depth": 4}),
    ],
)
@pytest.mark.parametrize("pool", few(["kept", "restored"], "kept"))
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_other_kinds_of_vit(name: str, options: dict[str, object], pool: str, reduction: str) -> None:
    torch.manual_seed(0)
    model = shaken(wrap(timm.create_model(name, num_classes=3, **options), pool=pool, reduction=reduction))
    images, labels = batch(3, int(str(options["img_size"])))
    _, subs = Sampler(model.layout, bound=0.3).draw(np.random.default_rng(1))
    for frozen in (0, 2):
        freeze(model, frozen)
        rule = SandwichRule()
        sandwich_step(model, images, labels, subs, rule=rule)
        assert_same(taken(model), naive(model, images, labels, subs, rule), atol=5e-5, rtol=1e-3)


def counted(model: AdaptiveViT) -> list[tuple[int, bool]]:
    """A list that fills with (layer, whether a graph was recorded) of every attention half that runs on all rows."""
    calls: list[tuple[int, bool]] = []
    attend = model.backbone.attend

    def counting(layer: int, *rest: object) -> TokenState:
        state = attend(layer, *rest)  # type: ignore[arg-type]
        calls.append((layer, state.tokens.requires_grad))
        return state

    model.backbone.attend = counting  # type: ignore[method-assign, assignment]
    return calls


def test_what_networks_share_runs_once_and_frozen_layers_without_a_graph(make_model: Make) -> None:
    model = shaken(make_model())
    freeze(model, 2)
    images, labels = batch()
    late = [TokenSchedule((17, 17, 17, 9, 6, 4)), TokenSchedule((17, 17, 15, 12, 9, 9))]
    calls = counted(model)
    sandwich_step(model, images, labels, late)
    ours = taken(model)
    # Layer 2 parts one sub-network from the others, layer 3 the other one from the full network.
    assert calls == [(0, False), (1, False), (2, True), (3, True), (4, True)]
    assert_same(ours, naive(model, images, labels, late, SandwichRule()))
    assert all(name.startswith(("blocks.2", "blocks.3", "blocks.4", "blocks.5", "norm", "head", "fc_norm"))
               for name in ours)  # fmt: skip


def test_networks_that_skip_layers_share_what_they_have_in_common(make_model: Make) -> None:
    model = shaken(make_model())
    images, labels = batch()
    full = TokenSchedule((17,) * 6, executed=(1, 2, 4, 5))
    subs = [
        TokenSchedule((17, 12, 12, 12, 9, 9), executed=(1, 2, 4, 5)),
        TokenSchedule((15, 12, 9, 9, 9, 9), executed=(0, 1, 2)),
        TokenSchedule((17,) * 6, executed=()),
        TokenSchedule((17,) * 6, executed=()),
    ]
    step = sandwich_step(model, images, labels, subs, full=full)
    ours = taken(model)
    model.schedule = full
    teacher = model(images)
    total = F.cross_entropy(teacher, labels)
    for sub, logits in zip(subs, step.logits[1:], strict=True):
        model.schedule = sub
        student = model(images)
        torch.testing.assert_close(logits, student.detach(), atol=1e-5, rtol=1e-5)
        total = total + divergence(student, teacher)
    (total / 5).backward()  # type: ignore[no-untyped-call]
    assert_same(ours, taken(model))


@pytest.mark.parametrize("chunk", [1, 3, 4])
def test_a_batch_taken_in_parts_gives_the_same(make_model: Make, chunk: int) -> None:
    model = shaken(make_model())
    images, labels = batch()
    subs = [TokenSchedule.taper(model.layout, ratio) for ratio in (0.4, 0.2)]
    whole = sandwich_step(model, images, labels, subs)
    expected = taken(model)
    parts = sandwich_step(model, images, labels, subs, rule=SandwichRule(chunk=chunk))
    assert_same(taken(model), expected)
    assert parts.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)
    assert parts.full["cross_entropy"].item() == pytest.approx(whole.full["cross_entropy"].item(), rel=1e-6)
    torch.testing.assert_close(parts.divergences, whole.divergences)
    torch.testing.assert_close(parts.logits, whole.logits)


def test_accumulated_micro_batches_are_their_mean(make_model: Make) -> None:
    model = shaken(make_model())
    images, labels = batch(4)
    subs = [TokenSchedule.taper(model.layout, 0.3)]
    halves = [(images[:2], labels[:2]), (images[2:], labels[2:])]
    for part in halves:
        sandwich_step(model, *part, subs, rule=SandwichRule(accumulation=2))
    ours = taken(model)
    sandwich_step(model, images, labels, subs)
    assert_same(ours, taken(model))
    # The official code does not divide the full network's term.
    for part in halves:
        sandwich_step(model, *part, (), rule=SandwichRule(accumulation=2, divide_full=False))
    official = taken(model)
    sandwich_step(model, images, labels, ())
    assert_same({name: gradient / 2 for name, gradient in official.items()}, taken(model))


def test_layer_dropout_thins_the_full_network_too(make_model: Make) -> None:
    model = shaken(make_model())
    images, labels = batch()
    full = TokenSchedule((17,) * 6, executed=(0, 2, 5))
    step = sandwich_step(model, images, labels, (), full=full)
    taken(model)
    model.schedule = full
    torch.testing.assert_close(step.logits[0], model(images).detach(), atol=1e-5, rtol=1e-5)


def test_one_autocast_context_for_all_passes_changes_nothing(make_model: Make) -> None:
    """Each weight is then converted once; and few tokens are attended to by the plain formula."""
    model = shaken(make_model())
    images, labels = batch()
    subs = [TokenSchedule.taper(model.layout, 0.3)]

    def backward_outside(loss: Tensor) -> None:
        with torch.autocast("cpu", enabled=False):
            torch.autograd.backward(loss)

    with torch.autocast("cpu", torch.bfloat16):
        sandwich_step(model, images, labels, subs)
    together = taken(model)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        sandwich_step(model, images, labels, subs, backward=backward_outside)
    apart = taken(model)
    for name, gradient in together.items():
        assert torch.equal(gradient, apart[name]), name
    with torch.autocast("cpu", torch.bfloat16), training_attention(17, torch.device("cpu"), torch.bfloat16):
        sandwich_step(model, images, labels, subs)
    norm = sum(gradient.square().sum() for gradient in together.values()) ** 0.5
    difference = sum((g - together[name]).square().sum() for name, g in taken(model).items()) ** 0.5
    assert difference < 0.05 * norm  # bfloat16 rounds at 0.4 %


@pytest.mark.slow
def test_training_lifts_the_dropped_networks(make_model: Make) -> None:
    model = shaken(make_model())
    images, labels = batch(8)
    sampler = Sampler(model.layout, bound=0.5, random=1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for number in range(25):
        full, subs = sampler.draw(np.random.default_rng(number))
        step = sandwich_step(model, images, labels, subs, full=full)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        history.append((step.full["cross_entropy"].item(), step.divergences[0].item()))
    ce, kl = np.array(history).T
    assert ce[-1] < 0.2 * ce[0]
    assert kl[-1] < 0.5 * kl.max()


def test_what_cannot_be_is_refused(make_model: Make) -> None:
    with pytest.raises(UnknownName):
        SandwichRule(kl="both")
    for wrong in ({"temperature": 0.0}, {"accumulation": 0}):
        with pytest.raises(TrainingError):
            SandwichRule(**wrong)  # type: ignore[arg-type]
    images, labels = batch()
    with pytest.raises(ScheduleError):
        sandwich_step(make_model(), images, labels, [TokenSchedule((17, 9))])
