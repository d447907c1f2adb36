"""Latencies that other programs measured: what ``trtexec`` and ``benchmark_app`` write, read as records.

trtexec ``--exportTimes=FILE.json`` has every inference. Its log and both reports of OpenVINO's ``benchmark_app``
(``-report_type no_counters -report_folder DIR``, with or without ``-json_stats``) have a summary only, which can be
shown beside our own figures but has no interval and so decides nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tavt_kit.core.measurement import Measurement
from tavt_kit.errors import MeasurementError, RecordError

__all__ = ["ForeignTimes", "read_times"]

_TRTEXEC_LINE = re.compile(r"\[I\]\s+Latency:\s*(min\s*=.*)")
_TRTEXEC_FIGURE = re.compile(r"(min|max|mean|median|percentile\((\d+)%\))\s*=\s*([-+.\deE]+)\s*ms")
_TRTEXEC_WHAT = {"model": re.compile(r"\[I\]\s+Model:\s*(\S.*)"), "device": re.compile(r"Selected Device:\s*(\S.*)")}
_TRTEXEC_RATE = re.compile(r"\[I\]\s+Throughput:\s*([.\d]+)\s*qps")
_PERCENTILE = re.compile(r"latency \((\d+) percentile\) \(ms\)")
_JSON = re.compile(r"\s*(\{|\[\s*\{)")
_MOST = 512 * 2**20  # bytes; far above any of these files


@dataclass(frozen=True, slots=True)
class ForeignTimes:
    """What a file of another program says of one model's latency.

    Args:
        file: Its path.
        tool: ``trtexec`` or ``benchmark_app``.
        figures: Milliseconds of one inference by name: ``median``, ``p90``, ``mean``, ``min``, ``max``; what it says.
        measurement: All inferences, where the file has them; ``figures`` are views of it then.
        batch: Images in one inference, where the file says so.
        throughput: Images a second, likewise.
        about: What else it says, for people: model, device, precision, number of inferences.
    """

    file: str
    tool: str
    figures: Mapping[str, float]
    measurement: Measurement | None = None
    batch: int | None = None
    throughput: float | None = None
    about: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bad = [name for name, value in self.figures.items() if not (math.isfinite(value) and value > 0)]
        if bad or "median" not in self.figures:
            raise MeasurementError(
                f"a latency is above 0 ms and has a median, but {self.file} says {dict(self.figures)}; measure again"
            )

    def as_record(self) -> dict[str, Any]:
        """JSON-ready; of every inference ``latency_ms.samples``."""
        samples = None if self.measurement is None else list(self.measurement.samples)
        return {
            "file": self.file,
            "tool": self.tool,
            "batch": self.batch,
            "throughput": self.throughput,
            "latency_ms": {**self.figures, "samples": samples},
            "about": dict(self.about),
        }


def read_times(path: Path) -> ForeignTimes:
    """Read a result file of trtexec or benchmark_app; its kind is told by what is in it.

    Raises:
        RecordError: It cannot be read, or is of neither program.
        MeasurementError: It holds no latency.
    """
    try:
        if path.stat().st_size > _MOST:
            raise RecordError(f"{path} is larger than any result of trtexec or benchmark_app; give the file itself")
        text = path.read_text(encoding="utf-8", errors="strict")
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _unknown(path) from None
    if _JSON.match(text):  # a log begins with a bracket too
        try:
            return _from_json(path, json.loads(text))
        except json.JSONDecodeError as error:
            raise RecordError(f"{path} is cut off or no JSON ({error}); write it again") from None
    if "Execution results" in text and ";" in text:
        return _benchmark_app(path, _sections(text))
    if "[I]" in text:
        return _trtexec_log(path, text)
    raise _unknown(path)


def _unknown(path: Path) -> RecordError:
    return RecordError(
        f"latencies are read from trtexec (--exportTimes, or its log) and benchmark_app (-report_folder, csv or json); "
        f"{path} is of neither"
    )


def _from_json(path: Path, found: Any) -> ForeignTimes:
    if isinstance(found, dict) and isinstance(found.get("execution_results"), dict):
        parts = ("cmd_options", "configuration_setup", "execution_results")
        return _benchmark_app(path, {k: str(v) for part in parts for k, v in dict(found.get(part) or {}).items()})
    if isinstance(found, list) and found and all(isinstance(one, dict) and "latencyMs" in one for one in found):
        return _trtexec_times(path, found)
    raise _unknown(path)


def _trtexec_times(path: Path, entries: list[dict[str, Any]]) -> ForeignTimes:
    """One entry an inference: ``latencyMs`` is from the start of the input's copy to the end of the output's."""
    try:
        samples = tuple(float(entry["latencyMs"]) for entry in entries)
    except (TypeError, ValueError):
        raise RecordError(f"the latencies of {path} are no numbers; write it again") from None
    taken = Measurement(samples, steady=False)  # nobody watched whether it was
    ordered = sorted(samples)
    figures = {
        "median": taken.median,
        "p90": taken.p90,
        "p99": taken.p99,
        "mean": sum(samples) / len(samples),
        "min": ordered[0],
        "max": ordered[-1],
    }
    return ForeignTimes(str(path), "trtexec", figures, taken, about={"inferences": str(len(samples))})


def _trtexec_log(path: Path, text: str) -> ForeignTimes:
    line = _TRTEXEC_LINE.search(text)
    if line is None:
        raise MeasurementError(
            f"{path} has no line 'Latency: min = ...', which trtexec writes at its end; run it to the end, or give its "
            "--exportTimes file"
        )
    figures = {
        f"p{percent}" if percent else name: float(value) for name, percent, value in _TRTEXEC_FIGURE.findall(line[1])
    }
    about = {name: match[1].strip() for name, pattern in _TRTEXEC_WHAT.items() if (match := pattern.search(text))}
    rate = _TRTEXEC_RATE.search(text)
    if rate is not None:  # of inferences, whatever their batch
        about["inferences per second"] = rate[1]
    return ForeignTimes(str(path), "trtexec", figures, about=about)


def _sections(text: str) -> dict[str, str]:
    """The ``name;value`` lines of benchmark_app's CSV report; its headings have no value."""
    pairs = (line.split(";", 1) for line in text.splitlines() if ";" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _benchmark_app(path: Path, said: Mapping[str, str]) -> ForeignTimes:
    names = {"latency (ms)": "median", "avg latency": "mean", "min latency": "min", "max latency": "max"}
    names |= {name: f"p{match[1]}" for name in said if (match := _PERCENTILE.fullmatch(name))}
    try:
        figures = {figure: float(said[name]) for name, figure in names.items() if name in said}
        batch = int(said["batch size"]) if said.get("batch size", "").isdecimal() else None
        rate = float(said["throughput"]) if "throughput" in said else None
    except ValueError as error:
        raise RecordError(f"the figures of {path} are no numbers ({error}); write it again") from None
    wanted = {"target device": "device", "-m": "model", "precision": "precision",
              "total number of iterations": "inferences", "API": "api"}  # fmt: skip
    about = {label: said[name] for name, label in wanted.items() if said.get(name)}
    if "median" not in figures:
        raise MeasurementError(
            f"{path} has no median latency; run benchmark_app to the end, without another -latency_percentile"
        )
    return ForeignTimes(str(path), "benchmark_app", figures, batch=batch, throughput=rate, about=about)
