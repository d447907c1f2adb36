"""Verbs disturbed at random moments: signals, full disks, little memory, clocks that jump.

    python -m tests.faults.kills --number 60 --seed 0 [--verbs "fit, trained" search] [--kinds "power cut"]

Each verb runs twice undisturbed on a tiny model; what differs between the two (times) is compared by its presence
alone. Then each disturbed run is followed by the same command undisturbed. A fault is: an exit code that says a bug, a
file under its final name that cannot be read, a command that does not go on, an end that differs from the undisturbed
one, or something hidden that stays.

A power cut needs root and a Linux that mounts: the run writes to a file system of its own in a file; the run is killed,
and what that file holds then, without what waits in memory to be written, is the disk that the next run finds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
# The server imports what is slow once; its children are forks of it.
_CONTEXT.set_forkserver_preload(
    ["tests.verbs.tiny", "tavt_kit.workflows.search", "tavt_kit.workflows.distill",
     "tavt_kit.workflows.export", "tavt_kit.workflows.bench", "tavt_kit.workflows.explain",
     "tavt_kit.workflows.fit", "onnxruntime"]
)  # fmt: skip

_SEARCH = (
    "search {run} --data {data} --budget flops=300K --population 4 --evaluations 12 --min-patches 1 --fix all "
    "--no-baselines -o {out}"
)
_EXPORT = "export {run} --data {data} --schedule 14,11,8,8 --accept-inconclusive -o {out}"
VERBS: dict[str, str] = {
    "train": "train {run} --data {data} --steps 6 --batch 4 --save-every 0.1s --recipe finetune -o {out}",
    "probe": "train {run} --data {data} -o {out}",
    "distill": "distill {run} --data {data} --steps 6 --batch 4 --save-every 0.1s -o {out}",
    "prune": "prune {run} --data {data} --mlp 0.5 -o {out}",
    "search": _SEARCH,
    "search, workers": f"{_SEARCH} --workers 2",
    "export": f"{_EXPORT} --format onnx",
    "export, openvino": f"{_EXPORT} --format openvino",
    "check": "check {onnx} --against {run} --data {data} --accept-inconclusive -o {out}",
    "eval": "eval {run} --data {data} -o {out}",
    "explain": "explain {run} {image} -o {out}",
    "profile": "profile {run} --target torch:cpu:threads=1 --max-time 0.5s -o {out}",
    "bench": "bench {run} --target torch:cpu:threads=1 --max-time 0.3s --min-time 0.1 -o {out}",
    "report": "report {searched} -o {out}",
    "fit": (
        "fit {data} --budget latency=9s --max-time 1 --model test_vit --set weights=random --set image-size=64 -o {out}"
    ),
    "fit, trained": (
        "fit {data} --budget latency=9s --max-time 60m --model test_vit --set weights=random --set image-size=64 "
        "-o {out}"
    ),
    "models": "models test_vit --json",
    "datasets": "datasets {data} --json",
    "convert": "convert {weights} --name vit_tiny_patch16_224 -o {out}",
}
PRINTING = ("models", "datasets")
"""Verbs whose only file is what they print; where that cannot be written they end as one whose reader has gone."""


def _little_training() -> None:
    """A fit that trains, and ends: few steps for each stage; no search and no INT8, which are verbs of their own here.

    By ``fit`` as it is INT8 is disturbed too: its time is over after the first answer.
    """
    from tavt_kit.workflows import fit, fit_plan

    fit_plan._LEAST_STEPS, fit_plan._MOST_STEPS, fit_plan._EPOCHS = 1, 8, 0
    fit.LEAST_SEARCH = fit_plan.LEAST_SEARCH = 1e9
    fit._Stages._precisions = ("f32",)  # type: ignore[assignment]


SMALLER: dict[str, Callable[[], None]] = {"fit, trained": _little_training}
"""What makes a verb small enough to be run many times, in the process that runs it."""
KINDS = ("kill -9", "SIGTERM", "SIGINT", "full disk", "little memory", "clock")
POWER_CUT = "power cut"
Files = dict[str, str]


@dataclass(frozen=True)
class Disturbance:
    """What happens to one run.

    Args:
        verb: Name in ``VERBS``.
        kind: One of ``KINDS``.
        after: Seconds until a signal; of a clock, evaluations of time between its jumps.
        limit: Bytes of the largest file, or of memory beyond what is taken already.
    """

    verb: str
    kind: str
    after: float = 0.0
    limit: int = 0


@dataclass
class Undisturbed:
    """What a verb gives, which files differ from one run to the next, and how long it takes."""

    code: int
    files: Files
    varying: set[str]
    seconds: float
    largest: int


@dataclass
class Outcome:
    """Counts of what the disturbed runs came to, and what must not be."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def run_verb(words: Sequence[str], log: Path, disturbance: Disturbance | None, verb: str) -> None:
    """In the child: the command as it is, under its limits."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    os.setsid()
    SMALLER.get(verb, lambda: None)()
    if disturbance is not None and disturbance.kind == "full disk":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (disturbance.limit, resource.RLIM_INFINITY))
    if disturbance is not None and disturbance.kind == "little memory":
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + disturbance.limit, resource.RLIM_INFINITY))
    if disturbance is not None and disturbance.kind == "clock":
        _jumping_clock(disturbance)
    from tavt_kit.cli import main

    main(list(words))


def _jumping_clock(disturbance: Disturbance) -> None:
    """The wall clock jumps a day to and fro, after each so many calls."""
    real, calls, jumps = time.time, 0, random.Random(disturbance.limit)

    def jumping() -> float:
        nonlocal calls
        calls += 1
        return real() + (86_400 * jumps.choice((-1, 1)) if calls % 3 else 0)

    time.time = jumping


def start(verb: str, words: Sequence[str], log: Path, disturbance: Disturbance | None = None) -> BaseProcess:
    child = _CONTEXT.Process(target=run_verb, args=(words, log, disturbance, verb))
    child.start()
    return child


def finish(child: BaseProcess, seconds: float = 1800.0) -> int:
    """Its exit code; what hangs is killed, and said by 124."""
    child.join(seconds)
    if child.exitcode is None:
        child.kill()
        child.join()
        return 124
    return child.exitcode


def final_files(folder: Path) -> list[Path]:
    """Files under final names; TensorBoard's have names of their own."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def read_files(folder: Path) -> Files:
    """A hash of every file; of a JSON record one for each of its keys, all items of a list together."""
    found = {}
    for path in final_files(folder):
        name, raw = path.relative_to(folder).as_posix(), path.read_bytes()
        found[name] = "" if path.suffix == ".json" else hashlib.sha256(raw).hexdigest()
        if path.suffix == ".json":
            values: dict[str, list[str]] = {}
            _flatten(json.loads(raw), f"{name}#", values)
            found |= {key: hashlib.sha256("\n".join(each).encode()).hexdigest() for key, each in values.items()}
    return found


