"""The model as a search wants it: at another image size, with fewer layers, merging, in fewer bits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from tavt_kit.checkpoints.architecture import create, fit, sketch
from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.latency_table import LatencyTable
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import load_arrays, load_bytes, thin_out
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import ExportError, MeasurementError, TargetError, TavtError, UnsupportedBackbone
from tavt_kit.evaluation.evaluator import Evaluator, SwitchableLogits
from tavt_kit.evaluation.result import EvaluationResult, paired
from tavt_kit.exporters.options import SWITCHABLE, Form, Int8Options, Plan
from tavt_kit.exporters.writer import Writer
from tavt_kit.models.flops import MacsFormula
from tavt_kit.models.token_reduction import REDUCTIONS, SCORES
from tavt_kit.models.wrap import wrap
from tavt_kit.pruning.prune import spared_layers
from tavt_kit.runtimes import FileSession, check_available
from tavt_kit.search.space import JointSpace
from tavt_kit.workflows.search_context import SearchConfig, SearchContext, val_samples

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tavt_kit.core.accuracy import PairedDifference
    from tavt_kit.models.wrap import AdaptiveViT

_Key: TypeAlias = tuple[int, str, tuple[int, ...] | None]
"""Of an evaluator: the model, the precision, and the layers that run where they are frozen into a graph."""

_SHARES = (0.875, 0.75, 0.625)
"""Of the patches along a side: the image sizes that are tried, in whole patches."""

_SPARED = 3
"""A third of the layers may be left out, in the order of what their absence costs on this many training images:"""
_LOOKED_AT = 48


def joint_space(context: SearchContext) -> JointSpace | None:
    """What the genes may be for this model, and the schedules over them; no image is looked at.

    A gene of which the model or the target has one value alone is left out; ``None`` where all are. How many layers may
    be left out is known, which ones is made up: where layers are alike the costs are the same. ``with_weakest`` finds
    them.
    """
    model, genes = context.model, context.config.genes
    sizes = _sizes(context) if "image-size" in genes else [(model.backbone.image_size, model.tokens)]
    scores, reductions = [model.score], [model.reduction]
    if "score" in genes:
        has_class_token = getattr(model.backbone, "has_class_token", True)
        scores += [score for score in SCORES if score != model.score and (score != "cls" or has_class_token)]
    if "reduction" in genes and model.backbone.unmergeable is None:
        reductions += [one for one in REDUCTIONS if one != model.reduction]
    spared = range(1, 1 + model.layers // _SPARED) if "layers" in genes else ()
    space = JointSpace(
        model.layout, context.plain.minimum, sizes=tuple(size for size, _ in sizes),
        at_size=tuple(tokens for _, tokens in sizes), spared=tuple(spared), scores=tuple(scores),
        precisions=_precisions(context.config), reductions=tuple(reductions),
    )  # fmt: skip
    return space if max(space.choices) > 1 else None


def with_weakest(space: JointSpace, context: SearchContext) -> JointSpace:
    """The same, leaving out as many layers, those whose absence costs least on training images; or none that cannot.

    Raises:
        DataError: Training images cannot be read.
    """
    if not space.spared:
        return space
    import torch

    samples = thin_out(context.images.split("train"), _LOOKED_AT)
    seen = load_arrays(samples, context.preprocessing, allow_unreadable=context.config.allow_unreadable)
    images, labels = torch.from_numpy(seen.images), torch.from_numpy(seen.labels)
    try:
        return replace(space, spared=tuple(spared_layers(context.model, len(space.spared), images, labels)))
    except UnsupportedBackbone:
        return replace(space, spared=())


def _precisions(config: SearchConfig) -> tuple[str, ...]:
    """The target's own, and those of fewer bits that its processor has."""
    target = config.target
    own = "f32" if target is None else target.precision
    if target is None or "precision" not in config.genes:
        return (own,)
    import torch

    from tavt_kit.runtimes.on_torch import is_bf16_faster

    halves = target.runtime == "openvino" and is_bf16_faster(torch.device("cpu"))
    return (own, *(one for one in (["bf16"] if halves else []) + ["int8"] if _runs(target, one)))


def _runs(target: TargetDevice, precision: str) -> bool:
    try:
        check_available(replace(target, precision=precision))
    except TargetError:  # torch has kernels that OpenVINO has not
        return False
    return True


def target_of(target: TargetDevice, choice: Choice) -> TargetDevice:
    """Where a configuration runs: the target, in its own precision."""
    return replace(target, precision=Configuration.of(choice).precision or target.precision)


