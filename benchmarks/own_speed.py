"""How fast the kit itself is, as a bench record that ``fgvc-kit compare`` judges. Run by hand, on a quiet machine.

    python benchmarks/own_speed.py                 # writes runs/own-speed/bench.json
    fgvc-kit compare benchmarks/results/KIND.json runs/own-speed/bench.json --reference "bare model, torch"
    python benchmarks/own_speed.py --store         # writes benchmarks/results/KIND.json, to be committed

KIND is the kind of machine (processor and CPUs); the command prints it. Every job is timed in turn with all others,
by the same protocol as models are. ``docs/regression.md`` says what each job stands for.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tavt_kit.bench import Protocol, bench, random_images
from tavt_kit.bench.record import BenchRow, bench_body
from tavt_kit.checks import Artifact, Gate, Source, check
from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.records import make_folder, write_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import Sample
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill.sampling import Sampler
from tavt_kit.distill.sandwich import sandwich_step
from tavt_kit.exporters.to_onnx import to_onnx
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT, LeanViT, wrap
from tavt_kit.runtimes import Images, Session, open_module
from tavt_kit.runtimes.torch_session import torch_threads
from tavt_kit.search import Outcome, Space
from tavt_kit.search.algorithms import make_algorithm

RESULTS = Path(__file__).parent / "results"
MODEL, TAPER, CLASSES = "vit_small_patch16_224", 0.2, 20
EVALUATIONS = 60


class Job:
    """Some work of the kit, timed as if it were a session."""

    load_ms, compile_ms = 0.0, None

    def __init__(self, work: Callable[[], object], target: TargetDevice) -> None:
        self.target, self.input_shape, self._work = target, (None, 3, None, None), work

    def __call__(self, images: Images) -> Images:
        raise NotImplementedError("a job has no logits")

    def timer(self, images: Images) -> Callable[[], float]:
        def run() -> float:
            with torch_threads(self.target.threads):
                start = time.perf_counter()
                self._work()
                return (time.perf_counter() - start) * 1e3

        return run


def jobs(given: argparse.Namespace, folder: Path) -> dict[str, Session]:
    """Every job by name, the reference first."""
    torch.manual_seed(0)
    size = given.image_size
    bare = timm.create_model(given.model, img_size=size, num_classes=CLASSES).eval()
    model = wrap(bare)
    classes = tuple(f"class {place}" for place in range(CLASSES))
    model.card = ModelCard("timm_vit", given.model, {}, classes, Preprocessing((size, size)).as_record())
    dense = model.dense_schedule
    taper = TokenSchedule.taper(model.layout, TAPER)
    targets = {name: TargetDevice(name, "cpu", threads=given.threads) for name in ("torch", "openvino", "onnxruntime")}
    shape = (1, 3, size, size)

    def opened(runtime: str, schedule: TokenSchedule) -> Session:
        selection: Any = "topk" if runtime == "onnxruntime" else "argsort"
        return open_module(LeanViT(model, schedule, selection=selection).eval(), targets[runtime], shape)

    plain = {
        "distillation step, 8 pictures": distillation(given.model, size),
        f"search, {EVALUATIONS} evaluations of made-up accuracies": searching,
        "export to ONNX and check, 10 pictures": exporting(model, taper, folder),
    }
    return {
        "bare model, torch": open_module(bare, targets["torch"], shape),
        "wrapped dense, torch": open_module(model, targets["torch"], shape),
        **{
            f"{word}, {runtime}": opened(runtime, schedule)
            for runtime in targets
            for word, schedule in (("lean dense", dense), (f"lean taper {TAPER}", taper))
        },
        **{name: Job(work, targets["torch"]) for name, work in plain.items()},
    }


def distillation(name: str, size: int) -> Callable[[], object]:
    """A step with two sub-networks, forward and backward."""
    model = wrap(timm.create_model(name, img_size=size, num_classes=CLASSES))
    images, labels = torch.randn(8, 3, size, size), torch.arange(8)
    _, subs = Sampler(model.layout, bound=TAPER, random=2).draw(np.random.default_rng(0))

    def step() -> None:
        sandwich_step(model, images, labels, subs)
        model.zero_grad(set_to_none=True)

    return step


def searching() -> None:
    """What the search itself costs: the surrogate proposes, answers are made up."""
    space = Space(TokenLayout(197, 12))

    def cost(schedule: TokenSchedule) -> int:
        return sum(count * count + 600 * count for count in schedule.counts)

    algorithm = make_algorithm("surrogate", space, seed=0, cost=cost, official_macs=cost, fits=lambda schedule: True)
    done = 0
    while done < EVALUATIONS and (proposals := algorithm.ask()):
        worth = [sum(1 - np.exp(-n / 40) for n in one.counts) / 12 for one in proposals]
        noise = [random.Random(str(one)).gauss(0, 0.01) for one in proposals]
        rows = zip(proposals, worth, noise, strict=True)
        algorithm.tell([Outcome(cost(one), float(np.clip(value + jitter, 0, 1))) for one, value, jitter in rows])
        done += len(proposals)


def exporting(model: AdaptiveViT, schedule: TokenSchedule, folder: Path) -> Callable[[], object]:
    """Write an ONNX file, open it, and check it against the model on pictures."""
    rng = np.random.default_rng(0)
    samples = []
    for place in range(10):
        path = folder / f"{place}.png"
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).resize((256, 256)).save(path)
        samples.append(Sample(path, place))
    card = model.require_card()

    def export() -> None:
        path = folder / "model.onnx"
        to_onnx(model, ArtifactCard(card, schedule, model.tokens, model.prefix), path)
        report = check(Artifact.open(path), Source(model, samples, "test"), Gate())
        if report.verdict != "PASS":
            raise SystemExit(f"the exported file does not pass its check: {report.reason}")

    return export


def jobs_protocol(given: argparse.Namespace) -> Protocol:
    """Turns of a single run for jobs of seconds: a change's interval needs rounds, not runs."""
    return Protocol(given.seconds, given.max_seconds, min_runs=6, visit_seconds=0.2, visit_runs=1)


