"""What a user asks of a search, checked as far as it can be without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.budget import Budget
from tavt_kit.core.device import TargetDevice, read_precision
from tavt_kit.core.latency_table import LatencyTable
from tavt_kit.core.records import read_record
from tavt_kit.errors import BudgetError, DataError, ParameterError, TargetError
from tavt_kit.runtimes.available import refuse_modes
from tavt_kit.search import ALGORITHMS, Objectives

if TYPE_CHECKING:
    from tavt_kit.data import ImageSet
    from tavt_kit.models.wrap import AdaptiveViT

PROFILE_FILE = "profile.json"

GENES = ("image-size", "layers", "reduction", "precision")
"""What is searched beside token counts, unless it is fixed; and the score, where any is asked for."""

SHORT = 15 * 60.0
"""Seconds below which all layers run, as each number of layers has a quantized graph of its own, 15 s and more of work;
and one precision alone has a table of layer times, from which the others follow by two whole passes each."""

_LEAST = {"evaluations": 1, "population": 1, "final": 1, "seed": 0, "screen": 0, "table_points": 2, "min_patches": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """The parameters of ``search``, read.

    Raises:
        TavtError: Parameters that contradict each other, or a number out of range.
    """

    model: str | AdaptiveViT
    out: Path
    data: str | ImageSet | None
    target: TargetDevice | None
    budget: Budget
    weights: str | None
    schedules: tuple[str, ...]
    front: Path | None
    algorithm: str
    objectives: tuple[str, ...]
    score: str | None
    pool: str | None
    image_size: int | None
    evaluations: int
    population: int | None
    max_seconds: float | None
    final: int
    seed: int
    limit: int | None
    allow_unreadable: int
    fresh: bool
    engine: str
    workers: int | None
    ray_address: str | None
    screen: int
    evaluate_on: str | None
    profile: LatencyTable | None
    baselines: bool
    user_baselines: tuple[str, ...]
    fix: tuple[str, ...]
    reduction: str | None
    min_patches: int | None
    table_seconds: float
    table_points: int
    measure_seconds: float

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise ParameterError(f"`{name}` must be at least {least}, got {value}")
        if not (self.table_seconds > 0 and self.measure_seconds > 0):
            given = f"`table_seconds` {self.table_seconds:g} and `measure_seconds` {self.measure_seconds:g}"
            raise ParameterError(f"a measurement needs some time, got {given}")
        self._check_algorithm()
        self._check_engine()
        if unknown := [gene for gene in self.fix if gene not in (*GENES, "score", "all")]:
            raise ParameterError(f"`fix` takes {', '.join(GENES)} or all, got {unknown[0]!r}")
        if self.limit is not None and self.limit < 1:
            raise DataError(f"a limit must allow at least one image, got `limit` {self.limit}")
        self._check_target()
        self._check_memory()
        if self.evaluate_on is not None:
            _ = self.evaluation_device  # refuses what cannot be

    def _check_algorithm(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ParameterError(f"`algorithm` is one of {', '.join(ALGORITHMS)}, got {self.algorithm!r}")
        given = (self.population is not None, self.schedules, self.front is not None, self.weighed.number > 2,
                 self.min_patches is not None)  # fmt: skip
        if self.algorithm == "tavt-official" and any(given):
            raise ParameterError(
                "`algorithm` tavt-official has sizes, first schedules and two objectives of its own, so it takes no "
                "`population`, `schedule`, `front`, `min_patches` or third `objective`; use tavt"
            )

    def _check_engine(self) -> None:
        if self.engine not in ("local", "ray"):
            raise ParameterError(f"`engine` is local or ray, got {self.engine!r}")
        if self.workers is not None and self.workers < 1:
            raise ParameterError(f"`workers` must be at least 1, got {self.workers}")
        if self.ray_address is not None and self.engine != "ray":
            raise ParameterError(f"`ray_address` is for `engine` ray, but the engine is {self.engine}")

    def _check_target(self) -> None:
        timed = [str(limit) for limit in self.budget.of("latency", "throughput")]
        if self.weighed.cost == "predicted":
            timed += [f"`objective` {text}" for text in self.objectives if text in ("latency", "throughput")]
        if self.target is None and timed:
            raise BudgetError(f"a latency is of a machine, so {timed[0]} needs `target`, such as openvino:cpu")

    def _check_memory(self) -> None:
        asked = next((str(limit) for limit in self.budget.of("memory")), None)
        if asked is None:
            return
        if self.target is None:
            raise BudgetError(f"a peak memory is of a machine, so {asked} needs `target`, such as openvino:cpu")
        if self.profile is not None:
            raise BudgetError(
                f"a carried profile knows times alone, so it cannot tell {asked}; search on the target itself, or "
                "leave memory out and look at it there"
            )

    @property
    def genes(self) -> tuple[str, ...]:
        """What is searched beside token counts as far as the config goes: what is given or fixed is not.

        Precision is a gene where time counts on a target of this machine that begins with f32 and may know int8.
        Agreement with the dense model means nothing where there are several, and a carried profile is of one model.
        In a short time all layers run.
        """
        if "all" in self.fix or "agreement" in self.metrics or self.profile is not None:
            return ()
        target = self.target
        quantizes = target is not None and target.runtime in ("openvino", "onnxruntime") and target.is_cpu
        free = {
            "layers": not self.is_short,
            "reduction": self.reduction is None,
            "score": self.score == "any",
            "precision": quantizes and self.is_timed and target is not None and target.precision == "f32",
        }
        return tuple(gene for gene in (*GENES, "score") if gene not in self.fix and free.get(gene, True))

    @property
    def is_short(self) -> bool:
        """Whether the time does for one table and all layers alone."""
        return self.max_seconds is not None and self.max_seconds < SHORT

    @property
    def alone(self) -> str:
        """Why the search proposes schedules alone, so that its genes make baselines only; empty where it does not."""
        if self.algorithm not in ("nsga2", "random"):
            return f"The algorithm {self.algorithm} proposes schedules alone"
        if self.engine != "local" or (self.workers or 1) > 1:
            return "Workers evaluate schedules alone"
        if self.evaluation_device.runtime != "torch":
            return f"{self.evaluate_on} evaluates schedules alone"
        return ""

    @property
    def model_text(self) -> str:
        """What the model was asked for by, or its name."""
        return str(Path(self.model)) if isinstance(self.model, str) else self.model.require_card().name

    @property
    def asks_memory(self) -> bool:
        """Whether peak memory is limited, so that the finalists' is measured."""
        return bool(self.budget.of("memory"))

    @property
    def is_here(self) -> bool:
        """Whether the target is on this machine: a carried profile stands for one that is not."""
        return self.target is not None and self.profile is None

    @property
    def is_timed(self) -> bool:
        """Whether latency is what the search minimises or limits, so that the target's layers are timed first."""
        if self.target is None:
            return False
        if self.weighed.cost == "predicted" or self.budget.of("latency", "throughput"):
            return True
        return self.weighed.cost is None and not self.budget.of("flops")

    @property
    def weighed(self) -> Objectives:
        """The objectives, read."""
        return Objectives.parse(self.objectives)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that an objective or a floor is about; top-1 where no other leads."""
        floors = ("top1" if limit.quantity == "drop" else limit.name for limit in self.budget.floors)
        return tuple(dict.fromkeys((self.weighed.metric or "top1", *self.weighed.metrics, *floors)))

    @property
    def precision(self) -> str:
        """In which what was measured in the end is evaluated: bf16 where the target runs it, else f32."""
        return "bf16" if self.target is not None and self.target.precision == "bf16" else "f32"

    @property
    def evaluation_device(self) -> TargetDevice:
        """By which runtime, and in which precision, the search itself evaluates.

        Where ``evaluate_on`` does not say: torch, in bf16 where that is faster and finalists are evaluated once more.

        Raises:
            ParameterError: Neither torch nor openvino, or another precision than f32 and bf16.
        """
        if self.evaluate_on is None:
            return TargetDevice("torch", "cpu", precision=self._quick_precision)
        runtime, _, precision = self.evaluate_on.strip().lower().partition(":")
        precision = read_precision(precision or "f32")
        if runtime not in ("torch", "openvino") or precision not in ("f32", "bf16"):
            raise ParameterError(
                f"`evaluate_on` is torch or openvino, with f32 or bf16, such as openvino:bf16, got {self.evaluate_on!r}"
            )
        threads = self.target.threads if self.target is not None and self.target.is_cpu else None
        return TargetDevice(runtime, "cpu", threads=threads, precision=precision)

    @property
    def _quick_precision(self) -> str:
        import torch

        from tavt_kit.runtimes.on_torch import is_bf16_faster

        if "precision" in self.genes:  # where bf16 is a gene, f32 has to answer for itself
            return self.precision
        return "bf16" if self.is_timed and is_bf16_faster(torch.device("cpu")) else self.precision

    @property
    def races(self) -> bool:
        """Whether candidates may be stopped early: top-1 alone is told of a part of the images.

        The official algorithm evaluates everything in full.
        """
        plain = self.metrics == ("top1",) and self.weighed.number == 2
        return self.screen > 0 and plain and self.algorithm != "tavt-official"

    @property
    def precisions(self) -> dict[str, str]:
        """How images were evaluated, as ``front.json`` says it."""
        found = {
            "search": self.evaluation_device.precision,
            "final": self.precision,
            "runtime": self.evaluation_device.runtime,
        }
        return found | ({"screen": str(self.screen)} if self.races else {})

    def as_record(self) -> dict[str, Any]:
        """What ``recipe.json`` says of it."""
        return {
            "model": self.model_text,
            "data": self.data if isinstance(self.data, str | None) else self.data.name,
            "weights": self.weights,
            "target": None if self.target is None else str(self.target),
            "budgets": self.budget.texts(),
            "schedules": list(self.schedules),
            "front": None if self.front is None else str(self.front),
            "algorithm": self.algorithm,
            "objectives": list(self.objectives),
            "evaluations": self.evaluations,
            "population": self.population,
            "max_seconds": self.max_seconds,
            "final": self.final,
            "seed": self.seed,
            "limit": self.limit,
            "screen": self.screen,
            "evaluate_on": f"{self.evaluation_device.runtime}:{self.evaluation_device.precision}",
            "genes": list(self.genes),
            "engine": self.engine,
            "workers": self.workers,
            "profile": None if self.profile is None else self.profile.digest,
            "baselines": [*(["own"] if self.baselines else []), *self.user_baselines],
        }


def read_profile(path: Path, asked: str | None, precision: str | None) -> LatencyTable:
    """The table of ``profile.json``, of any machine.

    Args:
        path: The file, or its folder.
        asked: The target, where it was given too.
        precision: Likewise.

    Raises:
        RecordError: It is no profile, or half of one.
        TargetError: It is of another target than the one asked for.
    """
    table = LatencyTable.from_record(read_record(path / PROFILE_FILE if path.is_dir() else path, "profile"))
    if asked is not None or precision is not None:
        found = table.target
        wanted = TargetDevice.parse(asked or f"{found.runtime}:{found.processor}", precision=precision)
        if wanted != (found if wanted.threads is not None else replace(found, threads=None)):
            raise TargetError(
                f"the profile {path} is of {found}, but {wanted} is asked for; leave `target` and `precision` "
                "out, or make a profile of that target"
            )
    return table


def read_target(
    target: str | TargetDevice | None, precision: str | None, profile: Path | str | LatencyTable | None
) -> tuple[TargetDevice | None, LatencyTable | None]:
    """Where it will run, and the table that was carried from there, if one was.

    Raises:
        TargetError: The target cannot be read, or is another than the table's.
        RecordError: The table cannot be read.
    """
    text = None if target is None else str(target)
    table = read_profile(Path(profile), text, precision) if isinstance(profile, str | Path) else profile
    if text is None:
        return None if table is None else table.target, table
    device = TargetDevice.parse(text, precision=precision).resolved()
    refuse_modes(device)
    return device if table is None else table.target, table


def read_genes(fix: str | Sequence[str]) -> tuple[str, ...]:
    """The names of genes, each once: one text or several, with commas between them."""
    genes = [gene.strip().lower().replace("_", "-") for text in listed(fix) for gene in text.split(",")]
    return tuple(dict.fromkeys(gene for gene in genes if gene))


def listed(given: str | Sequence[str]) -> tuple[str, ...]:
    """One text or several."""
    return (given,) if isinstance(given, str) else tuple(given)
