"""All ways to a faster network in one study: accuracy on test against latency, measured in one interleaved run.

    python examples/studies/peers.py runs/probe --out runs/peers

``runs/probe`` is a run of ``fgvc-kit train`` by a probe; every network starts there and gets the same steps, batch,
learning rate, averaging and images (``peers/training.py``). The methods, each at about three strengths, are listed in
``peers/plan.py``; docs/results/peers.md says what each is, and by what it was checked. Nothing is selected on test. A
study that was interrupted is continued by the same command. Writes run folders, ``answers/``, one ``latency-*.json`` a
target, and from these ``peers.json``, ``peers.md`` and a chart for each target, ``peers-*.svg``; the table is printed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from peers.answers import Answers
from peers.chart import chart
from peers.latency import latencies
from peers.plan import rows, trainings
from peers.table import figures, losses, markdown
from peers.training import Workshop
from peers.vit import PeerViT

from tavt_kit.bench import Protocol
from tavt_kit.checkpoints import load_model
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.records import SCHEMAS, atomic_text, make_folder, read_record, write_record
from tavt_kit.distill import DataOptions
from tavt_kit.distill.common import check_batch
from tavt_kit.errors import RecordError, TavtError
from tavt_kit.runtimes import check_available

SCHEMAS.update({"peers": 1, "peers-asked": 1, "peers-trained": 1})


def main() -> int:
    given = arguments()
    try:
        study(given)
    except TavtError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def study(given: argparse.Namespace) -> None:
    targets = [TargetDevice.parse(text).resolved() for text in given.target]
    shop = Workshop(
        given.probe, given.out, given.steps, given.batch, given.lr, given.ema, given.augment, given.seed, given.limit
    )
    check(shop, targets)
    make_folder(given.out)
    check_asked(given, targets)
    train(shop, str(targets[0]), given.evaluations)
    answers, every = Answers(shop, say), rows(shop)
    known = {row.name: answers.of(row) for row in every}
    protocol = Protocol(min_seconds=min(3.0, given.max_seconds), max_seconds=given.max_seconds)
    benched = [latencies(every, answers, target, protocol, say) for target in targets]
    entries = figures(every, known, benched)
    named = [one["target"] for one in benched]
    lost = {target: list(losses(entries, known, target)) for target in named}
    write_record(given.out / "peers.json", "peers", {"asked": asked(given, targets), "rows": entries, "lost": lost})
    text = page(markdown(entries, named), lost)
    atomic_text(given.out / "peers.md", text)
    for target, one in zip(targets, named, strict=True):
        title = f"{shop.images.name}, test: accuracy against latency"
        atomic_text(given.out / f"peers-{target.runtime}.svg", chart(entries, one, title))
    print(text)


def check(shop: Workshop, targets: list[TargetDevice]) -> None:
    """What can be refused is refused before anything is written.

    Raises:
        TavtError: No such run, images or target; a model that the peers are not written for; numbers out of range.
    """
    model = load_model(shop.probe)
    PeerViT(model.bare)
    shop.recipe(model, refit=True)
    check_batch(shop.images, shop.batch, shop.limit, DataOptions())
    for target in targets:
        check_available(target)


def train(shop: Workshop, target: str, evaluations: int) -> None:
    """All networks and the search, each once; what is half done goes on where it stopped."""
    file = shop.out / "trained.json"
    done: list[str] = read_record(file, "peers-trained")["names"] if file.exists() else []
    for name, work in trainings(shop, target, evaluations):
        if name not in done:
            say(f"training: {name}")
            work()
            done.append(name)
            write_record(file, "peers-trained", {"names": done})


def page(table: str, lost: dict[str, list[str]]) -> str:
    """The table, and what no schedule of ours beats."""
    parts = [table]
    for target, sentences in lost.items():
        parts.append(f"Where ours loses on {target}:\n")
        parts.append("".join(f"* {sentence}\n" for sentence in sentences) or "* nowhere in this table\n")
    return "\n".join(parts)


def asked(given: argparse.Namespace, targets: list[TargetDevice]) -> dict[str, object]:
    """What decides the study's result."""
    names = ("steps", "batch", "lr", "ema", "augment", "evaluations", "seed", "limit", "max_seconds")
    own = {name: getattr(given, name) for name in names}
    return {"probe": str(given.probe.resolve()), "targets": [str(one) for one in targets], **own}


def check_asked(given: argparse.Namespace, targets: list[TargetDevice]) -> None:
    """A folder holds one study.

    Raises:
        RecordError: It was begun with other values.
    """
    file, now = given.out / "asked.json", asked(given, targets)
    if not file.exists():
        write_record(file, "peers-asked", now)
    known = read_record(file, "peers-asked")
    if differing := [f"{name} {known.get(name)}" for name, value in now.items() if known.get(name) != value]:
        raise RecordError(f"{given.out} was begun with {', '.join(differing)}; continue it so, or choose another --out")


def counted(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a whole number above 0 is needed, got {text!r}")
    return int(text)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("probe", type=Path, help="a run of fgvc-kit train by a probe")
    parser.add_argument("--out", type=Path, default=Path("runs/peers"))
    parser.add_argument("--target", action="append", help="the first is what the search searches for")
    parser.add_argument("--steps", type=counted, default=300, help="of each network")
    parser.add_argument("--batch", type=counted, default=16)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--ema", type=float, default=0.99, help="decay of the averaged weights of each network")
    parser.add_argument("--augment", default="flip,vflip", help="of each network's images")
    parser.add_argument("--evaluations", type=counted, default=200, help="of the search, on val")
    parser.add_argument("--limit", type=counted, help="images of each split, for trials")
    parser.add_argument("--max-seconds", type=float, default=20.0, help="of timed runs for each row")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.target = given.target or ["openvino:cpu:threads=2", "torch:cpu:threads=2"]
    return given


if __name__ == "__main__":
    sys.exit(main())