def _sizes(context: SearchContext) -> list[tuple[tuple[int, int], int]]:
    """Image sizes in whole patches with the tokens of each, the model's own first, then falling.

    They are those that the weights were trained for, and the usual shares; such as the family takes.
    """
    model, (height, width) = context.model, context.preprocessing.image_size
    (rows, columns), card = model.grid, context.card
    usual = [(max(2, round(rows * share)), max(2, round(columns * share))) for share in _SHARES]
    sizes = [(size, size) for size in card.image_sizes]
    sizes += [(height * row // rows, width * column // columns) for row, column in usual]
    found: dict[int, tuple[int, int]] = {}
    for size in sizes:
        try:
            tokens = wrap(sketch(card.name, {**card.arguments, "img_size": list(size)})).tokens
        except TavtError:  # a size that this family does not take
            continue
        if tokens < model.tokens:
            found.setdefault(tokens, size)
    own = (height, width), model.tokens
    return [own, *((found[tokens], tokens) for tokens in sorted(found, reverse=True))]


def variant_of(context: SearchContext, choice: Choice) -> AdaptiveViT:
    """The model of a configuration; made once, on the device of the context's, whose weights it shares or copies."""
    wanted = Configuration.of(choice)
    if not wanted.is_variant:
        return context.model
    size, score = wanted.image_size, wanted.score or context.model.score
    reduction = wanted.reduction or context.model.reduction
    key = size, score, reduction
    if key not in context.variants:
        card, bare = context.card, context.model.bare
        if size is not None:
            preprocessing = Preprocessing.from_record(card.preprocessing).at(size)
            arguments = {"num_classes": len(card.classes), **card.arguments, "img_size": list(size)}
            card = replace(card, arguments=arguments, preprocessing=preprocessing.as_record())
            weights = bare.state_dict()
            bare = create(card.name, arguments)
            fit(bare, weights, card.name)
            bare.to(next(context.model.parameters()).device)
        made = wrap(bare, score, context.model.pool, reduction).eval()
        made.card = card
        context.variants[key] = made
    return context.variants[key]


def counting(context: SearchContext) -> Callable[[Choice], int]:
    """Multiply-adds of a configuration, by the model that it is of."""
    formula = cache(MacsFormula.of)

    def macs(choice: Choice) -> int:
        return formula(variant_of(context, choice)).macs(Configuration.of(choice).schedule)

    return cache(macs)


def predicting(
    context: SearchContext,
    tables: Mapping[str | None, LatencyTable],
    lines: Mapping[str, Sequence[float]],
) -> Callable[[Choice], float]:
    """Predicted milliseconds; of another image size by the same layers, the stem by its share of the patches.

    Another score is predicted as the model's own, another reduction by its multiply-adds beside those of the model's
    own: the measurement at the end tells them apart.

    Args:
        tables: Tables by precision; ``None`` for the target's own.
        lines: Line of each precision without a table: milliseconds at 0 ms of the target's own, and for each of them.
    """
    macs = counting(context)

    @cache
    def at(tokens: int, precision: str | None) -> LatencyTable:
        table = tables[precision]
        layout = table.model.layout
        if tokens == layout.tokens:
            return table
        share = (tokens - layout.prefix) / (layout.tokens - layout.prefix)
        resized = replace(table.model, layout=replace(layout, tokens=tokens))
        return replace(table, model=resized, cells=replace(table.cells, stem_ms=table.cells.stem_ms * share))

    def milliseconds(choice: Choice) -> float:
        wanted = Configuration.of(choice)
        more = 1.0 if wanted.reduction is None else macs(choice) / macs(replace(wanted, reduction=None).choice)
        start, slope = lines.get(wanted.precision or "", (0.0, 1.0))
        precision = wanted.precision if wanted.precision in tables else None
        return more * (start + slope * at(variant_of(context, choice).tokens, precision).predict(wanted.schedule))

    return cache(milliseconds)


@dataclass(slots=True)
class ConfigurationEvaluator:
    """Answers configurations, each by an evaluator of the variant that it is of.

    Args:
        own: Evaluator of the model as it is.
    """

    own: Evaluator
    context: SearchContext
    _of: dict[_Key, Evaluator] = field(default_factory=dict, init=False)
    _read: dict[Preprocessing, NDArray[np.uint8]] = field(default_factory=dict, init=False)

    def look(self, choices: Sequence[Choice], start: int, stop: int) -> Iterator[tuple[Choice, EvaluationResult]]:
        """As ``Evaluator.look``; those of one variant together."""
        groups: dict[_Key, list[Choice]] = {}
        for choice in choices:
            groups.setdefault(self._key(choice), []).append(choice)
        for members in groups.values():
            try:
                own = self._evaluator(members[0])
            except ExportError as error:  # told for each, and the search goes on
                yield from ((member, EvaluationResult(None, 0.0, str(error))) for member in members)
                continue
            asked = {Configuration.of(member).schedule: member for member in members}
            yield from ((asked[schedule], answer) for schedule, answer in own.look(list(asked), start, stop))

    def result(self, choice: Choice) -> EvaluationResult:
        """The result of one configuration on all images."""
        ((_, answer),) = self.look([choice], 0, len(self.own.labels))
        return answer

    def against(self, source: Choice, candidate: Choice) -> PairedDifference:
        """Candidate minus source on the same images."""
        return paired(self._correct(source), self._correct(candidate))

    def _correct(self, choice: Choice) -> NDArray[np.bool_]:
        try:
            return self._evaluator(choice).correct(Configuration.of(choice).schedule)
        except ExportError as error:
            raise MeasurementError(str(error)) from None

    def at(self, precision: str) -> ConfigurationEvaluator:
        """The same by torch in another precision; what is read and made for other variants is shared."""
        other = replace(self, own=replace(self.own, precision=precision, strategy=None))
        other._of, other._read = self._of, self._read
        return other

    def _key(self, choice: Choice) -> _Key:
        """Configurations of one key are answered together: a quantized graph runs the layers that it was made of."""
        wanted = Configuration.of(choice)
        precision = wanted.precision or self.own.precision
        layers = wanted.schedule.executed if precision == "int8" else None
        return id(variant_of(self.context, choice)), precision, layers

    def _evaluator(self, choice: Choice) -> Evaluator:
        model, key = variant_of(self.context, choice), self._key(choice)
        _, precision, executed = key
        if model is self.own.model and precision == self.own.precision:
            return self.own
        if key not in self._of:
            preprocessing = Preprocessing.from_record(model.require_card().preprocessing)
            strategy = None
            if precision == "int8":
                strategy = SwitchableLogits(int8_session(self.context, model, executed), executed)
            self._of[key] = replace(
                self.own,
                model=model,
                pixels=self._images(preprocessing),
                preprocessing=preprocessing,
                precision=precision,
                strategy=strategy,
            )
        return self._of[key]

    def _images(self, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        if preprocessing == self.own.preprocessing:
            own: NDArray[np.uint8] = self.own.pixels[:]
            return own
        if preprocessing not in self._read:
            allowed = self.context.config.allow_unreadable
            self._read[preprocessing] = load_bytes(
                val_samples(self.context), preprocessing, allow_unreadable=allowed
            ).pixels
        return self._read[preprocessing]


_CALIBRATE = 100
"""Training images."""

_DROPPED = {"steep": 0.25, "mild": 0.1, "dense": 0.0}
"""In every layer: the schedules that a file for all schedules is calibrated at, in turns."""


def int8_session(context: SearchContext, model: AdaptiveViT, executed: tuple[int, ...] | None = None) -> FileSession:
    """The model, or a variant of it, in one int8 file for all schedules of the layers that run; made once.

    Args:
        executed: Layers that run; ``None`` for all.

    Raises:
        ExportError: The model cannot be converted or quantized.
        DataError: Too many training images cannot be read.
    """
    key, target = (id(model), executed), context.target
    if key not in context.quantized:
        schedules = {name: TokenSchedule.taper(model.layout, ratio, executed) for name, ratio in _DROPPED.items()}
        size = "x".join(map(str, model.backbone.image_size))
        fewer = "" if executed is None else f" with {len(executed)} layers"
        merging = f", to {model.reduction}" if model.reduction != context.model.reduction else ""
        context.progress.say(f"Quantizing the model at {size} px{fewer}{merging}, so that it answers in int8.")
        quantizer, form = ("nncf", "openvino") if target.runtime == "openvino" else ("onnxruntime", "onnx")
        opened = replace(target, precision="f32")  # a quantized file says itself what is in 8 bits
        plan = Plan(calibrate=_CALIBRATE, allow_unreadable=context.config.allow_unreadable, target=opened,
                    int8=Int8Options(quantizer, "off"))  # fmt: skip
        writer = Writer(model, schedules, context.images, plan)
        with tempfile.TemporaryDirectory(prefix="fgvc-kit-int8-") as folder:
            written = writer.write(Form(form, "int8", SWITCHABLE), Path(folder))
        context.quantized[key] = cast(FileSession, written.session)
    return context.quantized[key]
