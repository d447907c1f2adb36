"""In-place distillation with patch drop: one network becomes good at every token schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tavt_kit.adaptive import AdaptiveViT
from tavt_kit.data import ImageSet, inherit_split
from tavt_kit.distill.common import (
    asked_of,
    card_of,
    check_batch,
    loop_record,
    pictures_of,
    save_trained,
    settle,
    start_hash,
)
from tavt_kit.distill.evaluate import climb
from tavt_kit.distill.ladder import after_record, forget_before, keep_before, ladder_of, ladder_record
from tavt_kit.distill.loop import SAVE_SECONDS, Step, run_loop
from tavt_kit.distill.optimiser import freeze
from tavt_kit.distill.precision import choose_device
from tavt_kit.distill.progress import Progress, Silent
from tavt_kit.distill.recipe import DistillRecipe, distill_recipe
from tavt_kit.distill.run_folder import RunFolder
from tavt_kit.distill.sampling import Bound, Sampler
from tavt_kit.distill.state import remove_state
from tavt_kit.distill.step import SandwichRule, sandwich_step
from tavt_kit.distill.teacher import Teacher
from tavt_kit.errors import TrainingError
from tavt_kit.schedule import TokenSchedule

__all__ = ["distill"]


def distill(
    model: AdaptiveViT,
    images: ImageSet,
    out: Path | str,
    recipe: DistillRecipe | None = None,
    *,
    teacher: AdaptiveViT | None = None,
    device: str | None = None,
    fresh: bool = False,
    allow_unreadable: int = 0,
    progress: Progress | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> dict[str, Any]:
    """Teach a fine-tuned model to work with dropped patches, by the sandwich rule; nothing is selected but the end.

    Writes a run folder, and continues one that was interrupted. Accuracy of a fixed ladder of schedules on ``val`` is
    recorded before and after.

    Args:
        model: From ``load_model``; trained in place.
        images: With the split the model was trained on (``read_split``).
        out: The run folder.
        recipe: ``distill_recipe()`` by default.
        teacher: Another trained model of the same classes, from ``load_model``, that the full network learns from
            beside the labels; its images may be of another size.
        device: ``"cpu"``, ``"cuda:0"``; ``None`` takes a GPU if there is one.
        fresh: Start again whatever ``out`` holds.
        allow_unreadable: Pictures of ``val`` that may be skipped.
        progress: Watches.
        save_seconds: Time between two saved states.

    Returns:
        The run's record, as in ``run.json``.

    Raises:
        TavtError: As the parts: data, recipe, output, divergence.
        KeyboardInterrupt: The state was saved; the same call continues it.

    Example:
        >>> model, images = load_model("runs/probe"), read_split("runs/probe")  # doctest: +SKIP
        >>> distill(model, images, "runs/distilled", distill_recipe(bound=0.4))["results"]["after"]  # doctest: +SKIP
    """
    progress = progress or Silent()
    model.check_droppable()
    card = card_of(model, images)
    model.to(choose_device(device))
    asks = None if teacher is None else Teacher(teacher.to(choose_device(device)), card)
    recipe = _settled(recipe or distill_recipe(), model, images)
    step, trained = _prepare(model, recipe, asks)
    known = {**recipe.as_record(), "teacher_sha256": None if teacher is None else start_hash(teacher)}
    run = RunFolder(Path(out), "distill", asked_of(model, card, images, known), fresh=fresh)
    inherit_split(run.folder, images)
    if run.done:
        return run.body
    train, val = pictures_of(images, card, limit=recipe.limit, allow_unreadable=allow_unreadable)
    settings = recipe.optimisation
    precision = str(settings.precision)
    ladder = ladder_of(model)
    if "before" not in run.results:
        before = climb(model, val, "val", ladder, precision=precision, progress=progress, what="ladder before")
        keep_before(run.folder, before)
        run.note(
            trained_parameters=trained,
            pictures={"train": len(train), "val": len(val), "skipped": val.skipped},
            before=ladder_record(before),
        )
    loop = run_loop(
        model, train, step, settings, run.folder,
        seed=recipe.seed, progress=progress, what="distill", save_seconds=save_seconds,
    )  # fmt: skip
    after = climb(model, val, "val", ladder, precision=precision, progress=progress, what="ladder after")
    save_trained(run.folder, model, card, images, f"distilled in place ({_drawn(recipe)}, {settings.steps} steps)")
    run.finish(
        after=after_record(run.folder, after),
        val=after[0].accuracy.as_record(),
        precision=precision,
        loop=loop_record(loop, settings.batch),
    )
    forget_before(run.folder)
    remove_state(run.folder)
    return run.body


def _drawn(recipe: DistillRecipe) -> str:
    return f"{len(recipe.schedules)} schedules" if recipe.schedules else f"bound {Bound.parse(recipe.bound)}"


def _settled(recipe: DistillRecipe, model: AdaptiveViT, images: ImageSet) -> DistillRecipe:
    check_batch(images, recipe.optimisation.batch, recipe.limit)
    frozen = model.layers // 4 if recipe.optimisation.freeze is None else recipe.optimisation.freeze
    return replace(
        recipe,
        feature_layers=_looked_at(model, recipe.feature_layers, recipe.feature_weight),
        attention_layers=_looked_at(model, recipe.attention_layers, recipe.attention_weight),
        optimisation=settle(recipe.optimisation, model, card_of(model, images), freeze=frozen),
    )


def _looked_at(model: AdaptiveViT, layers: tuple[int, ...], weight: float) -> tuple[int, ...]:
    """The layers whose inside is compared: of the last one only what the head reads goes on, so it is none of them."""
    if not weight:
        if layers:
            raise TrainingError(f"layers {_listed(layers)} are to be compared with weight 0; give their weight too")
        return ()
    wrong = [layer for layer in layers if not 0 <= layer < model.layers - 1]
    if wrong or model.layers < 2:
        raise TrainingError(
            f"inside the model layers 0 to {model.layers - 2} can be compared (counted from 0, without the last), got "
            f"{_listed(wrong)}"
        )
    return tuple(sorted(set(layers))) or (model.layers - 2,)


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))


def _prepare(model: AdaptiveViT, recipe: DistillRecipe, teacher: Teacher | None = None) -> tuple[Step, int]:
    """The step that the loop repeats, and how many parameters it trains; recipe and model are checked by it."""
    trained = freeze(model, recipe.optimisation.freeze or 0)
    rule = SandwichRule(
        recipe.kl, recipe.temperature, chunk=recipe.chunk,
        features=recipe.feature_layers, feature_weight=recipe.feature_weight,
        maps=recipe.attention_layers, attention_weight=recipe.attention_weight, teacher_weight=recipe.teacher_weight,
    )  # fmt: skip
    sizes = {"tokens": model.tokens, "layers": model.layers, "prefix": model.prefix}
    sampler = Sampler(
        **sizes,
        bound=Bound.parse(recipe.bound),
        random=recipe.sub_networks,
        layer_dropout=recipe.layer_dropout,
        sampling=recipe.sampling,
        schedules=tuple(TokenSchedule.parse(text, **sizes) for text in recipe.schedules),
    )
    last = max(1, recipe.optimisation.steps - 1)

    def step(images: Tensor, labels: Tensor, draws: np.random.Generator, number: int) -> Mapping[str, Tensor]:
        full, subs = sampler.draw(draws, (number - 1) / last)
        done = sandwich_step(model, images, labels, subs, full=full, rule=rule, teacher=teacher)
        named = {"loss": done.loss, **done.full, "kl_smallest": done.divergences[0], **done.inside}
        others = done.divergences[1:]
        return {**named, "kl_random": sum(others[1:], others[0]) / len(others)} if others else named

    return step, trained
