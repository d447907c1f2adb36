from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch

from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import ScheduleError, UnknownName, UnsupportedBackbone
from tavt_kit.models.wrap import LeanViT, wrap
from tests.contracts.zoo import build, images

DROPPING = TokenSchedule((17, 12, 8, 8))


def test_wrapping_twice_or_with_unknown_words_is_refused() -> None:
    model = build("plain")
    with pytest.raises(UnsupportedBackbone, match="wrapped already"):
        wrap(wrap(model))
    with pytest.raises(UnknownName, match="score must be one of column, cls"):
        wrap(model, score="random")
    with pytest.raises(UnknownName, match="pool"):
        wrap(model, pool="all")


def test_a_schedule_of_another_model_is_refused() -> None:
    adaptive = wrap(build("plain"))
    for counts in ((17, 17), (18, 17, 17, 17)):
        with pytest.raises(ScheduleError):
            adaptive.schedule = TokenSchedule(counts)
    assert adaptive.schedule == adaptive.dense_schedule


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ScheduleError, match=r"images of \(64, 64\), but these are \(32, 32\)"):
        wrap(build("plain"))(torch.zeros(1, 3, 32, 32))


@torch.no_grad()
def test_state_dict_loads_into_the_wrap_and_reaches_the_model() -> None:
    adaptive, other = wrap(build("plain", seed=0)), build("plain", seed=1)
    adaptive.load_state_dict(other.state_dict())
    x = images(other)
    assert torch.equal(adaptive.bare(x), other(x))


@torch.no_grad()
def test_conversion_training_flag_and_copies_reach_the_model() -> None:
    adaptive = wrap(build("plain")).double()
    assert next(adaptive.bare.parameters()).dtype == torch.float64
    assert adaptive.train().bare.training and not adaptive.eval().bare.training
    twin = copy.deepcopy(adaptive)
    assert twin.bare is not adaptive.bare and twin.bare.head is twin.head
    twin.head.weight.zero_()  # type: ignore[union-attr, operator]
    assert adaptive.head.weight.abs().sum() > 0  # type: ignore[union-attr, operator]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["plain", "rope", "ffvt", "vitae", "pim"])
def test_a_wrap_survives_pickling_with_its_options(kind: str) -> None:
    adaptive = wrap(build(kind), score="cls" if kind == "plain" else "column", pool="restored")
    adaptive.schedule = "taper:0.2"
    adaptive.card = ModelCard("timm_vit", kind, {}, ("a", "b"), {}, adaptive.score, adaptive.pool)
    adaptive.folder = run = Path("runs/birds")
    again = pickle.loads(pickle.dumps(adaptive))
    for one in (again, copy.deepcopy(adaptive), adaptive.again()):
        assert (one.score, one.pool, one.card, one.folder) == (adaptive.score, "restored", adaptive.card, run)
        assert one.layout == adaptive.layout and one.state_dict().keys() == adaptive.bare.state_dict().keys()
    assert again.schedule == adaptive.schedule
    x = images(adaptive.bare)
    assert torch.equal(again(x), adaptive(x))
    assert again.bare.state_dict().keys() == again.state_dict().keys()


def test_a_schedule_may_be_a_text_and_a_repr_is_a_line() -> None:
    adaptive = wrap(build("plain"))
    adaptive.schedule = "stages:0.5"
    assert adaptive.schedule == TokenSchedule.stages(TokenLayout(17, 4), 0.5)
    assert repr(adaptive) == (
        f"<AdaptiveViT of VisionTransformer: 17 tokens, 4 layers, schedule {adaptive.schedule}, score 'column', "
        "reduction 'drop'>"
    )
    with pytest.raises(ScheduleError, match="taper needs a ratio"):
        adaptive.schedule = "taper:x"


@torch.no_grad()
def test_a_state_can_be_kept_and_continued() -> None:
    adaptive = wrap(build("plain"))
    adaptive.schedule = DROPPING
    x = images(adaptive.bare)
    shared = adaptive.advance(adaptive.start(x), range(2), DROPPING.counts)
    before = shared.tokens.clone()
    logits = adaptive.finish(adaptive.advance(shared, range(2, 4), DROPPING.counts))
    assert torch.equal(logits, adaptive(x))
    assert torch.equal(shared.tokens, before)


@torch.no_grad()
def test_lean_module_freezes_its_schedule() -> None:
    adaptive = wrap(build("plain"))
    lean = LeanViT(adaptive, DROPPING)
    x = images(adaptive.bare)
    adaptive.schedule = DROPPING
    expected = adaptive(x)
    adaptive.schedule = adaptive.dense_schedule
    torch.testing.assert_close(lean(x), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_counts_may_be_a_tensor() -> None:
    adaptive = wrap(build("plain"))
    adaptive.schedule = DROPPING
    x = images(adaptive.bare)
    state = adaptive.advance(adaptive.start(x), range(4), torch.tensor(DROPPING.counts))
    torch.testing.assert_close(adaptive.finish(state), adaptive(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["siglip", "no_class_token", "dinov3"])
@torch.no_grad()
def test_restored_pooling_sees_every_token(kind: str) -> None:
    adaptive = wrap(build(kind), pool="restored")
    schedule = TokenSchedule.taper(adaptive.layout, 0.3)
    adaptive.schedule = schedule
    x = images(adaptive.bare)
    state = adaptive.advance(adaptive.start(x, track=True), range(4), schedule.counts)
    logits, last = adaptive.finish(state), state.last
    assert last is not None and last.shape[1] == adaptive.tokens
    expected = adaptive.bare.forward_head(adaptive.bare.norm(last))  # type: ignore[operator]
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(adaptive(x), expected)
    torch.testing.assert_close(adaptive.forward_lean(x), expected, atol=1e-5, rtol=1e-5)
    adaptive.pool = "kept"
    assert (adaptive(x) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_a_dropped_token_keeps_its_last_whole_layer() -> None:
    adaptive = wrap(build("plain"))
    adaptive.schedule = TokenSchedule((17, 10, 10, 10))
    x = images(adaptive.bare, batch=1)
    _, kept = adaptive.forward_kept(x)
    last = adaptive.advance(adaptive.start(x, track=True), range(4), adaptive.schedule.counts).last
    after_first = adaptive.advance(adaptive.start(x), [0], (17,) * 4).tokens
    assert last is not None
    dropped = sorted(set(range(17)) - set(kept[1][0].tolist()))
    assert torch.equal(last[0, dropped], after_first[0, dropped])
