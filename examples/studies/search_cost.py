"""What a search costs: ours against TAVT's official one and against NSGA-II without our levers, on one model.

    python examples/studies/search_cost.py RUN --out runs/search_cost --seeds 0,1,2,3,4

RUN is a distilled run with its split (the demo's, for example). Six parts, each of which goes on where it was stopped
and is skipped where its record exists (``--parts`` names some):

official  The official search (``official_search``): 1,822 schedules a seed. Its scores are exact; see there how they
          are had in less time than it would take. What it would take is modelled by ``seconds``.
seconds   Whole passes of a random sample of its schedules, one by one, in random order, several times: seconds as a
          line over multiply-adds, in f32, which the official code pays for, and in --precision. MACs are taken as
          free, though the official code traces the model for each.
levers    The same generations evaluated with and without each lever, interleaved; and 10,000 costs in one call.
ranks     40 random schedules by each quick evaluator against the exact one (of --precision f32).
ours      Our search with all levers, its clock running: wall seconds, those of its algorithm included. The front is
          then scored exactly, which costs what whole passes cost. And NSGA-II without levers, 250 schedules.
sober     At three latencies: the searched schedule, the best uniform taper and the best stage schedule, all chosen on
          val and measured against one another on --target, compared on test in pairs.

Exact is --precision: by default f32, as in the official code; with bf16 both searches are given the answers of a model
that will run so, and the official seconds are told in both precisions. Time to reach is the first moment at which our
front, scored exactly, has the hypervolume that the official front has in the end, and the exact scores of that front
(which a search with --evaluate-on torch:PRECISION has already). val is what
the official search picked by, so both fronts are scored on test too, ours as it is after a 25th and a tenth of the
official seconds, dominated ones left out by val. Costs are multiply-adds as executed, relative to the dense model, and
nothing counts as cheaper than the cheapest gene that the official search keeps. Writes ``search_cost.json`` and prints
the tables; test is read for the final scores alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from official_search import official_table
from search_compared import compared, ours
from search_ground import Ground
from search_levers import levers, ranks, seconds
from search_sober import sober
from search_summary import summary
from search_tables import show

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.records import atomic_text

PARTS = ("official", "seconds", "levers", "ranks", "ours", "sober")
VARIANTS = ("surrogate:128", "surrogate:0", "nsga2:128")
"""With all levers; without screening; without the surrogate."""


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    ground = Ground(given.run, given.out, given.limit, precision=given.precision)
    seeds = given.seeds if "official" in given.parts else []
    tables = [official_table(ground, seed, given.iterations) for seed in seeds]
    record: dict[str, Any] = {"asked": {**vars(given), "run": given.run.name, "out": ""}}
    record["host"] = HostFacts.gather().as_record()
    makers: dict[str, Callable[[], Any]] = {
        "seconds": lambda: seconds(ground, tables),
        "levers": lambda: levers(ground, given.variants[0].partition(":")[0]),
        "ranks": lambda: ranks(ground),
    }
    for name, make in makers.items():
        if name in given.parts:
            record[name] = kept(ground.out / f"{name}.json", make)
    if "ours" in given.parts:
        slopes = record.get("seconds") or json.loads((ground.out / "seconds.json").read_text())
        rows = [compared(ground, given, seed, table, slopes)
                for seed, table in zip(given.seeds, tables, strict=True)]  # fmt: skip
        record["ours"] = {"seeds": rows, "summary": summary(rows)}
    if "sober" in given.parts:
        target = TargetDevice.parse(given.target).resolved()
        path = ground.out / f"sober-{given.target.replace(':', '-')}.json"
        searches = {seed: ours(ground, given, seed, given.variants[0])[0] for seed in given.seeds}
        record["sober"] = kept(path, lambda: sober(ground, target, searches))
    atomic_text(ground.out / "search_cost.json", json.dumps(record, indent=1, default=str) + "\n")
    show(record)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a distilled run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0])
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--iterations", type=int, default=30, help="of the official search")
    parser.add_argument("--evaluations", type=int, default=500, help="of ours, at most")
    parser.add_argument("--variants", type=lambda text: text.split(","), default=list(VARIANTS),
                        help="of ours, ALGORITHM:SCREEN; the first has all levers")  # fmt: skip
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32",
                        help="of the scores that count, official ones too: where the model is to run")  # fmt: skip
    parser.add_argument("--evaluate-on", default=None, help="torch:f32 or torch:bf16; by default the faster precision")
    parser.add_argument("--target", default="openvino:cpu:threads=2", help="of the sober question")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--limit", type=int, help="images of val; test is always whole")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    if "ours" in given.parts and "official" not in given.parts:
        parser.error("ours is compared with official: name both parts, what is recorded is read")
    return given


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What was recorded, or is made now."""
    if not path.exists():
        atomic_text(path, json.dumps(make(), indent=1) + "\n")
    return json.loads(path.read_text())


if __name__ == "__main__":
    main()
