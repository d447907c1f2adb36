"""The networks of the study: each starts at the probe and gets the same steps, batch and learning rate."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from tavt_kit.checkpoints import load_model, open_model
from tavt_kit.data import ImageSet, inherit_split
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.data.sources import inherited_images
from tavt_kit.distill import TrainRecipe, train, train_recipe
from tavt_kit.distill.common import card_of, describe_run, open_split, save_trained, settle
from tavt_kit.distill.datasets import Batch
from tavt_kit.distill.losses import Backward, Step, at_least_f32
from tavt_kit.distill.optimizer import freeze
from tavt_kit.distill.run_folder import RunFolder, remove_state
from tavt_kit.distill.trainer import Trainer, choose_device
from tavt_kit.errors import TrainingError
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.verbs.console import ConsoleProgress


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where networks are trained, and by how much.

    Every one trains all but the first quarter of its layers, as distillation does by default, and ends where its steps
    end: nothing is selected on the way.

    Args:
        probe: The run that all of them start from.
        out: Each network is a run folder below it.
        steps: Updates of each network.
        batch: Images of an update.
        lr: Highest learning rate.
        ema: Decay of the averaged weights, which are what is compared.
        augment: Of the images, as for ``fgvc-kit train``.
        seed: Of everything random.
        limit: At most so many images of each split.
    """

    probe: Path
    out: Path
    steps: int
    batch: int
    lr: float
    ema: float
    augment: str
    seed: int = 0
    limit: int | None = None

    @property
    def images(self) -> ImageSet:
        """The probe's own, with its split."""
        return inherited_images(self.probe, None)

    def recipe(self, model: AdaptiveViT, *, refit: bool) -> TrainRecipe:
        """Cross-entropy by the kit's ``finetune``; ``refit``: the head is fitted to the features first."""
        return train_recipe(
            "finetune", probe=refit, blocks=model.layers - model.layers // 4, steps=self.steps, batch=self.batch,
            lr=self.lr, ema=self.ema, augment=self.augment.split(","), seed=self.seed, limit=self.limit,
        )  # fmt: skip

    def dense(self, name: str, start: Path | None = None, image_size: int | None = None) -> None:
        """A network that drops nothing: the probe's, one of another image size, or a pruned one.

        Where the features change at once, the head is fitted anew before the first step, which costs it no step.
        """
        model = open_model(str(start or self.probe), image_size=image_size)
        recipe = self.recipe(model, refit=True)
        with ConsoleProgress() as progress:
            train(model, self.images, self.out / name, recipe, progress=progress)

    def reduced(self, name: str, make: Callable[[nn.Module], nn.Module]) -> None:
        """A network that trains with its reduction of tokens in place, by cross-entropy.

        Args:
            name: Of the run folder.
            make: From timm's model to a module of the same weights, (B, 3, H, W) -> logits.
        """
        model, images, device = load_model(self.probe), self.images, choose_device(None)
        card = card_of(model, images)
        model.to(device)
        recipe = settle(self.recipe(model, refit=False), card, images, device, freeze=model.layers // 4, begun={})
        module = make(model.bare).to(device)
        asked = describe_run(model, card, images, {**recipe.as_record(), "peer": name})
        run = RunFolder(self.out / name, "train", asked)
        inherit_split(run.folder, images)
        if run.done:
            return
        with ConsoleProgress() as progress:
            preprocessing = Preprocessing.from_record(card.preprocessing)
            split = open_split(images, "train", preprocessing, recipe, plain=False)
            freeze(model, recipe.optimisation.freeze or 0)
            loop = Trainer(
                model, split, label_step(module), recipe.optimisation, recipe.running, run.folder,
                seed=self.seed, progress=progress, what=name,
            ).run()  # fmt: skip
        save_trained(run.folder, model, card, images, f"fine-tuned as {name}")
        run.finish(loop=loop.as_record(self.batch))
        remove_state(run.folder)

    def distilled(self, name: str, *more: str) -> None:
        """By the kit's own distillation."""
        words = ["--steps", self.steps, "--batch", self.batch, "--lr", self.lr, "--ema", self.ema]
        words += ["--augment", self.augment, *self.common]
        self.command("distill", self.probe, "-o", self.out / name, *words, *more)

    def pruned(self, name: str, *shares: object) -> None:
        """Pruned by the kit, then trained as any other dense network."""
        parts = self.out / f"{name}-cut"
        self.command("prune", self.probe, "-o", parts, *shares)
        self.dense(name, start=parts)

    def searched(self, name: str, run: str, target: str, evaluations: int) -> None:
        """Schedules for ``run``, selected on val."""
        words = ["--target", target, "--evaluations", evaluations, "--final", 2, "--fix", "all"]
        # 1 is a verdict on a budget, and there is none.
        self.command("search", self.out / run, "-o", self.out / name, *words, *self.common, may_end=(0, 1))

    @property
    def common(self) -> list[object]:
        """Flags of every verb."""
        return ["--seed", self.seed, *(() if self.limit is None else ("--limit", self.limit))]

    def command(self, *words: object, may_end: Sequence[int] = (0,)) -> None:
        """A verb, in a process of its own; it goes on where it was stopped."""
        said = [str(word) for word in words]
        print("fgvc-kit", *said, file=sys.stderr, flush=True)
        code = subprocess.run([sys.executable, "-m", "tavt_kit", *said], stdout=2).returncode
        if code not in may_end:
            raise TrainingError(f"fgvc-kit {said[0]} ended with {code}; see above, and start this study again")


def label_step(module: nn.Module) -> Step:
    """Cross-entropy of what ``module`` answers."""

    def step(batch: Batch, draws: np.random.Generator, backward: Backward) -> Mapping[str, Tensor]:
        loss = F.cross_entropy(at_least_f32(module(batch.images)), batch.labels)
        backward(loss)
        return {"loss": loss.detach()}

    return step
