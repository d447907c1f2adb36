"""Every door that bytes from outside come in by is fed with bytes: it answers, or refuses with one of our sentences.

    python -m tests.faults.fuzz --seconds 300 --more 3600 [--only NAME] [--part 0/2]

gives each door of ``doors.TARGETS`` so many seconds of processor time under atheris (coverage-guided; from PyPI, not a
dependency), in processes of its own, then the rest in slices to those whose coverage still rose in their last one.
What reached new code stays in ``--work``; ``--keep`` writes the part of it that covers all that is new, in small, to
``tests/faults/corpus/NAME``. The quick suite feeds small mutations of the seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

SLICE_S = 60.0
_SLOW_S = 10.0
"""Processor seconds of one small input that are a fault."""

# Inside a process of its own: a fork of the one that imported, and instrumented, everything -----------------

_JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -0.0, 0.5, 1e308, float("nan"), float("inf"), "", "a", "nan",
    "0", "\x1b[2J", "\ud800", "../x", "x" * 300, [], {}, [None], [[]], {"a": 1}, [1, 2, 3], ["a", "b"],
)  # fmt: skip


def mutated(raw: bytes, most: int, seed: int, plain: Callable[[bytes, int], bytes]) -> bytes:
    """A JSON value with some of its parts changed, left out or doubled; of other bytes a plain mutation."""
    draws = random.Random(seed)
    if draws.random() < 0.75:
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            return plain(raw, most)
        for _ in range(draws.choice((1, 1, 1, 2, 4))):
            value = _changed(value, draws)
        found = json.dumps(value).encode("utf-8", "surrogatepass")
        if len(found) <= most:
            return found
    return plain(raw, most)


def _changed(value: Any, draws: random.Random) -> Any:
    places = list[tuple[Any, Any]]()
    _collect(value, places)
    if not places:
        return deepcopy(draws.choice(_JUNK))
    inside, key = draws.choice(places)
    way, there = draws.random(), inside[key]
    if way < 0.15:
        del inside[key]
    elif way < 0.3 and isinstance(inside, list):
        inside.insert(key, there)
    elif way < 0.4:
        other, where = draws.choice(places)
        with_other = json.dumps(other[where]) if where in _keys(other) else "null"
        if len(with_other) < 2000:
            inside[key] = json.loads(with_other)
    elif way < 0.5 and isinstance(there, int | float) and not isinstance(there, bool):
        inside[key] = draws.choice((there + 1, there - 1, -there, there * 1000, there // 3, str(there)[:400]))
    else:
        inside[key] = deepcopy(draws.choice(_JUNK))
    return value


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    for key in _keys(value):
        places.append((value, key))
        _collect(value[key], places)


def _keys(value: Any) -> list[Any]:
    return list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []


def fuzz(name: str, seconds: float, corpus: Path) -> None:
    """atheris on one door until so much processor time is spent; a fault of each kind is kept, and it goes on."""
    import atheris

    from tests.faults.doors import feed, seeds

    begun, fed, known = time.process_time(), 0, set[str]()
    longest = max((len(raw) for raw in seeds(name)), default=0)

    def one(raw: bytes) -> None:
        nonlocal fed
        before = time.process_time()
        if before - begun > seconds:
            print(f"fed {fed} in {before - begun:.1f} s of processor", flush=True)
            os._exit(0)
        fed += 1
        try:
            feed(name, raw)
            if time.process_time() - before > _SLOW_S:
                raise TimeoutError(f"{time.process_time() - before:.0f} s")
        except Exception as error:
            where = [one for one in traceback.extract_tb(error.__traceback__) if "tavt_kit" in one.filename]
            last = f"{where[-1].filename}:{where[-1].lineno}" if where else "?"
            kind = f"{type(error).__name__} {last}"
            if kind not in known:
                known.add(kind)
                digest = hashlib.sha256(kind.encode()).hexdigest()[:10]
                (corpus.parent / "faults" / f"{corpus.name}-{digest}").write_bytes(raw)
                print(f"fault {digest}: {kind}: {str(error)[:200]!r} of {raw[:120]!r}", flush=True)

    def mutate(raw: bytes, most: int, seed: int) -> bytes:
        return mutated(raw, most, seed, atheris.Mutate)

    atheris.Setup(
        ["fuzz", str(corpus), f"-max_len={max(4096, 2 * longest)}", "-rss_limit_mb=6144", "-timeout=900",
         "-len_control=20", "-reload=0", f"-artifact_prefix={corpus.parent}/faults/crash-{corpus.name}-"],
        one,
        custom_mutator=mutate,
    )  # fmt: skip
    atheris.Fuzz()


def merge(name: str, into: Path, corpus: Path) -> None:
    """libFuzzer's own merge."""
    import atheris

    from tests.faults.doors import feed

    def one(raw: bytes) -> None:
        try:
            feed(name, raw)
        except Exception:  # counted by the fuzzing itself
            return

    atheris.Setup(["fuzz", "-merge=1", "-max_len=65536", "-rss_limit_mb=6144", str(into), str(corpus)], one)
    atheris.Fuzz()


