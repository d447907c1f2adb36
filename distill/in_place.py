"""In-place distillation with patch drop: one network becomes good at every token schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from tavt_kit.checkpoints.folder import sha256_tensors
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import ImageSet, inherit_split, thin_out
from tavt_kit.data.images import sha256_samples
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill import common
from tavt_kit.distill.datasets import Batch, ImageSplit
from tavt_kit.distill.losses import Backward, Step
from tavt_kit.distill.optimizer import freeze
from tavt_kit.distill.recipes import DistillRecipe, distill_recipe
from tavt_kit.distill.run_folder import RunFolder, begun_with, remove_state
from tavt_kit.distill.sampling import Draws, Sampler
from tavt_kit.distill.sandwich import SandwichRule, Teacher, sandwich_step
from tavt_kit.distill.trainer import SAVE_SECONDS, Trainer, choose_device, evaluation_precision
from tavt_kit.errors import TrainingError, UnsupportedBackbone
from tavt_kit.models.prefix_sharing import shared_logits
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT


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
    progress: Progress | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> dict[str, Any]:
    """Teach a fine-tuned model to work with dropped patches, by the sandwich rule, as ``tavt_kit.distill`` says.

    Accuracy of a fixed ladder of schedules on ``val`` is recorded before and after.

    Args:
        model: Trained in place.
        teacher: Another trained model of the same classes; its images may be of another size.
        twins: The same model at the smaller sizes of ``recipe.image_sizes``, from ``load_model(run, image_size=...)``:
            each step draws the size at which the sandwich is trained. Their weights become the model's own, and at a
            smaller size every network learns from what the dense model says of the image at full size.

    Returns:
        The run's record, as in ``run.json``.

    Raises:
        TavtError: As the parts: data, recipe, output, divergence.
        KeyboardInterrupt: The state was saved; the same call continues it.
    """
    chosen, progress = choose_device(device), progress or Silent()
    model.check_droppable()
    card = common.card_of(model, images)
    model.to(chosen)
    check_sizes(model, twins)
    asks = None if teacher is None else Teacher(teacher.to(chosen), card)
    begun = {} if fresh else begun_with(Path(out))
    recipe = recipe or distill_recipe()
    common.check_batch(images, recipe.optimisation.batch, recipe.limit, recipe.reading)
    frozen = model.layers // 4 if recipe.optimisation.freeze is None else recipe.optimisation.freeze
    recipe = common.settle(recipe, card, images, chosen, freeze=frozen, begun=begun)
    for twin in twins:
        share_weights(model, twin)
        twin.to(chosen)
    step, trained = _prepare(model, recipe, asks, twins)
    taught_by = None if teacher is None else sha256_tensors(teacher.state_dict(), shapes=False)
    asked = common.describe_run(model, card, images, {**recipe.as_record(), "teacher_sha256": taught_by})
    run = RunFolder(Path(out), "distill", asked, fresh=fresh)
    inherit_split(run.folder, images)
    if run.done:
        return run.body
    preprocessing = Preprocessing.from_record(card.preprocessing)

    def read_val(image_size: tuple[int, int]) -> ImageSplit:
        return common.open_split(images, "val", preprocessing.at(image_size), recipe)

    own = preprocessing.image_size  # a teacher of a larger size is shown as much
    read = preprocessing if teacher is None else preprocessing.at(max(own, teacher.backbone.image_size))
    train = common.open_split(images, "train", read, recipe, plain=False)
    val = read_val(own)
    smaller = [(twin, read_val(twin.backbone.image_size)) for twin in twins]
    settings = recipe.optimisation
    precision = evaluation_precision(str(recipe.running.precision))
    points = common.schedule_sweep(model)

    def ladder(what: str) -> tuple[common.SweepPoint, ...]:
        seen = common.evaluate_sweep(model, val, points, precision=precision, progress=progress, what=what)
        for twin, split in smaller:
            name = f"dense at {twin.backbone.image_size[1]} px"
            seen += common.evaluate_sweep(twin, split, {name: twin.dense_schedule}, precision=precision)
        return seen

    if "before" not in run.results:
        before = ladder("ladder before")
        common.keep_before(run.folder, before)
        run.note(
            trained_parameters=trained,
            pictures={"train": len(train), "val": len(val)},
            before=[point.as_record() for point in before],
        )
    loop = Trainer(
        model, train, step, settings, recipe.running, run.folder,
        seed=recipe.seed, progress=progress, what="distill", save_seconds=save_seconds,
        judge=common.judge_of(recipe.running, val, images.classes, tuple(points.values())),
    ).run()  # fmt: skip
    after = ladder("ladder after")
    drawn = f"{len(recipe.schedules)} schedules" if recipe.schedules else f"bound {recipe.bound:g}"
    phrase = f"distilled in place ({drawn}, {loop.steps} steps)"
    if recipe.sampling == "dense":
        phrase = f"trained by its labels alone, as a control of distillation ({loop.steps} steps)"
    sizes = tuple(twin.backbone.image_size[1] for twin in twins)
    common.save_trained(run.folder, model, replace(card, image_sizes=sizes), images, phrase)
    run.finish(
        after=common.after_record(run.folder, after),
        images_sha256=sha256_samples(thin_out(images.split("val"), recipe.limit), images.classes),
        val=after[0].accuracy.as_record(),
        precision=str(recipe.running.precision),
        loop=loop.as_record(settings.batch),
    )
    remove_state(run.folder)
    return run.body


def _prepare(
    model: AdaptiveViT, recipe: DistillRecipe, teacher: Teacher | None = None, twins: Sequence[AdaptiveViT] = ()
) -> tuple[Step, int]:
    """The step that the loop repeats, and how many parameters it trains; recipe and model are checked by it."""
    trained = freeze(model, recipe.optimisation.freeze or 0)
    rule = SandwichRule(recipe.kl, recipe.temperature, chunk=recipe.chunk, teacher_weight=recipe.teacher_weight)
    samplers = {
        id(each): Sampler(
            each.layout, recipe.bound, recipe.sub_networks, recipe.layer_dropout, recipe.sampling,
            tuple(TokenSchedule.parse(text, each.layout) for text in recipe.schedules),
        )
        for each in (model, *twins)
    }  # fmt: skip

    def step(batch: Batch, draws: np.random.Generator, backward: Backward) -> Mapping[str, Tensor]:
        twin = draw_size(twins, draws)
        full, subs = samplers[id(twin or model)].draw(draws)
        labels = batch.labels if batch.soft is None else batch.soft
        images, targets, taught = resize_images(batch.images, model), None, "all"
        if teacher is not None and (twin is None or recipe.taught == "all"):
            targets, taught = teacher.logits(batch.images), recipe.taught
        elif twin is not None and subs:
            targets = full_size_logits(model, images, len(images) if rule.chunk is None else rule.chunk)
        if twin is not None:
            images = resize_images(batch.images, twin.train(model.training))
        done = sandwich_step(
            twin or model, images, labels, subs, full=full, rule=rule, targets=targets, taught=taught, backward=backward
        )
        apart = done.divergences
        named = {"loss": done.loss, **done.full, **({"kl_smallest": apart[0]} if apart else {})}
        return {**named, "kl_random": sum(apart[2:], apart[1]) / len(apart[1:])} if apart[1:] else named

    return step, trained


FULL_SIZE_SHARE = 0.4
"""Share of the steps that train the model at its own size; the others draw a smaller one, each as likely."""


def check_sizes(model: AdaptiveViT, twins: Sequence[AdaptiveViT]) -> None:
    """Raise TrainingError for sizes that are not smaller than the model's own, or given twice."""
    own, sizes = model.backbone.image_size, [twin.backbone.image_size for twin in twins]
    if len(set(sizes)) < len(sizes) or any(twin.tokens >= model.tokens for twin in twins):
        given = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise TrainingError(
            f"further image sizes differ and lie below the model's own {own[0]}x{own[1]}, got {given}; to train at a "
            "larger one, train a run of that size first"
        )


