"""The parameters of a search: each written once, with its default and its sentence, and what follows from them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.budget import Budget
from tavt_kit.core.codec import encode
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.latency_table import LatencyTable
from tavt_kit.core.parsing import parse_duration, several
from tavt_kit.core.progress import Progress
from tavt_kit.core.records import read_record
from tavt_kit.errors import BudgetError, ParameterError, TargetError
from tavt_kit.runtimes.available import refuse_modes, runtime_of
from tavt_kit.search import ALGORITHMS, Objectives
from tavt_kit.workflows.run_model import Given, name_of

if TYPE_CHECKING:
    from tavt_kit.data import ImageSet

PROFILE_FILE = "profile.json"

GENES = ("image-size", "layers", "reduction", "precision")
"""What is searched beside token counts, unless it is fixed; and the score, where any is asked for."""

SHORT = 15 * 60.0
"""Seconds below which all layers run, as each number of layers has a quantized graph of its own, 15 s and more of work;
and one precision alone has a table of layer times, from which the others follow by two whole passes each."""


@dataclass(frozen=True, eq=False)
class SearchConfig:
    """The parameters of ``search``, and what follows from them.

    Args:
        model: Run folder, or wrapped model with its card, which stays as it is.
        out: Folder to write; the same call continues it.
        target: Where it will run, such as ``openvino:cpu:threads=2``; needed for a latency, else multiply-adds are
            the cost.
        budget: Limits such as ``latency=8ms``, ``flops=3G``, ``top1=84%`` or ``drop=0.5``.
        data: Folder of class folders, CSV list (path,label[,split]), ``NAME:FOLDER`` (cub:birds/), ``elpv``,
            ``textile``, the run folder whose split is kept to, or in Python an ``ImageSet``. A run knows its own, and
            so does the model that was read from one.
        profile: ``profile.json`` carried from the target: latencies are predicted by it, and nothing is measured here.
        schedule: Schedules to begin with: ``dense``, ``taper:0.2``, ``stages:0.5``, or counts such as
            ``197x4,150x4,90x4``.
        front: Run folder or ``front.json`` of an earlier search, whose front to begin with.
        algorithm: ``nsga2``, ``surrogate`` (fewer evaluations), ``tavt`` (mended), ``tavt-official`` or ``random``.
        objective: A metric (top1, macro_f1, recall[CLASS], loss, agreement, divergence), a cost (macs, latency,
            throughput), or both; by default top1 against latency with a target, else macs.
        score: Score that ranks the tokens, ``column`` or ``cls``, or ``any`` to search both; the model's own by
            default.
        pool: Whether the head pools over the ``kept`` tokens or all, ``restored``; the model's own by default.
        reduction: Such as ``drop`` or ``merge`` alone; all are searched by default, where the model can.
        precision: Precision of the target, ``f32``, ``f16``, ``bf16`` or ``int8``, and no other; by default f32 and
            narrower ones are searched.
        evaluations: Configurations to evaluate, the dense model and its baselines included.
        population: Schedules of a generation; ``None`` for the algorithm's own.
        max_time: Bound on the time of the whole call: seconds, or a text such as ``15m``. The first look at it and
            timing the layers get at most two fifths of it (what they leave out is said), measuring the finalists two
            fifths are kept for, the search gets what is left; finalists for which no time was left are recorded as
            such. Below 15 minutes all layers run.
        final: Candidates of the front to measure end to end.
        screen: Images that a candidate is judged on first, against cheaper ones; 0 to look at all of them.
        fix: Choices that stay as the model has them: ``image-size``, ``layers``, ``reduction``, ``precision``, or
            ``all``, so that schedules alone are searched; also with commas between them.
        baselines: Whether the dense model at each image size, in each precision and with fewer layers is evaluated
            whatever the budget, and the best of them measured.
        baseline: Models of the user's own to hold it against: ``.onnx`` and ``.xml`` files, or runs.
        seed: Seed of everything random.
        limit: Images of val to use at most.
        workers: Worker processes; ``None`` for this process alone.
        fresh: Whether to start again instead of continuing what ``out`` holds.
        min_patches: Patches that every layer keeps at least; by default 16, or half of the model's where it has fewer
            than 32, and no more than the least that a ``schedule`` to begin with keeps.
        table_seconds: Seconds that timing the layers aims for, in each precision; every part runs a few times
            whatever this is. A short time makes predictions coarser, not the verdict: what is chosen is measured.
        measure_seconds: Seconds of timed runs of each finalist at least, twice as many where the machine is not quiet;
            the look at the dense and the smallest schedule before the search takes no longer.
        progress: Watcher; told sentences, a ``FeasibilityTable``, and after each evaluation a
            ``tavt_kit.search.Progress``.

    Raises:
        TavtError: Parameters that contradict each other, or a number out of range.
    """

    model: Given
    _: KW_ONLY
    out: str | Path
    target: str | TargetDevice | None = None
    budget: str | Sequence[str] | Budget = ()
    data: str | Path | ImageSet | None = None
    profile: str | Path | LatencyTable | None = None
    schedule: str | Sequence[str] = ()
    front: str | os.PathLike[str] | None = None
    algorithm: str = "nsga2"
    objective: str | Sequence[str] = ()
    score: str | None = None
    pool: str | None = None
    reduction: str | None = None
    precision: str | None = None
    evaluations: int = 300
    population: int | None = None
    max_time: str | float | None = None
    final: int = 6
    screen: int = 128
    fix: str | Sequence[str] = ()
    baselines: bool = True
    baseline: str | Sequence[str] = ()
    seed: int = 0
    limit: int | None = None
    workers: int | None = None
    fresh: bool = False
    min_patches: int | None = None
    table_seconds: float = 60.0
    measure_seconds: float = 1.5
    progress: Progress | None = None

    def __post_init__(self) -> None:
        timed = [str(limit) for limit in self.bounds.of("latency", "throughput")]
        if self.weighed.cost == "predicted":
            timed += [f"`objective` {text}" for text in self.weighed.texts if text in ("latency", "throughput")]
        if not (self.table_seconds > 0 and self.measure_seconds > 0):
            given = f"`table_seconds` {self.table_seconds:g} and `measure_seconds` {self.measure_seconds:g}"
            raise ParameterError(f"a measurement needs some time, got {given}")
        if self.algorithm not in ALGORITHMS:
            raise ParameterError(f"`algorithm` is one of {', '.join(ALGORITHMS)}, got {self.algorithm!r}")
        own = (self.population, self.front, self.min_patches)
        if self.algorithm == "tavt-official" and (own != (None, None, None) or several(self.schedule)):
            raise ParameterError(
                "`algorithm` tavt-official has sizes and first schedules of its own, so it takes no "
                "`population`, `schedule`, `front` or `min_patches`; use tavt"
            )
        if self.workers is not None and self.workers < 1:
            raise ParameterError(f"`workers` must be at least 1, got {self.workers}")
        if unknown := [gene for gene in self.fixed if gene not in (*GENES, "score", "all")]:
            raise ParameterError(f"`fix` takes {', '.join(GENES)} or all, got {unknown[0]!r}")
        if self.device is None and timed:
            raise BudgetError(f"a latency is of a machine, so {timed[0]} needs `target`, such as openvino:cpu")

    @property
    def model_text(self) -> str:
        """What the model was asked for by, or its name."""
        return str(Path(name_of(self.model))) if isinstance(self.model, str | os.PathLike) else name_of(self.model)

    @property
    def folder(self) -> Path:
        """Where ``out`` is."""
        return Path(self.out)

    @cached_property
    def bounds(self) -> Budget:
        """The budget, read."""
        return self.budget if isinstance(self.budget, Budget) else Budget.parse(several(self.budget))

    @cached_property
    def max_seconds(self) -> float | None:
        """Bound on the time of the whole call."""
        return parse_duration(self.max_time)

    @cached_property
    def table(self) -> LatencyTable | None:
        """The table that was carried from the target; raises TargetError where another target is asked for."""
        if not isinstance(self.profile, str | Path):
            return self.profile
        path = Path(self.profile)
        table = LatencyTable.from_record(read_record(path / PROFILE_FILE if path.is_dir() else path, "profile"))
        if self.target is not None or self.precision is not None:
            own = table.target
            asked = str(self.target or f"{own.runtime}:{own.processor}")
            wanted = TargetDevice.parse(asked, precision=self.precision)
            if wanted != (own if wanted.threads is not None else replace(own, threads=None)):
                raise TargetError(
                    f"the profile {path} is of {own}, but {wanted} is asked for; leave `target` and `precision` "
                    "out, or make a profile of that target"
                )
        return table

    @cached_property
    def device(self) -> TargetDevice | None:
        """Where it will run; raises TargetError where the target cannot be read."""
        device = None
        if self.target is not None:
            device = TargetDevice.parse(str(self.target), precision=self.precision).resolved()
            refuse_modes(device)
        elif self.table is None and self.precision is not None:
            raise ParameterError(
                f"`precision` is the target's, got {self.precision} without a target; give `target` too"
            )
        return device if self.table is None else self.table.target

    @cached_property
    def fixed(self) -> tuple[str, ...]:
        """The names of genes that stay, each once."""
        texts = [*several(self.fix), *(["precision"] if self.precision else [])]
        genes = [gene.strip().lower().replace("_", "-") for text in texts for gene in text.split(",")]
        return tuple(dict.fromkeys(filter(None, genes)))

    @cached_property
    def weighed(self) -> Objectives:
        """The objectives, read."""
        return Objectives.parse(several(self.objective))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that an objective or a floor is about; top-1 where no other leads."""
        floors = ("top1" if limit.quantity == "drop" else limit.name for limit in self.bounds.floors)
        return tuple(dict.fromkeys((self.weighed.metric or "top1", *floors)))

    @property
    def genes(self) -> tuple[str, ...]:
        """What is searched beside token counts as far as the config goes: what is given or fixed is not.

        Precision is a gene where time counts on a target of this machine that begins with f32 and may know int8.
        Agreement with the dense model means nothing where there are several, and a carried profile is of one model, at
        the image sizes that its weights were trained for. In a short time all layers run.
        """
        if "all" in self.fixed or "agreement" in self.metrics:
            return ()
        if self.table is not None:
            return () if "image-size" in self.fixed else ("image-size",)
        device = self.device
        quantizes = device is not None and device.is_cpu and runtime_of(device.runtime).takes != "modules"
        free = {
            "layers": not self.is_short, "reduction": self.reduction is None, "score": self.score == "any",
            "precision": quantizes and self.is_timed and device is not None and device.precision == "f32",
        }  # fmt: skip
        return tuple(gene for gene in (*GENES, "score") if gene not in self.fixed and free.get(gene, True))

    @property
    def is_short(self) -> bool:
        """Whether the time does for one table and all layers alone."""
        return self.max_seconds is not None and self.max_seconds < SHORT

    @property
    def alone(self) -> str:
        """Why the search proposes schedules alone, so that its genes make baselines only; empty where it does not."""
        if self.algorithm not in ("nsga2", "random"):
            return f"The algorithm {self.algorithm} proposes schedules alone"
        return "Workers evaluate schedules alone" if (self.workers or 1) > 1 else ""

    @property
    def is_here(self) -> bool:
        """Whether the target is on this machine: a carried profile stands for one that is not."""
        return self.device is not None and self.table is None

    @property
    def is_timed(self) -> bool:
        """Whether latency is what the search minimises or limits, so that the target's layers are timed first."""
        limited = bool(self.bounds.of("latency", "throughput"))
        return self.device is not None and (limited or self.weighed.kind(self.bounds, timed=True) == "predicted")

    @property
    def final_precision(self) -> str:
        """In which what was measured in the end is evaluated: bf16 where the target runs it, else f32."""
        return "bf16" if self.device is not None and self.device.precision == "bf16" else "f32"

    @cached_property
    def evaluation_precision(self) -> str:
        """In which torch evaluates: bf16 where that is faster and finalists are evaluated once more."""
        import torch

        from tavt_kit.runtimes.torch_session import is_bf16_faster

        # Where bf16 is a gene, f32 has to answer for itself.
        quick = "precision" not in self.genes and self.is_timed and is_bf16_faster(torch.device("cpu"))
        return "bf16" if quick else self.final_precision

    @property
    def races(self) -> bool:
        """Whether candidates may be stopped early: top-1 alone is told of a part of the images."""
        plain = self.metrics == ("top1",)
        return self.screen > 0 and plain and self.algorithm != "tavt-official"

    @property
    def precisions(self) -> dict[str, str]:
        """How images were evaluated, as ``front.json`` says it."""
        by_phase = {"search": self.evaluation_precision, "final": self.final_precision, "runtime": "torch"}
        return by_phase | ({"screen": str(self.screen)} if self.races else {})

    def as_record(self) -> dict[str, Any]:
        """What ``recipe.json`` says of it."""
        plain = ("algorithm", "evaluations", "population", "max_seconds", "final", "seed", "limit", "screen",
                 "genes", "workers")  # fmt: skip
        data = self.data
        return {
            **{name: encode(getattr(self, name)) for name in plain},
            "model": self.model_text, "schedules": list(several(self.schedule)),
            "front": None if self.front is None else str(Path(self.front)), "objectives": list(several(self.objective)),
            "data": data if data is None else str(data) if isinstance(data, str | Path) else data.name,
            "target": None if self.device is None else str(self.device), "budgets": self.bounds.texts(),
            "evaluate_on": f"torch:{self.evaluation_precision}",
            "profile": None if self.table is None else self.table.digest,
            "baselines": [*(["own"] if self.baselines else []), *several(self.baseline)],
        }  # fmt: skip
