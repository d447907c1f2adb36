"""In-place distillation with patch drop: one network becomes good at every token schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tavt_kit.adaptive import AdaptiveViT
from tavt_kit.data import ImageSet, inherit_split
from tavt_kit.distill.common import asked_of, card_of, check_batch, loop_record, pictures_of, save_trained, settle
from tavt_kit.distill.evaluate import climb
from tavt_kit.distill.ladder import after_record, forget_before, keep_before, ladder_record
from tavt_kit.distill.loop import SAVE_SECONDS, Step, run_loop
from tavt_kit.distill.optimiser import freeze
from tavt_kit.distill.precision import choose_device
from tavt_kit.distill.progress import Progress, Silent
from tavt_kit.distill.recipe import DistillRecipe, distill_recipe
from tavt_kit.distill.run_folder import RunFolder
from tavt_kit.distill.sampling import Sampler
from tavt_kit.distill.state import remove_state
from tavt_kit.distill.step import SandwichRule, sandwich_step

__all__ = ["distill"]


def distill(
    model: AdaptiveViT,
    images: ImageSet,
    out: Path | str,
    recipe: DistillRecipe | None = None,
    *,
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
    recipe = _settled(recipe or distill_recipe(), model, images)
    step, trained = _prepare(model, recipe)
    run = RunFolder(Path(out), "distill", asked_of(model, card, images, recipe.as_record()), fresh=fresh)
    inherit_split(run.folder, images)
    if run.done:
        return run.body
    train, val = pictures_of(images, card, limit=recipe.limit, allow_unreadable=allow_unreadable)
    settings = recipe.optimisation
    precision = str(settings.precision)
    if "before" not in run.results:
        before = climb(model, val, "val", precision=precision, progress=progress, what="ladder before")
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
    after = climb(model, val, "val", precision=precision, progress=progress, what="ladder after")
    save_trained(
        run.folder, model, card, images, f"distilled in place (bound {recipe.bound:g}, {settings.steps} steps)"
    )
    run.finish(
        after=after_record(run.folder, after),
        val=after[0].accuracy.as_record(),
        precision=precision,
        loop=loop_record(loop, settings.batch),
    )
    forget_before(run.folder)
    remove_state(run.folder)
    return run.body


def _settled(recipe: DistillRecipe, model: AdaptiveViT, images: ImageSet) -> DistillRecipe:
    check_batch(images, recipe.optimisation.batch, recipe.limit)
    frozen = model.layers // 4 if recipe.optimisation.freeze is None else recipe.optimisation.freeze
    return replace(recipe, optimisation=settle(recipe.optimisation, model, card_of(model, images), freeze=frozen))


def _prepare(model: AdaptiveViT, recipe: DistillRecipe) -> tuple[Step, int]:
    """The step that the loop repeats, and how many parameters it trains; recipe and model are checked by it."""
    frozen = recipe.optimisation.freeze or 0
    trained = freeze(model, frozen)
    rule = SandwichRule(kl=recipe.kl, temperature=recipe.temperature)
    sampler = Sampler(
        model.tokens, model.layers, model.prefix,
        bound=recipe.bound, random=recipe.sub_networks, layer_dropout=recipe.layer_dropout,
    )  # fmt: skip

    def step(images: Tensor, labels: Tensor, draws: np.random.Generator) -> Mapping[str, Tensor]:
        full, subs = sampler.draw(draws)
        done = sandwich_step(model, images, labels, subs, full=full, rule=rule)
        named = {"loss": done.loss, "cross_entropy": done.cross_entropy, "kl_smallest": done.divergences[0]}
        others = done.divergences[1:]
        return {**named, "kl_random": sum(others[1:], others[0]) / len(others)} if others else named

    return step, trained