def share_weights(trained: AdaptiveViT, twin: AdaptiveViT) -> None:
    """Give ``twin`` the weights of ``trained``: the same parameters, which learn from both.

    The position table alone depends on the image size. It is resized anew before each pass, by timm's rule for loading
    weights at another size, so that its gradients reach the trained table, and a run that is loaded at the smaller
    size later gives the very same answers.

    Raises:
        UnsupportedBackbone: More than one position table depends on the image size, or norms mix the images of a batch.
    """
    own, bare = dict(trained.unwrap().named_parameters()), twin.unwrap()
    if any(isinstance(module, _BatchNorm) for module in bare.modules()):
        raise UnsupportedBackbone(
            "a model with batch norms keeps statistics of one image size; distil a run for each size instead"
        )
    old, new = list(trained.grid), list(twin.grid)

    def resize(module: nn.Module, inputs: object) -> None:
        table = own["pos_embed"]
        prefix = table.shape[1] - old[0] * old[1]
        bare.pos_embed = timm.layers.resample_abs_pos_embed(table, new_size=new, old_size=old, num_prefix_tokens=prefix)

    for name, parameter in list(bare.named_parameters()):
        holder, leaf = bare.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        if parameter.shape == own[name].shape:
            holder._parameters[leaf] = own[name]
        elif name == "pos_embed":
            del bare._parameters[name]
            bare.get_submodule("patch_embed").register_forward_pre_hook(resize)
        else:
            raise UnsupportedBackbone(
                f"{name} of this model depends on the image size, and only one position table can be shared between "
                "sizes; distil a run for each size instead"
            )


def draw_size(twins: Sequence[AdaptiveViT], draws: Draws) -> AdaptiveViT | None:
    """A model at a smaller size, or None for the model's own; nothing is drawn where there is no choice."""
    if not twins or draws.random() < FULL_SIZE_SHARE:
        return None
    return twins[min(int(draws.random() * len(twins)), len(twins) - 1)]


def resize_images(images: Tensor, model: AdaptiveViT) -> Tensor:
    """(B, 3, H, W) normalised images at the size of ``model``: bicubic, antialiased; what has it stays as it is."""
    if images.shape[-2:] == model.backbone.image_size:
        return images
    return F.interpolate(images, model.backbone.image_size, mode="bicubic", antialias=True)


@torch.no_grad()
def full_size_logits(model: AdaptiveViT, images: Tensor, at_once: int) -> Tensor:
    """(B, K): what the model says of the images at its own size, with nothing dropped; smaller sizes learn from it."""
    parts = torch.split(images, at_once)
    return torch.cat([logits for part in parts for _, logits in shared_logits(model, part, [model.dense_schedule])])
