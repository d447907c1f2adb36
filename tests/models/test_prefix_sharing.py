"""The tree gives every schedule the logits that it has alone, for every family."""

from __future__ import annotations

import pytest
import torch

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.models.prefix_sharing import shared_logits
from tavt_kit.models.wrap import AdaptiveViT, wrap
from tests.contracts.zoo import ZOO, build, images
from tests.parameters import few

FEW = ("plain", "registers_avg", "beit", "rope", "parallel_scaling", "ffvt", "transfg", "vitae_class_token", "pim")


def forking(model: AdaptiveViT) -> list[TokenSchedule]:
    """Forks in every layer, two that only differ in the last one, dense, and one twice."""
    patches = model.tokens - model.prefix

    def schedule(*shares: float) -> TokenSchedule:
        return TokenSchedule(tuple(model.prefix + max(1, round(patches * share)) for share in shares))

    shapes = [
        (0.8, 0.8, 0.5, 0.5),
        (0.8, 0.8, 0.5, 0.3),
        (0.8, 0.6, 0.6, 0.2),
        (1, 0.6, 0.6, 0.2),
        (0.4, 0.3, 0.3, 0.3),
    ]
    found = [schedule(*shape) for shape in shapes]
    return [*found, model.dense_schedule, found[0]]


def alone(model: AdaptiveViT, images: torch.Tensor, schedule: TokenSchedule) -> torch.Tensor:
    model.schedule = schedule
    logits = model.forward_lean(images)
    model.schedule = model.dense_schedule
    return logits


def check(model: AdaptiveViT, schedules: list[TokenSchedule]) -> None:
    pixels = images(model.bare)
    with torch.inference_mode():
        found = list(shared_logits(model, pixels, schedules))
        assert sorted(map(str, schedules)) == sorted(str(schedule) for schedule, _ in found)
        expected = {schedule: alone(model, pixels, schedule) for schedule in schedules}
    values = list(expected.values())
    apart = float((values[0] - values[-1]).abs().max())
    for schedule, logits in found:
        scale = float(expected[schedule].abs().max())
        torch.testing.assert_close(logits, expected[schedule], rtol=0, atol=1e-5 * scale)
        assert torch.equal(logits.argmax(1), expected[schedule].argmax(1))
    assert apart > 1e-3 * float(values[0].abs().max())  # else a wrong fork would pass


@pytest.mark.parametrize("kind", few(ZOO, *FEW))
def test_every_family(kind: str) -> None:
    model = wrap(build(kind))
    check(model, forking(model))


def test_cls_scores() -> None:
    model = wrap(build("plain"), score="cls")
    check(model, forking(model))


@pytest.mark.parametrize("kind", ["registers_avg", "parallel_scaling"])
def test_restored_pooling(kind: str) -> None:
    bare = build(kind)
    if kind == "parallel_scaling":
        bare.global_pool, bare.fc_norm, bare.norm = "avg", bare.norm, torch.nn.Identity()
    model = wrap(bare, pool="restored")
    assert not model.layout.token_pooled
    check(model, forking(model))


def test_skipped_layers() -> None:
    model = wrap(build("plain"))
    shapes: tuple[tuple[tuple[int, ...], tuple[int, ...] | None], ...] = (
        ((15, 15, 9, 9), None),
        ((15, 15, 15, 9), (0, 1, 3)),
        ((15, 15, 15, 9), (0, 3)),
        ((15, 12, 12, 9), (0, 1, 3)),
        ((17, 12, 12, 12), (1, 2, 3)),
        ((17, 12, 12, 12), None),
    )
    check(model, [TokenSchedule(*shape) for shape in shapes])


@pytest.mark.parametrize("score", ["column", "cls"])
def test_bit_for_bit_with_one_thread(score: str) -> None:
    model = wrap(build("plain"), score=score)
    pixels, threads = images(model.bare), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for schedule, logits in shared_logits(model, pixels, forking(model)):
                assert torch.equal(logits, alone(model, pixels, schedule)), schedule
    finally:
        torch.set_num_threads(threads)


def test_one_schedule_alone_is_the_lean_path_itself() -> None:
    model = wrap(build("plain"))
    schedule = forking(model)[0]
    pixels = images(model.bare)
    with torch.inference_mode():
        ((_, logits),) = shared_logits(model, pixels, [schedule])
        assert torch.equal(logits, alone(model, pixels, schedule))


def test_what_is_shared_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = wrap(build("plain"))
    seen: list[tuple[int, int]] = []
    feed = model.backbone.feed
    monkeypatch.setattr(
        model.backbone, "feed", lambda layer, state: seen.append((layer, state.count)) or feed(layer, state)
    )
    schedules = [TokenSchedule((15, 9, 5, 5)), TokenSchedule((15, 9, 7, 5)), TokenSchedule((12, 9, 5, 5))]
    with torch.inference_mode():
        list(shared_logits(model, images(model.bare), schedules))
    assert seen == [(0, 15), (1, 9), (2, 7), (3, 1), (3, 1), (1, 9), (2, 5), (3, 1)]