# Around it --------------------------------------------------------------------------------------------------


def forked(work: Callable[[], None], log: Path) -> tuple[int, float]:
    """Do it in a child that writes to the log; its exit status and processor seconds."""
    sys.stdout.flush()
    if not (child := os.fork()):
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        work()
        os._exit(0)
    _, status, used = os.wait4(child, 0)
    return status, used.ru_utime + used.ru_stime


class Ledger:
    """Processor time and coverage of each door, added up over runs, in a file of JSON lines."""

    def __init__(self, work: Path) -> None:
        self.work, self.file = work, work / "ledger.jsonl"
        (work / "faults").mkdir(parents=True, exist_ok=True)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Of one door, oldest first."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [row for row in map(json.loads, lines) if row["name"] == name]

    def spent(self, name: str) -> float:
        """Processor seconds of a door so far."""
        return sum(float(row["seconds"]) for row in self.rows(name))

    def rising(self, name: str) -> int:
        """Features that the last slice found beyond the one before."""
        found = [int(row["features"]) for row in self.rows(name)]
        return found[-1] - found[-2] if len(found) > 1 else (found or [0])[-1]

    def slice(self, name: str, seconds: float) -> dict[str, Any]:
        """Fuzz one door for so long."""
        from tests.faults.doors import seeds

        corpus = self.work / name.replace(" ", "-")
        corpus.mkdir(exist_ok=True)
        for number, raw in enumerate(seeds(name)):
            (corpus / f"seed-{number}").write_bytes(raw)
        log = self.work / f"{corpus.name}.log"
        start = log.stat().st_size if log.exists() else 0
        status, used = forked(lambda: fuzz(name, seconds, corpus), log)
        said = log.read_bytes()[start:].decode(errors="replace")
        fed = re.findall(r"fed (\d+) in", said)
        row = {
            "name": name, "status": status, "seconds": round(used, 1), "inputs": int(fed[-1]) if fed else 0,
            "features": max(map(int, re.findall(r" ft: (\d+)", said)), default=0),
            "faults": len(re.findall(r"^fault ", said, re.MULTILINE)) + (status != 0), "at": time.strftime("%H:%M:%S"),
        }  # fmt: skip
        with self.file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        return row


def keep(work: Path, most: int = 12_000) -> None:
    """Per door the smallest inputs that cover all that its corpus covers, but for the seeds, at most so many bytes."""
    from tests.faults.doors import CORPUS, TARGETS

    for name in TARGETS:
        corpus, kept = work / name.replace(" ", "-"), CORPUS / name.replace(" ", "-")
        merged = work / "merged" / corpus.name
        if not corpus.is_dir():
            continue
        shutil.rmtree(merged, ignore_errors=True)
        merged.mkdir(parents=True)
        forked(lambda name=name, merged=merged, corpus=corpus: merge(name, merged, corpus), work / "merge.log")
        known, left = set(TARGETS[name][1]()), most
        for path in sorted(merged.iterdir(), key=lambda path: path.stat().st_size):
            raw = path.read_bytes()
            if raw in known or len(raw) > left:
                continue
            left -= len(raw)
            kept.mkdir(parents=True, exist_ok=True)
            (kept / hashlib.sha256(raw).hexdigest()[:12]).write_bytes(raw)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="of processor time, for each door")
    parser.add_argument("--more", type=float, default=0, help="and for all of those together that still rise")
    parser.add_argument("--only", action="append", help="a door's name")
    parser.add_argument("--part", default="0/1", help="every Nth door from the Kth, as K/N, for several processes")
    parser.add_argument("--work", type=Path, default=Path("runs/fuzz"), help="corpora, logs, ledger and faults")
    parser.add_argument("--keep", action="store_true", help="write the small corpus, and end")
    given = parser.parse_args()
    import atheris

    atheris.enabled_hooks.add("str")  # that of regular expressions breaks torch's import
    with atheris.instrument_imports(include=["tavt_kit"]):
        from tests.faults.doors import FOLDER, TARGETS
    if given.keep:
        keep(given.work)
        return 0
    first, step = map(int, given.part.split("/"))
    names, ledger = list(given.only or TARGETS)[first::step], Ledger(given.work)
    faults, share = 0, min(SLICE_S, given.seconds)
    while waiting := [name for name in names if ledger.spent(name) < given.seconds - 1]:
        for name in waiting:  # in turn, so that every door has had some of it where the whole is stopped early
            faults += ledger.slice(name, min(share, given.seconds - ledger.spent(name)))["faults"]
    left = given.more
    while left > 0 and (rising := [name for name in names if ledger.rising(name) > 0]):
        for name in sorted(rising, key=ledger.rising, reverse=True):
            row = ledger.slice(name, SLICE_S)
            left, faults = left - row["seconds"], faults + row["faults"]
            if left <= 0:
                break
    shutil.rmtree(FOLDER, ignore_errors=True)
    print(f"{faults} faults; {sum(map(ledger.spent, names)):.0f} s of processor on {len(names)} doors")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
