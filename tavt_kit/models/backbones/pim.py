"""FGVC-PIM, the plug-in module (Chou et al., arXiv 2202.03822), over any timm model with four feature levels.

On a ViT tokens can be dropped inside the blocks: before the pyramid every level has all of its tokens again, the
dropped ones at the last value they had, because the combiner reads the selection by rank and the official pyramid
freezes the number of tokens. Swin and convolutional backbones have nothing to drop.

Mended against the official code: ``use_combiner`` is heeded, and a model without pyramid, selector or combiner runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.backbones.base import Backbone, Outputs
from tavt_kit.models.backbones.pim_heads import mean_of_heads
from tavt_kit.models.backbones.pim_levels import LEVELS, levels_of, make_backbone, plan_levels
from tavt_kit.models.backbones.pim_parts import Combiner, Pyramid, by_confidence, classifier, closest_ranks, linear_macs
from tavt_kit.models.backbones.pim_vit import PimVitBackbone, PimWhole
from tavt_kit.models.backbones.registry import FGVC_EVALUATION, register
from tavt_kit.models.backbones.timm_vit import is_timm_vit
from tavt_kit.models.timm_import import timm
from tavt_kit.models.token_reduction import gather_rows

CUB_SELECTS = (2048, 512, 128, 32)
"""Selected tokens of each level, shallow to deep, in the official configuration for CUB."""

_HEADS = ("combiner", "sum")


def checkpoint_filter_fn(state: Mapping[str, Tensor], model: Pim) -> dict[str, Tensor]:
    """Position tables of a ViT backbone at another image size, resized as for any of timm's ViTs."""
    if not isinstance(model.backbone, timm.models.vision_transformer.VisionTransformer):
        return dict(state)
    inner = {name.removeprefix("backbone."): t for name, t in state.items() if name.startswith("backbone.")}
    filtered = timm.models.vision_transformer.checkpoint_filter_fn(inner, model.backbone)
    rest = {name: t for name, t in state.items() if not name.startswith("backbone.")}
    return rest | {f"backbone.{name}": t for name, t in filtered.items()}