def _flatten(value: object, at: str, into: dict[str, list[str]]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _flatten(item, f"{at}.{key}", into)
    elif isinstance(value, list):
        for item in value:
            _flatten(item, f"{at}[]", into)
    else:
        into.setdefault(at, []).append(repr(value))


def unreadable(folder: Path) -> list[str]:
    """Files under their final names that are not whole."""
    wrong = []
    for path in final_files(folder):
        try:
            READERS.get(path.suffix, lambda path: None)(path)
        except Exception as error:
            wrong.append(f"{path.name} cannot be read: {type(error).__name__}: {str(error)[:120]}")
    return wrong


def _read_weights(path: Path) -> None:
    from safetensors.torch import load_file

    load_file(path)


def _read_graph(path: Path) -> None:
    import onnx

    onnx.load(str(path))


def _read_base(path: Path) -> None:
    base = sqlite3.connect(path)
    try:
        if (said := base.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
            raise ValueError(said)
    finally:
        base.close()


READERS: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".safetensors": _read_weights,
    ".onnx": _read_graph,
    ".db": _read_base,
}


def left_behind(folder: Path) -> list[str]:
    """Hidden files and folders: unfinished ones and locks."""
    return [path.name for path in folder.rglob(".*")] if folder.exists() else []


class Disk:
    """A file system in a file, which holds what would be on the platter if the power were cut."""

    def __init__(self, folder: Path, megabytes: int = 200) -> None:
        self.image, self.place = folder / "disk.img", folder / "disk"
        self.place.mkdir(parents=True)
        with self.image.open("wb") as file:
            file.truncate(megabytes << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(self.image)], check=True)
        self._mount()

    def _mount(self) -> None:
        # Without the option the kernel writes a renamed file at once by itself, whether or not it was asked to.
        options = ["-o", "loop,noauto_da_alloc"]
        subprocess.run(["mount", *options, str(self.image), str(self.place)], check=True)

    def cut(self) -> None:
        """Go on with what was written by now, its journal replayed as after a start."""
        kept = self.image.with_suffix(".cut")
        subprocess.run(["cp", "--sparse=always", str(self.image), str(kept)], check=True)
        self.remove()
        kept.rename(self.image)
        self._mount()

    def remove(self) -> None:
        """Let go of it, and of the file."""
        subprocess.run(["umount", str(self.place)], check=True)
        self.image.unlink()

    @staticmethod
    def is_possible() -> bool:
        """Whether this process may mount one."""
        return os.geteuid() == 0 and Path("/dev/loop-control").exists() and shutil.which("mkfs.ext4") is not None