def kind_of(host: HostFacts) -> str:
    """The kind of machine, as a file's name: ``amd-epyc-2-cpus``."""
    words = f"{host.cpu} {len(host.affinity)} cpus" + (f" {host.accelerator}" if host.accelerator else "")
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="least time of each job's timed runs")
    parser.add_argument("--max-seconds", type=float, default=60.0, help="most of it")
    parser.add_argument("--only", default="", help="jobs whose names hold this; the reference always runs")
    parser.add_argument("--out", type=Path, default=Path("runs/own-speed"))
    parser.add_argument("--store", action="store_true", help="write benchmarks/results/KIND.json instead of --out")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    host, protocol = HostFacts.gather(), jobs_protocol(given)
    stored = RESULTS / f"{kind_of(host)}.json"
    path = stored if given.store else make_folder(given.out) / "bench.json"
    with tempfile.TemporaryDirectory() as folder:
        named = jobs(given, Path(folder))
        sessions = {name: one for place, (name, one) in enumerate(named.items()) if not place or given.only in name}
        images = random_images((1, 3, given.image_size, given.image_size), np.random.default_rng(0))

        def tell(seconds: float, unsure: Any) -> None:
            print(f"{seconds:.0f} s, {len(unsure)} not sure", file=sys.stderr)

        found = bench(sessions, images, protocol, on_round=tell)
    inputs = f"random, for {given.model} at {given.image_size} px"  # compare refuses records of other inputs
    rows = [BenchRow(name, given.model, one.target, found[name]) for name, one in sessions.items()]
    write_record(path, "bench", bench_body(rows, protocol=protocol, inputs=inputs, seed=0, host=host))
    for row in rows:
        print(f"{row.name:58} {row.latency}")
    print(f"\n{path}; this kind of machine: {stored.stem}")
    if stored.is_file() and not given.store:
        print(f'fgvc-kit compare {stored} {path} --reference "{rows[0].name}"')


if __name__ == "__main__":
    main()