class Pim(nn.Module):
    """Backbone -> pyramid -> a classifier for every token of every level -> the surest tokens -> combiner.

    Args:
        backbone: timm's name of it.
        num_classes: K.
        img_size: (H, W) or one edge; at another size the model has another shape.
        in_chans: Channels of the images.
        fpn_size: F, width of the pyramid; 1536 in the CUB and NABirds configurations.
        num_selects: Tokens that each level hands to the combiner, shallow to deep.
        use_fpn: Whether there is a pyramid; without one the levels keep their own widths.
        use_selection: Whether tokens are selected.
        use_combiner: Whether there is a combiner; it needs the selection.
        head: What ``forward`` gives: the logits of the ``"combiner"`` (as the official inference), or the logarithm
            of the mean probability of all heads (``"sum"``: the official highest-5). The combiner's by default, where
            there is one.
        drop_rate: Dropout in the combiner, while training.
        **options: More arguments for creating the backbone.

    Raises:
        UnsupportedBackbone: A backbone without four levels, or parts that do not fit together.
        DataError: An image size that the backbone does not take.
    """

    def __init__(
        self,
        backbone: str = "vit_base_patch16_224_miil",
        num_classes: int = 1000,
        img_size: int | Sequence[int] = 448,
        in_chans: int = 3,
        fpn_size: int = 512,
        num_selects: Sequence[int] = (32, 32, 32, 32),
        use_fpn: bool = True,
        use_selection: bool = True,
        use_combiner: bool = True,
        head: str | None = None,
        drop_rate: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.image_size, self.num_classes = (int(height), int(width)), num_classes
        self.backbone_name, self.backbone_options, self.in_chans = backbone, options, in_chans
        self.num_selects = tuple(num_selects) if use_selection else ()
        self.head = head or ("combiner" if use_combiner else "sum")
        self.plan = plan_levels(backbone, self.image_size, in_chans, options)
        self._refuse(use_selection, use_combiner)
        self.backbone = make_backbone(backbone, self.image_size, in_chans, options)
        droppable = is_timm_vit(self.backbone)
        self.static_reason = None if droppable else f"the grid of its backbone, {backbone}, has to stay whole"
        self.num_tokens = sum(level.places for level in self.plan)
        widths = [level.width for level in self.plan]
        self.pyramid = Pyramid(self.plan, fpn_size) if use_fpn else None
        self.classifiers = nn.ModuleList(classifier(fpn_size if use_fpn else own, num_classes) for own in widths)
        self.combiner: Combiner | None = None
        if use_combiner:
            selected = sum(self.num_selects)
            self.combiner = Combiner(selected, fpn_size, num_classes, drop_rate, () if use_fpn else widths)

    def _refuse(self, use_selection: bool, use_combiner: bool) -> None:
        if use_combiner and not use_selection:
            raise UnsupportedBackbone(
                "PIM's combiner reads what was selected; create it with use_combiner=False or use_selection=True"
            )
        if self.head not in _HEADS or (self.head == "combiner" and not use_combiner):
            raise UnsupportedBackbone(
                "PIM's logits are those of head 'combiner', where there is one, or 'sum', got "
                f"head={self.head!r} with use_combiner={use_combiner}"
            )
        places = [level.places for level in self.plan]
        fits = len(self.num_selects) == LEVELS and all(
            0 < count <= most for count, most in zip(self.num_selects, places, strict=True)
        )
        if use_selection and not fits:
            raise UnsupportedBackbone(
                f"PIM selects at least one and at most all tokens of each level ({places}), "
                f"got {list(self.num_selects)}"
            )

    def adapter(self) -> Backbone:
        """The adapter that runs the model for the toolkit."""
        return PimVitBackbone(self) if self.static_reason is None else PimWhole(self)

    def get_classifier(self) -> nn.Module | None:
        """The last linear layer of ``forward``; ``None`` where several heads are added up."""
        return self.combiner.head if self.combiner is not None and self.head == "combiner" else None

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, K) of ``head``."""
        return self.logits_of(self.levels(images))

    def forward_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> what the losses read: see ``outputs_of``."""
        return self.outputs_of(self.levels(images))

    def levels(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the backbone's four levels (B, S, C), shallow to deep."""
        return levels_of(self.backbone, images)

    def judge(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Four levels (B, S, C) -> their features (B, S, F), and the logits (B, S, K) of every token."""
        features = list(levels) if self.pyramid is None else self.pyramid(levels)
        logits = [each(x.transpose(1, 2)).transpose(1, 2) for each, x in zip(self.classifiers, features, strict=True)]
        return features, logits

    def outputs_of(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Four levels (B, S, C) -> all outputs by their official names.

        ``layer1`` to ``layer4`` (B, S, K); ``select_layer1`` (B, n, K) and ``drop_layer1`` (B, S - n, K) to 4, the
        surest tokens first; ``comb_outs`` (B, K). What the model does without is absent.
        """
        features, logits = self.judge(levels)
        outputs = {f"layer{number}": each for number, each in enumerate(logits, 1)}
        picked = []
        for number, count in enumerate(self.num_selects):
            order = by_confidence(logits[number], logits[number].shape[1])
            ranked = gather_rows(logits[number], order)
            outputs[f"select_layer{number + 1}"] = ranked[:, :count]
            outputs[f"drop_layer{number + 1}"] = ranked[:, count:]
            picked.append(gather_rows(features[number], order[:, :count]))
        if self.combiner is not None:
            outputs["comb_outs"] = self.combiner(picked)
        return outputs

    def logits_of(self, levels: Sequence[Tensor]) -> Tensor:
        """Four levels (B, S, C) -> logits (B, K) of ``head``, and nothing that they do not need."""
        features, logits = self.judge(levels)
        combined: list[Tensor] = [] if self.combiner is None else [self.combiner(self.selected(features, logits))]
        if self.head == "combiner":
            return combined[0]
        return mean_of_heads([*(each.mean(1) for each in logits), *combined])

    def result_of(self, levels: Sequence[Tensor]) -> Outputs:
        """Four levels (B, S, C) -> the logits; while training with all outputs, for the losses."""
        if not self.training:
            return Outputs(self.logits_of(levels))
        outputs = self.outputs_of(levels)
        return Outputs(self.logits_among(outputs), outputs)

    def logits_among(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """What ``outputs_of`` gave -> the logits (B, K) of ``head``."""
        if self.head == "combiner":
            return outputs["comb_outs"]
        heads = [each.mean(1) for name, each in outputs.items() if name.startswith("layer")]
        return mean_of_heads([*heads, *(outputs[n] for n in ("comb_outs",) if n in outputs)])

    def pooled_of(self, levels: Sequence[Tensor]) -> Tensor:
        """Four levels (B, S, C) -> (B, F), what ``get_classifier`` receives.

        Raises:
            UnsupportedBackbone: Several heads are added up, so there is no last linear layer.
        """
        if self.combiner is None or self.head != "combiner":
            raise UnsupportedBackbone("PIM's head 'sum' has no one last linear layer; use head 'combiner'")
        return self.combiner.pooled(self.selected(*self.judge(levels)))

    def selected(self, features: Sequence[Tensor], logits: Sequence[Tensor]) -> list[Tensor]:
        """The selected tokens (B, n, F) of each level, the surest first."""
        return [
            gather_rows(x, by_confidence(z, count))
            for x, z, count in zip(features, logits, self.num_selects, strict=True)
        ]

    def closest(self, levels: Sequence[Tensor]) -> Tensor:
        """Four levels (B, S, C) -> (B,): how near the order that the combiner reads is to another one."""
        _, logits = self.judge(levels)
        closest = levels[0].new_full((len(levels[0]),), math.inf).double()
        read = () if self.combiner is None else self.num_selects
        for level, count in zip(logits, read, strict=False):
            closest = closest.minimum(closest_ranks(level, count))
        return closest

    def head_macs(self) -> int:
        """Multiply-adds of everything after a backbone that gives tokens (resized maps are not counted)."""
        total = sum(level.places * linear_macs(each) for level, each in zip(self.plan, self.classifiers, strict=True))
        total += 0 if self.pyramid is None else self.pyramid.macs(self.plan)
        return total + (0 if self.combiner is None else self.combiner.macs(self.num_selects))


_CLASSIFIERS = ("combiner.head", *(f"classifiers.{level}.3" for level in range(LEVELS)))


def _evaluation(size: int, first_conv: str) -> dict[str, Any]:
    """Every edge to 510 px at any input size, as the official code has it, then the centre."""
    return {
        **FGVC_EVALUATION, "input_size": (3, size, size), "crop_pct": size / 510, "classifier": _CLASSIFIERS,
        "first_conv": f"backbone.{first_conv}",
    }  # fmt: skip


register(
    __name__, Pim, {"pim_vit_base_patch16": {"backbone": "vit_base_patch16_224_miil"}},
    _evaluation(448, "patch_embed.proj"),
)  # fmt: skip
register(
    __name__, Pim,
    {"pim_swin_large_patch4_window12_384": {"backbone": "swin_large_patch4_window12_384", "fpn_size": 1536,
                                            "num_selects": CUB_SELECTS}},
    _evaluation(384, "patch_embed.proj"),
)  # fmt: skip
register(__name__, Pim, {"pim_resnet50": {"backbone": "resnet50"}}, _evaluation(448, "conv1"))
register(
    __name__, Pim,
    # torchvision's B7, which the official builder takes, has another epsilon in its norms than timm's.
    {"pim_efficientnet_b7": {"backbone": "efficientnet_b7", "bn_eps": 1e-3}},
    _evaluation(448, "conv_stem"),
)  # fmt: skip