class Laboratory:
    """A tiny model, its images, and what each verb makes of them undisturbed."""

    def __init__(self, folder: Path, verbs: Sequence[str] = tuple(VERBS)) -> None:
        from safetensors.torch import save_file

        from tavt_kit.models.timm_import import timm
        from tests.verbs.tiny import write_images, write_run

        self.folder, self.known = folder, dict[str, Undisturbed]()
        self.number = 0
        write_images(folder / "data", each=12)
        write_run(folder / "run")
        whole = timm.create_model("vit_tiny_patch16_224", num_classes=3)
        save_file(whole.state_dict(), folder / "weights.safetensors")
        self.names = {
            "run": folder / "run", "data": folder / "data", "image": folder / "data" / "disc" / "0.png",
            "weights": folder / "weights.safetensors",
            "searched": folder / "searched", "onnx": folder / "exported" / "model.f32.onnx",
        }  # fmt: skip
        for verb, out, asked in (("search", "searched", "report"), ("export", "exported", "check")):
            assert asked not in verbs or finish(start(verb, self.words(verb, folder / out), folder / "log")) in (0, 1)

    def words(self, verb: str, out: Path) -> list[str]:
        names = {name: str(path) for name, path in self.names.items()}
        return [word.format(**names, out=out) for word in VERBS[verb].split()]

    def fresh(self) -> Path:
        self.number += 1
        return self.folder / f"out-{self.number}"

    def undisturbed(self, verb: str) -> Undisturbed:
        if verb not in self.known:
            files = []
            for _ in range(2):
                out, log, begun = self.fresh(), self.folder / f"log-{self.number}", time.monotonic()
                code = finish(start(verb, self.words(verb, out), log))
                seconds = time.monotonic() - begun
                if code not in (0, 1):
                    raise RuntimeError(f"{verb} exits {code} undisturbed:\n{log.read_text()[-3000:]}")
                files.append(read_files(out))
                largest = max((path.stat().st_size for path in out.rglob("*") if path.is_file()), default=100)
                shutil.rmtree(out, ignore_errors=True)  # some verbs only print
            names = {**files[0], **files[1]}
            # Times are rounded, so that two may be equal by chance.
            varying = {
                name
                for name in names
                if ".host." in name or name.endswith(".seconds") or files[0].get(name) != files[1].get(name)
            }
            self.known[verb] = Undisturbed(code, files[1], varying, seconds, largest)
        return self.known[verb]

    def draw(self, draws: random.Random, verb: str, kind: str) -> Disturbance:
        whole = self.undisturbed(verb)
        limit = draws.randint(1, whole.largest) if kind == "full disk" else 2 ** draws.randint(16, 28)
        return Disturbance(verb, kind, draws.uniform(0.05, 1.0) * whole.seconds, limit)

    def disturb(self, what: Disturbance, found: Outcome) -> None:
        """One disturbed run, and the same command after it."""
        whole, out, log = self.undisturbed(what.verb), self.fresh(), self.folder / f"log-{self.number}"
        disk = Disk(self.folder / f"power-{self.number}") if what.kind == POWER_CUT else None
        if disk is not None:
            out = disk.place / "out"
        try:
            self._disturb(what, whole, out, log, disk, found)
        finally:
            if disk is not None:
                disk.remove()

    def _disturb(
        self, what: Disturbance, whole: Undisturbed, out: Path, log: Path, disk: Disk | None, found: Outcome
    ) -> None:
        words = self.words(what.verb, out)
        child = start(what.verb, words, log, what)
        signals = {"kill -9": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT,
                   POWER_CUT: signal.SIGKILL}  # fmt: skip
        if what.kind in signals:
            child.join(what.after)
            if child.exitcode is None and child.pid is not None:
                os.kill(child.pid, signals[what.kind])
        code = finish(child)
        if disk is not None:
            disk.cut()
        told = log.read_text(errors="replace") if log.exists() else ""
        ended = {0: "had ended", 1: "had ended", 2: "refused", 130: "interrupted"}.get(code, f"ended by {code}")
        found.counts[what.verb, what.kind, ended] += 1
        faults = [] if code in self._allowed(what) else [f"exit code {code}: {told[-400:]}"]
        faults += unreadable(out) if out.exists() else []
        again = finish(start(what.verb, words, log))
        if again != whole.code:
            faults.append(f"the same command then exits {again}: {log.read_text(errors='replace')[-400:]}")
        elif out.exists():
            files = read_files(out)
            differing = [
                name
                for name in {**files, **whole.files}
                if self._differs(name, files, whole, what.verb in ("profile", "bench", "fit", "fit, trained"))
            ]
            faults += [f"{name} is not as undisturbed" for name in differing]
            faults += [f"{name} stays" for name in left_behind(out)]
        found.faults += [
            f"{what.verb}, {what.kind} after {what.after:.2f} s (limit {what.limit}): {one}" for one in faults
        ]
        shutil.rmtree(out, ignore_errors=True)
        log.unlink(missing_ok=True)

    @staticmethod
    def _allowed(what: Disturbance) -> tuple[int, ...]:
        full = (2, 141) if what.verb in PRINTING else (2,)
        own = {"kill -9": (-signal.SIGKILL,), POWER_CUT: (-signal.SIGKILL,), "SIGTERM": (-signal.SIGTERM, 130),
               "SIGINT": (130,), "full disk": full, "little memory": (2,)}  # fmt: skip
        return (0, 1, *own.get(what.kind, ()))

    @staticmethod
    def _differs(name: str, files: Files, whole: Undisturbed, measured: bool) -> bool:
        if measured and "#" in name:  # a time may be equal twice by chance, and not the third time
            return False
        if name.startswith("recommended/"):  # of equal answers the quickest
            return (name in files) != (name in whole.files)
        if name in whole.varying:
            return (name in files) != (name in whole.files)
        return files.get(name) != whole.files.get(name)


