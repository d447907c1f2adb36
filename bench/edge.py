"""What ``python PACK.zip`` does on the device: check the pack, measure, write the record.

A pack carries this module and the few others of the package that it needs; of other packages it needs numpy and the
one runtime of its target.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tavt_kit.bench.protocol import BRIEF, bench
from tavt_kit.bench.timing import TablePlan, graph_clocks, open_graph, time_plan
from tavt_kit.core.latency_table import LatencyTable, measure_quantile_ratios
from tavt_kit.core.records import make_folder, read_record, sha256_file, write_record
from tavt_kit.errors import DataError, TavtError
from tavt_kit.runtimes import check_available

PACK_FILE, GRAPHS, WEIGHTS_FILE = "pack.json", "graphs", "weights.bin"


def main(pack: str, arguments: Sequence[str]) -> int:
    """Run a pack; 0 done, 2 bad input, 130 interrupted."""
    name = Path(pack).name
    parser = argparse.ArgumentParser(prog=f"python {name}", description="Measure what this pack holds on this machine.")
    parser.add_argument("-o", "--out", type=Path, default=Path(), help="folder to write to (default: this one)")
    parser.add_argument("--threads", type=int, help="CPU threads, if not those that the pack was made for")
    parser.add_argument("--max-time", type=float, default=60.0, help="seconds to aim for (default: 60)")
    options = parser.parse_args(arguments)
    try:
        out = make_folder(options.out)
        with tempfile.TemporaryDirectory(prefix="fgvc-kit-") as folder:
            record = _unpacked(Path(pack), Path(folder))
            file = _profile(record, Path(folder) / GRAPHS, options, out)
    except TavtError as error:
        _say(f"{name}: {error}")
        return 2
    except KeyboardInterrupt:
        _say(f"{name}: interrupted; nothing was written")
        return 130
    _say(f"written: {file}; carry it back to the workstation")
    return 0


def _unpacked(pack: Path, folder: Path) -> dict[str, Any]:
    """The record of a pack, after its graphs were extracted and found whole.

    Raises:
        DataError: It is damaged.
    """
    try:
        with zipfile.ZipFile(pack) as zipped:
            for name in zipped.namelist():
                if name == PACK_FILE or name.startswith(f"{GRAPHS}/"):
                    zipped.extract(name, folder)
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"the pack {pack} is damaged ({error}); copy it again") from None
    record = read_record(folder / PACK_FILE, "pack")
    for name, digest in record["files"].items():
        if not (folder / name).is_file() or sha256_file(folder / name) != digest:
            raise DataError(f"the pack {pack} is damaged: {name} is not what was packed; copy it again")
    return record


def _graph(graphs: Path, file: str) -> Any:
    """A graph as its runtime's session or compiler takes it."""
    if file.endswith(".onnx"):
        return graphs / file
    from tavt_kit.runtimes.available import openvino_core

    return openvino_core().read_model(graphs / file, graphs / WEIGHTS_FILE)


def _profile(record: Mapping[str, Any], graphs: Path, options: argparse.Namespace, out: Path) -> Path:
    begin, plan = time.perf_counter(), TablePlan.from_record(record["plan"])
    target, rng = plan.target, np.random.default_rng(0)
    if options.threads is not None:
        target = replace(target, threads=options.threads)
    check_available(target)
    target = target.resolved()
    files: Mapping[str, str] = record["graphs"]
    wholes = dict(zip(plan.wholes, record["wholes"], strict=True))
    clocks = graph_clocks(lambda part: _graph(graphs, files[part]), target)
    sessions = {
        schedule: open_graph(_graph(graphs, file), target, time.perf_counter()) for schedule, file in wholes.items()
    }
    table: LatencyTable = time_plan(
        plan, target, clocks, sessions.__getitem__, seconds=options.max_time, rng=rng, begin=begin, on_step=_steps()
    )
    ends = {str(index): sessions[schedule] for index, schedule in enumerate((plan.wholes[0], plan.wholes[-1]))}
    runs = bench(ends, plan.images(rng), BRIEF, rng=rng)
    table = replace(table, quantile_ratios=measure_quantile_ratios(runs.values()))
    write_record(out / "profile.json", "profile", table.as_record())
    return out / "profile.json"


def _steps() -> Callable[[str, float], None]:
    """Says on stderr what begins, once each."""
    said = {"done"}

    def step(doing: str, share: float) -> None:
        if doing not in said:
            said.add(doing)
            _say(f"{doing} ...")

    return step


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()
