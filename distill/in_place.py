"""In-place distillation with patch drop: one network becomes good at every token schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tavt_kit.checkpoints.weight_file import sha256_tensors
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import ImageSet, inherit_split
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill.bound import Bound
from tavt_kit.distill.common import (
    asked_of,
    card_of,
    check_batch,
    judge_of,
    loop_record,
    pictures_of,
    save_trained,
    settle,
)
from tavt_kit.distill.evaluate import Rung, climb
from tavt_kit.distill.feed import Batch
from tavt_kit.distill.image_sizes import check_sizes, draw_size, full_size_logits, resize_images, share_weights
from tavt_kit.distill.ladder import after_record, forget_before, keep_before, ladder_of, ladder_record
from tavt_kit.distill.loop import SAVE_SECONDS, Backward, Step, run_loop
from tavt_kit.distill.optimiser import freeze
from tavt_kit.distill.pictures import Pictures, read_pictures
from tavt_kit.distill.precision import evaluation_precision
from tavt_kit.distill.preset import distill_recipe
from tavt_kit.distill.processes import Processes
from tavt_kit.distill.reading import Reading
from tavt_kit.distill.recipe import DistillRecipe
from tavt_kit.distill.run_folder import RunFolder
from tavt_kit.distill.sampling import Sampler
from tavt_kit.distill.state import remove_state
from tavt_kit.distill.step import SandwichRule, sandwich_step
from tavt_kit.distill.teacher import Teacher
from tavt_kit.errors import TrainingError
from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["distill"]


def distill(
    model: AdaptiveViT,
    images: ImageSet,
    out: Path | str,
    recipe: DistillRecipe | None = None,
    *,
    teacher: AdaptiveViT | None = None,
    twins: Sequence[AdaptiveViT] = (),
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
        twins: The same model at the smaller sizes of ``recipe.image_sizes``, from ``load_model(run, image_size=...)``:
            each step draws the size at which the sandwich is trained. Their weights become the model's own, and at a
            smaller size every network learns from what the dense model says of the image at full size.
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
    processes = Processes.join(device)
    progress = progress if progress is not None and processes.first else Silent()
    model.check_droppable()
    card = card_of(model, images)
    model.to(processes.device)
    check_sizes(model, twins)
    asks = None if teacher is None else Teacher(teacher.to(processes.device), card)
    recipe = _settled(recipe or distill_recipe(), model, images, processes)
    for twin in twins:
        share_weights(model, twin)
        twin.to(processes.device)
    step, trained = _prepare(model, recipe, asks, twins)
    taught_by = None if teacher is None else sha256_tensors(teacher.state_dict(), shapes=False)
    known = {**recipe.as_record(), "teacher_sha256": taught_by}
    run = RunFolder(Path(out), "distill", asked_of(model, card, images, known), fresh=fresh, processes=processes)
    processes.once(lambda: inherit_split(run.folder, images).sha256)
    if run.done:
        return run.body
    train, val = pictures_of(
        images, card, recipe.reading, limit=recipe.limit, allow_unreadable=allow_unreadable, progress=progress
    )
    settings = recipe.optimisation
    precision = evaluation_precision(str(recipe.running.precision))
    rungs = ladder_of(model)

    smaller = [(twin, _read_val(images, card, recipe, twin, allow_unreadable, progress)) for twin in twins]

    def ladder(what: str) -> tuple[Rung, ...]:
        def all_sizes() -> tuple[Rung, ...]:
            found = climb(model, val, "val", rungs, precision=precision, progress=progress, what=what)
            for twin, pictures in smaller:
                name = f"dense at {twin.backbone.image_size[1]} px"
                found += climb(twin, pictures, "val", {name: twin.dense_schedule}, precision=precision)
            return found

        return processes.once(all_sizes)

    if "before" not in run.results:
        before = ladder("ladder before")
        if processes.first:
            keep_before(run.folder, before)
        run.note(
            trained_parameters=trained,
            pictures={"train": len(train), "val": len(val), "skipped": val.skipped},
            before=ladder_record(before),
        )
    loop = run_loop(
        model, train, step, settings, recipe.running, run.folder,
        seed=recipe.seed, progress=progress, what="distill", processes=processes, save_seconds=save_seconds,
        judge=judge_of(recipe.running, val, images.classes, tuple(rungs.values())),
    )  # fmt: skip
    after = ladder("ladder after")
    if processes.first:
        how = f"distilled in place ({_drawn(recipe)}, {loop.steps} steps)"
        sizes = tuple(twin.backbone.image_size[1] for twin in twins)
        save_trained(run.folder, model, replace(card, image_sizes=sizes), images, how)
    run.finish(
        after=processes.once(lambda: after_record(run.folder, after)),
        val=after[0].accuracy.as_record(),
        precision=str(recipe.running.precision),
        loop=loop_record(loop, settings.batch),
    )
    if processes.first:
        forget_before(run.folder)
        remove_state(run.folder)
    return run.body


def _drawn(recipe: DistillRecipe) -> str:
    return f"{len(recipe.schedules)} schedules" if recipe.schedules else f"bound {Bound.parse(recipe.bound)}"


def _settled(recipe: DistillRecipe, model: AdaptiveViT, images: ImageSet, processes: Processes) -> DistillRecipe:
    check_batch(images, recipe.optimisation.batch, recipe.limit, recipe.reading)
    frozen = model.layers // 4 if recipe.optimisation.freeze is None else recipe.optimisation.freeze
    recipe = replace(
        recipe,
        feature_layers=_looked_at(model, recipe.feature_layers, recipe.feature_weight),
        attention_layers=_looked_at(model, recipe.attention_layers, recipe.attention_weight),
    )
    return settle(recipe, card_of(model, images), images, processes, freeze=frozen)


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


def _read_val(
    images: ImageSet,
    card: ModelCard,
    recipe: DistillRecipe,
    twin: AdaptiveViT,
    allow_unreadable: int,
    progress: Progress | None,
) -> Pictures:
    """``val`` as a model of another size sees it."""
    preprocessing = Preprocessing.from_record(card.preprocessing).at(twin.backbone.image_size)
    reading = Reading(cache=recipe.reading.cache)
    return read_pictures(
        images.split("val"),
        preprocessing,
        reading,
        limit=recipe.limit,
        allow_unreadable=allow_unreadable,
        progress=progress,
    )


def _prepare(
    model: AdaptiveViT, recipe: DistillRecipe, teacher: Teacher | None = None, twins: Sequence[AdaptiveViT] = ()
) -> tuple[Step, int]:
    """The step that the loop repeats, and how many parameters it trains; recipe and model are checked by it."""
    trained = freeze(model, recipe.optimisation.freeze or 0)
    rule = SandwichRule(
        recipe.kl, recipe.temperature, chunk=recipe.chunk,
        features=recipe.feature_layers, feature_weight=recipe.feature_weight,
        maps=recipe.attention_layers, attention_weight=recipe.attention_weight, teacher_weight=recipe.teacher_weight,
    )  # fmt: skip
    samplers = {id(each): _sampler(each, recipe) for each in (model, *twins)}
    last = max(1, recipe.optimisation.steps - 1)

    def step(batch: Batch, draws: np.random.Generator, backward: Backward) -> Mapping[str, Tensor]:
        twin = draw_size(twins, draws)
        full, subs = samplers[id(twin or model)].draw(draws, (batch.number - 1) / last)
        labels = batch.labels if batch.soft is None else batch.soft
        if twin is None:
            done = sandwich_step(
                model, batch.images, labels, subs, full=full, rule=rule, teacher=teacher, backward=backward
            )
        else:
            targets = full_size_logits(model, batch.images, len(batch.images) if rule.chunk is None else rule.chunk)
            small = resize_images(batch.images, twin.train(model.training))
            done = sandwich_step(twin, small, labels, subs, full=full, rule=rule, targets=targets, backward=backward)
        named = {"loss": done.loss, **done.full, "kl_smallest": done.divergences[0], **done.inside}
        others = done.divergences[1:]
        return {**named, "kl_random": sum(others[1:], others[0]) / len(others)} if others else named

    return step, trained


def _sampler(model: AdaptiveViT, recipe: DistillRecipe) -> Sampler:
    return Sampler(
        model.layout,
        bound=Bound.parse(recipe.bound),
        random=recipe.sub_networks,
        layer_dropout=recipe.layer_dropout,
        sampling=recipe.sampling,
        schedules=tuple(TokenSchedule.parse(text, model.layout) for text in recipe.schedules),
    )
