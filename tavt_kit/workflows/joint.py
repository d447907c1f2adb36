"""The model as a search wants it: at another image size, with fewer layers, merging, in fewer bits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import cast

from tavt_kit.checkpoints.architecture import create, fit, fitting_tensors, sketch
from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.latency_table import LatencyTable
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import load_arrays, thin_out
from tavt_kit.errors import TavtError, UnsupportedBackbone
from tavt_kit.models.flops import MacsFormula
from tavt_kit.models.token_reduction import REDUCTIONS, SCORES
from tavt_kit.models.wrap import AdaptiveViT, wrap
from tavt_kit.pruning.prune import spared_layers
from tavt_kit.runtimes import FileSession
from tavt_kit.runtimes.available import is_available, runtime_of
from tavt_kit.runtimes.torch_session import is_bf16_faster
from tavt_kit.search.space import JointSpace
from tavt_kit.workflows.search_context import SearchContext

_SHARES = (0.875, 0.75, 0.625)  # of the patches along a side: the image sizes that are tried, in whole patches

_SPARED = 3  # a third of the layers may be left out, in the order of what their absence costs
_LOOKED_AT = 48  # training images that tell that order


def joint_space(context: SearchContext) -> JointSpace | None:
    """What the genes may be for this model; ``None`` where each has one value alone. No image is looked at.

    How many layers may be left out is known, which ones is made up, as their costs are alike: see ``with_weakest``.
    """
    import torch

    model, target, genes = context.model, context.config.device, context.config.genes
    sizes = _sizes(context) if "image-size" in genes else [(model.backbone.image_size, model.tokens)]
    scores, reductions, precisions = [model.score], [model.reduction], ["f32" if target is None else target.precision]
    if "score" in genes:
        has_class_token = getattr(model.backbone, "has_class_token", True)
        scores += [name for name in SCORES if name != model.score and (has_class_token or not SCORES[name].rows)]
    if "reduction" in genes:
        able = [name for name, each in REDUCTIONS.items() if each.owners is None or model.backbone.unmergeable is None]
        reductions += [name for name in able if name != model.reduction]
    if "precision" in genes and target is not None:  # those of fewer bits that its processor has
        halves = runtime_of(target.runtime).takes == "openvino" and is_bf16_faster(torch.device("cpu"))
        fewer = ["bf16", "int8"] if halves else ["int8"]
        precisions += [bits for bits in fewer if is_available(target, bits)]
    spared = range(1, 1 + model.layers // _SPARED) if "layers" in genes else ()
    space = JointSpace(
        model.layout, context.plain.minimum, sizes=tuple(size for size, _ in sizes),
        at_size=tuple(tokens for _, tokens in sizes), spared=tuple(spared), scores=tuple(scores),
        precisions=tuple(precisions), reductions=tuple(reductions),
    )  # fmt: skip
    return space if max(space.choices) > 1 else None


def with_weakest(space: JointSpace, context: SearchContext) -> JointSpace:
    """The same, leaving out the layers whose absence costs least on training images; or none that cannot."""
    if not space.spared:
        return space
    import torch

    samples = thin_out(context.images.split("train"), _LOOKED_AT)
    images, labels = map(torch.from_numpy, load_arrays(samples, context.preprocessing))
    try:
        return replace(space, spared=tuple(spared_layers(context.model, len(space.spared), images, labels)))
    except UnsupportedBackbone:
        return replace(space, spared=())


def _sizes(context: SearchContext) -> list[tuple[tuple[int, int], int]]:
    """Image sizes in whole patches with the tokens of each, the model's own first, then falling.

    They are those that the weights were trained for; where they know one alone and its times are of this machine, the
    usual shares. Such as the family takes.
    """
    model, (height, width) = context.model, context.preprocessing.image_size
    (rows, columns), card = model.grid, context.card
    sizes = [(size, size) for size in card.image_sizes]
    if not sizes and context.config.table is None:
        usual = [(max(2, round(rows * share)), max(2, round(columns * share))) for share in _SHARES]
        sizes = [(height * row // rows, width * column // columns) for row, column in usual]
    by_tokens: dict[int, tuple[int, int]] = {}
    for size in sizes:
        try:
            bare = sketch(card.name, {"num_classes": len(card.classes), **card.arguments, "img_size": list(size)})
            fitting_tensors(bare, model.bare.state_dict(), card.name)
            tokens = wrap(bare).tokens
        except TavtError:  # a size that this family, or a window of its weights, does not take
            continue
        if tokens < model.tokens:
            by_tokens.setdefault(tokens, size)
    smaller = ((size, tokens) for tokens, size in sorted(by_tokens.items(), reverse=True))
    return [((height, width), model.tokens), *smaller]


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
            arguments = {"num_classes": len(card.classes), **card.arguments, "img_size": list(size)}
            card = replace(card, arguments=arguments, preprocessing=context.preprocessing.at(size).as_record())
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
    return cache(lambda choice: formula(variant_of(context, choice)).macs(Configuration.of(choice).schedule))


def predicting(
    context: SearchContext, tables: Mapping[str | None, LatencyTable], lines: Mapping[str, Sequence[float]]
) -> Callable[[Choice], float]:
    """Predicted milliseconds; of another image size by the same layers, the stem by its share of the patches.

    Another score is predicted as the model's own, another reduction by its multiply-adds beside those of the model's
    own: the measurement at the end tells them apart.

    Args:
        tables: Tables by precision; ``None`` for the target's own.
        lines: By precision without a table: its milliseconds at 0 ms of the target's own, and for each of them.
    """
    macs = counting(context)

    @cache
    def at(tokens: int, precision: str | None) -> LatencyTable:
        return tables[precision].resized(tokens)

    @cache
    def milliseconds(choice: Choice) -> float:
        wanted = Configuration.of(choice)
        more = 1.0 if wanted.reduction is None else macs(choice) / macs(replace(wanted, reduction=None).choice)
        start, slope = lines.get(wanted.precision or "", (0.0, 1.0))
        precision = wanted.precision if wanted.precision in tables else None
        return more * (start + slope * at(variant_of(context, choice).tokens, precision).predict(wanted.schedule))

    return milliseconds


_CALIBRATE = 100  # training images

# In every layer: the schedules that a file for all schedules is calibrated at, in turns.
_DROPPED = {"steep": 0.25, "mild": 0.1, "dense": 0.0}


def int8_session(context: SearchContext, model: AdaptiveViT, executed: tuple[int, ...] | None = None) -> FileSession:
    """One int8 file of the model, or a variant, for all schedules of the layers that run (``None``: all); made once."""
    key, target = (id(model), executed), context.target
    if key not in context.quantized:
        from tavt_kit.exporters.options import SWITCHABLE, Form, Int8Options, Plan
        from tavt_kit.exporters.writer import Writer

        schedules = {name: TokenSchedule.taper(model.layout, ratio, executed) for name, ratio in _DROPPED.items()}
        size = "x".join(map(str, model.backbone.image_size))
        fewer = "" if executed is None else f" with {len(executed)} layers"
        merging = f", to {model.reduction}" if model.reduction != context.model.reduction else ""
        context.progress.say(f"Quantizing the model at {size} px{fewer}{merging}, so that it answers in int8.")
        form = runtime_of(target.runtime).takes
        quantizer = "nncf" if form == "openvino" else "onnxruntime"
        opened = replace(target, precision="f32")  # a quantized file says itself what is in 8 bits
        plan = Plan(calibrate=_CALIBRATE, target=opened, int8=Int8Options(quantizer, "off"))
        writer = Writer(model, schedules, context.images, plan)
        with tempfile.TemporaryDirectory(prefix="fgvc-kit-int8-") as folder:
            written = writer.write(Form(form, "int8", SWITCHABLE), Path(folder))
        context.quantized[key] = cast(FileSession, written.session)
    return context.quantized[key]