def disturb_all(
    number: int,
    seed: int,
    folder: Path,
    seconds: float = 1e9,
    say: bool = False,
    verbs: Sequence[str] = tuple(VERBS),
    kinds: Sequence[str] = KINDS,
) -> Outcome:
    """So many disturbances, the kinds and verbs in turn, the moments at random."""
    draws, found, place, begun = random.Random(seed), Outcome(), Laboratory(folder, verbs), time.monotonic()
    pairs = [(verb, kind) for kind in kinds for verb in verbs]
    draws.shuffle(pairs)
    for index in range(number):
        verb, kind = pairs[index % len(pairs)]
        before = len(found.faults)
        place.disturb(place.draw(draws, verb, kind), found)
        if say:
            print(index + 1, verb, kind, *found.faults[before:], sep=" | ", flush=True)
        if time.monotonic() - begun > seconds:
            break
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin none after these")
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=list(VERBS), help="by default all")
    kinds = (*KINDS, *([POWER_CUT] if Disk.is_possible() else ()))
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=list(kinds), help="by default all")
    parser.add_argument("--out", type=Path, help="where the counts are written as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        found = disturb_all(given.number, given.seed, place, given.seconds, True, given.verbs, given.kinds)
    rows = [{"verb": verb, "kind": kind, "ended": ended, "runs": runs} for (verb, kind, ended), runs in
            sorted(found.counts.items())]  # fmt: skip
    body = {"seed": given.seed, "runs": sum(found.counts.values()), "rows": rows, "faults": found.faults}
    if given.out is not None:
        given.out.write_text(json.dumps(body, indent=1) + "\n")
    print(json.dumps(body, indent=1))
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
