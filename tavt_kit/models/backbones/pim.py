"""FGVC-PIM, the plug-in module (Chou et al., arXiv 2202.03822), over any timm model with four feature levels.

The levels are read as the builders of chou141253/FGVC-PIM read them; the last line is our own generality:

    ViT            the outputs of the last four blocks, prefix tokens included, without the final norm
    Swin           the output of each stage after its patch merging (the last stage has none)
    EfficientNet   the last four stages of blocks (on B7: grids of 28, 28, 14 and 14 at 448 px)
    any other      the last four of the levels that timm's ``forward_intermediates`` gives

On a ViT tokens can be dropped inside the blocks, of which each of the last four hands a level to the pyramid. A level
has all N tokens, for the official pyramid freezes their number: a dropped one is in it with its latest value, and a
block that is left out hands on what it received. Swin and convolutional backbones have nothing to drop.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tavt_kit.errors import DataError, UnknownName, UnsupportedBackbone
from tavt_kit.models.backbones.base import Backbone, Outputs, StaticModel, Watch
from tavt_kit.models.backbones.registry import FGVC_EVALUATION, register
from tavt_kit.models.backbones.timm_vit import TimmVit, is_timm_vit
from tavt_kit.models.costs import HeadCosts, LayerCosts, part_macs
from tavt_kit.models.timm_import import timm
from tavt_kit.models.token_reduction import Pick, TokenState, gather_rows, restore

LEVELS = 4


class Level(NamedTuple):
    """The shape of a level: tokens or grid places S, channels C, and (rows, columns) unless the tokens are frozen."""

    places: int
    width: int
    grid: tuple[int, int] | None


def make_backbone(name: str, size: tuple[int, int], in_chans: int, options: Mapping[str, Any]) -> nn.Module:
    """A timm model without what comes after its last level, so that every weight is one that is used."""
    model: Any = whole_backbone(name, size, in_chans, {"num_classes": 0, **options})
    if is_timm_vit(model):
        if len(model.blocks) < LEVELS:
            raise UnsupportedBackbone(f"PIM reads {LEVELS} blocks of a ViT, but {name} has {len(model.blocks)}")
        patch = model.patch_embed.patch_size
        if any(edge % step for edge, step in zip(size, patch, strict=True)):
            raise DataError(
                f"{name} cuts images into patches of {patch[0]}x{patch[1]}, so its image size must be a multiple of "
                f"that, got {size[0]}x{size[1]}"
            )
        model.norm, model.fc_norm, model.head = nn.Identity(), nn.Identity(), nn.Identity()
        if getattr(model, "attn_pool", None) is not None:
            model.attn_pool = None
    elif _is_swin(model):
        model.norm = model.head = nn.Identity()
    else:
        if not hasattr(model, "forward_intermediates") or not hasattr(model, "prune_intermediate_layers"):
            raise UnsupportedBackbone(f"PIM needs a timm model with forward_intermediates, which {name} has not")
        deep = len(model.blocks) if _indexing(model) else len(model.feature_info)
        if deep < LEVELS:
            raise UnsupportedBackbone(f"PIM reads {LEVELS} levels, but {name} has {deep}; choose a deeper model")
        model.prune_intermediate_layers(LEVELS, prune_norm=True, prune_head=True, **_indexing(model))
    return model  # type: ignore[no-any-return]


def whole_backbone(name: str, size: tuple[int, int], in_chans: int, options: Mapping[str, Any]) -> nn.Module:
    """The timm model with all of its parts, created for the size if it has a fixed one."""
    given: dict[str, Any] = {"in_chans": in_chans, **options}
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        given["img_size"] = size
    return timm.create_model(name, **given)  # type: ignore[no-any-return]


def _maps(model: Any, images: Tensor) -> list[Tensor]:
    """Tokens (B, S, C), or convolutional maps (B, C, h, w)."""
    levels: list[Tensor] = []
    if is_timm_vit(model):
        backbone = TimmVit(model)
        state = backbone.embed(images)
        for layer in range(backbone.layers):
            state = backbone.feed(layer, backbone.attend(layer, state, None))
            levels.append(state.tokens)
    elif _is_swin(model):
        x, stages = model.patch_embed(images), list(model.layers)
        # timm merges patches at the start of a stage; here a level is what the next stage has merged already.
        for stage, following in zip(stages, [*stages[1:], None], strict=True):
            x = stage.blocks(x)
            x = x if following is None else following.downsample(x)
            levels.append(x.flatten(1, 2))
    else:
        levels = model.forward_intermediates(images, LEVELS, intermediates_only=True, **_indexing(model))
    return levels[-LEVELS:]


def _is_swin(model: nn.Module) -> bool:
    return type(model) is timm.models.swin_transformer.SwinTransformer


def _indexing(model: nn.Module) -> dict[str, Any]:
    return {"extra_blocks": True} if type(model) is timm.models.efficientnet.EfficientNet else {}


_JOINED = 32
"""Selected tokens for each node of the combiner's graph."""


class Pyramid(nn.Module):
    """Every level to one width, then from deep to shallow each level adds what the one below it holds (section 3.2).

    P_l = W2 ReLU(W1 f_l); h_4 = P_4; h_(l-1) = P_(l-1) + up(h_l). Tokens are moved between levels by a learned
    matrix over places, which freezes their numbers; convolutional maps are resized, bilinear.
    """

    def __init__(self, levels: Sequence[Level], width: int) -> None:
        super().__init__()
        self.width = width
        self.grids = tuple(level.grid for level in levels)
        self.project = nn.ModuleList(
            nn.Sequential(nn.Linear(level.width, level.width), nn.ReLU(), nn.Linear(level.width, width))
            for level in levels
        )
        self.up = nn.ModuleList(
            nn.Conv1d(deep.places, shallow.places, 1)
            if deep.grid is None and deep.places != shallow.places
            else nn.Identity()
            for shallow, deep in pairwise(levels)
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Four of (B, S, C) -> four of (B, S, F)."""
        features = [project(level) for project, level in zip(self.project, levels, strict=True)]
        for deep in range(len(features) - 1, 0, -1):
            x, grid, target = features[deep], self.grids[deep], self.grids[deep - 1]
            if grid is None or target is None or grid == target:
                raised = self.up[deep - 1](x)
            else:
                maps = x.transpose(1, 2).reshape(-1, x.shape[2], *grid)
                raised = F.interpolate(maps, size=target, mode="bilinear").flatten(2).transpose(1, 2)
            features[deep - 1] = features[deep - 1] + raised
        return features


def by_confidence(logits: Tensor, count: int) -> Tensor:
    """The ``count`` most confident places, the surest first; a place's confidence is its largest probability.

    The order (B, count) is an input of the combiner. Of equal confidences (of 1 where a softmax saturates) the lowest
    place comes first, on every route: ONNX defines its TopK so and has no stable sort, elsewhere a stable sort does it.
    """
    confidence = logits.softmax(dim=2).amax(dim=2)
    if torch.onnx.is_in_onnx_export():
        return confidence.topk(count, dim=1).indices
    return confidence.argsort(dim=1, descending=True, stable=True)[:, :count]


class Combiner(nn.Module):
    """A graph convolution over what was selected, in its order (section 3.4).

    The tokens X (F x S) become J = S // 32 nodes by a linear layer over places; adjacency
    A = A0 + alpha * tanh(q_i - k_j), with q and k channel means of two convolutions; X = BN(conv(X) A); a linear
    layer joins the nodes, another gives the logits. S is the number of tokens of all levels together.
    """

    def __init__(self, selected: int, width: int, classes: int, drop: float) -> None:
        super().__init__()
        nodes = selected // _JOINED
        if nodes < 1:
            raise UnsupportedBackbone(
                f"PIM's combiner makes one node of every {_JOINED} selected tokens, so select at least so many, "
                f"got {selected}"
            )
        self.gather = nn.Linear(selected, nodes)
        self.adjacency = nn.Parameter(torch.eye(nodes) / 100 + 1 / 100)
        self.strength = nn.Parameter(torch.zeros(1))
        self.mix = nn.Conv1d(width, width, 1)
        self.query = nn.Conv1d(width, width // 4, 1)
        self.key = nn.Conv1d(width, width // 4, 1)
        self.norm = nn.BatchNorm1d(width)
        self.join = nn.Linear(nodes, 1)
        self.drop = nn.Dropout(drop)
        self.head = nn.Linear(width, classes)

    def pooled(self, selected: Sequence[Tensor]) -> Tensor:
        """Of each level (B, n, F), the surest token first -> (B, F)."""
        x = self.gather(torch.cat(list(selected), dim=1).transpose(1, 2))  # (B, F, J)
        q, k = self.query(x).mean(1), self.key(x).mean(1)
        adjacency = self.adjacency + self.strength * (q.unsqueeze(2) - k.unsqueeze(1)).tanh()
        return self.join(self.norm(self.mix(x) @ adjacency)).flatten(1)  # type: ignore[no-any-return]

    def forward(self, selected: Sequence[Tensor]) -> Tensor:
        """Of each level (B, n, F) -> logits (B, K)."""
        return self.head(self.drop(self.pooled(selected)))  # type: ignore[no-any-return]


Compat = Literal["fixed", "official"]
COMPATS: tuple[Compat, ...] = ("fixed", "official")


def _heads(outputs: Mapping[str, Tensor]) -> list[Tensor]:
    """The output dictionary of ``Pim.forward_outputs`` -> logits (B, K) of each head: levels first, then combiner."""
    return [*(value.mean(1) for name, value in outputs.items() if name.startswith("layer")), outputs["comb_outs"]]


def head_scores(outputs: Mapping[str, Tensor]) -> Tensor:
    """The same as probabilities (B, heads, K)."""
    return torch.stack(_heads(outputs), dim=1).softmax(2)


def head_order(scores: Tensor, compat: Compat = "fixed") -> Tensor:
    """Heads (B, heads) by their largest probability: the surest first, or last as in the official code."""
    if compat not in COMPATS:
        raise UnknownName(f"compat must be one of {', '.join(COMPATS)}, got {compat!r}")
    return scores.amax(dim=2).argsort(dim=1, descending=compat == "fixed", stable=True)


def fuse_heads(scores: Tensor, count: int, compat: Compat = "fixed") -> Tensor:
    """ "highest-k": (B, heads, K) probabilities -> (B, K), the sum of ``count`` of them in ``head_order``.

    The official order adds the k least confident ones; only the sum of all five does not depend on that.
    """
    return gather_rows(scores, head_order(scores, compat)[:, :count]).sum(1)


def mean_of_heads(logits: Sequence[Tensor]) -> Tensor:
    """Logits (B, K) of each head -> the logarithm (B, K) of their mean probability."""
    return torch.stack([each.log_softmax(1) for each in logits]).logsumexp(0) - math.log(len(logits))


class _PimHead:
    """What both adapters do after the backbone: the plug-in reads four levels (B, S, C) of a state."""

    pim: Pim

    @abstractmethod
    def levels(self, state: TokenState) -> tuple[Tensor, ...]:
        """The four levels of a state that passed every layer."""

    def outputs(self, state: TokenState) -> Outputs:
        """The logits; while training with all outputs, for the losses."""
        levels = self.levels(state)
        if not self.pim.training:
            return Outputs(self.pim.compute_logits(levels))
        outputs = self.pim.compute_outputs(levels)
        return Outputs(self.pim.logits_among(outputs), outputs)

    def pooled(self, state: TokenState) -> Tensor:
        if self.pim.head != "combiner":
            raise UnsupportedBackbone("PIM's head 'sum' has no one last linear layer; use head 'combiner'")
        return self.pim.combiner.pooled(self.pim.selected(*self.pim.judge(self.levels(state))))

    def closest(self, state: TokenState) -> Tensor:
        """(B,): how near the order that the combiner reads is to another one.

        The smallest relative gap between the confidences of two neighbours, of those that are taken and the surest
        that is not.
        """
        _, logits = self.pim.judge(self.levels(state))
        closest = state.tokens.new_full((len(state.tokens),), math.inf).double()
        for level, count in zip(logits, self.pim.num_selects, strict=True):
            confidence = level.double().softmax(dim=2).amax(dim=2)
            ordered = confidence.sort(dim=1, descending=True).values[:, : count + 1]
            closest = closest.minimum(((ordered[:, :-1] - ordered[:, 1:]) / ordered[:, :-1]).amin(dim=1))
        return closest


class PimVitBackbone(_PimHead, TimmVit):
    """See the module; attributes as in ``Backbone``."""

    def __init__(self, pim: Pim) -> None:
        super().__init__(pim.backbone)
        self.pim = pim
        self.head_rows = None
        self.unmergeable = "its pyramid reads every token's latest value in four layers"
        self.first = self.layers - LEVELS

    def embed(self, images: Tensor) -> TokenState:
        """(B, 3, H, W) -> (B, N, D), every token of it kept for the levels."""
        state = super().embed(images)
        return replace(state, last=state.tokens)

    def attend(self, layer: int, state: TokenState, watch: Watch | None) -> TokenState:
        return super().attend(layer, self._noted(layer, state), watch)

    def attend_rows(self, layer: int, state: TokenState, pick: Pick) -> TokenState:
        return super().attend_rows(layer, self._noted(layer, state), pick)

    def _noted(self, layer: int, state: TokenState) -> TokenState:
        """Note the levels before ``layer`` that are not noted yet; a layer that is timed alone has none."""
        noted: tuple[Tensor, ...] = state.notes.get("levels", ())
        missing = layer - self.first - len(noted)
        if state.last is None or missing <= 0:
            return state
        levels = (*noted, *[state.last] * missing)
        return replace(state, notes=MappingProxyType({**state.notes, "levels": levels}))

    def levels(self, state: TokenState) -> tuple[Tensor, ...]:
        if state.last is None:  # mere tokens, to time the head: as many rows to restore, at whatever places
            places = torch.arange(state.count, device=state.tokens.device).expand(state.tokens.shape[0], -1)
            blank = state.tokens.new_zeros(state.tokens.shape[0], self.tokens, state.tokens.shape[2])
            state = replace(state, last=restore(blank, state.tokens, places))
        return self._noted(self.layers, state).notes["levels"]  # type: ignore[no-any-return]

    def costs(self) -> tuple[int, tuple[LayerCosts, ...], HeadCosts]:
        stem, layers, _ = super().costs()
        shape = (self.tokens, self.model.embed_dim)
        return stem, layers, HeadCosts(part_macs(self.pim, lambda x: self.pim.compute_logits([x] * LEVELS), shape))


class PimWhole(_PimHead, StaticModel):
    """Of backbones with nothing to drop; the state carries their levels to the head."""

    def __init__(self, pim: Pim) -> None:
        super().__init__(pim)
        self.pim = pim

    def embed(self, images: Tensor) -> TokenState:
        """(B, 3, H, W) -> the deepest level (B, S, C), the four of them noted."""
        levels = tuple(self.model.levels(images))
        return TokenState(levels[-1], 0, notes=MappingProxyType({"levels": levels}))

    def levels(self, state: TokenState) -> tuple[Tensor, ...]:
        return state.notes["levels"]  # type: ignore[no-any-return]


CUB_SELECTS = (2048, 512, 128, 32)
"""Selected tokens of each level, shallow to deep, in the official configuration for CUB."""


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
        img_size: (H, W) or one edge; at another size the model has another shape.
        fpn_size: F, width of the pyramid; 1536 in the CUB and NABirds configurations.
        num_selects: Tokens that each level hands to the combiner, shallow to deep.
        head: What ``forward`` gives: the logits of the ``"combiner"`` (as the official inference), or the logarithm
            of the mean probability of all heads (``"sum"``: the official highest-5).

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
        head: str = "combiner",
        drop_rate: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.image_size, self.num_classes = (int(height), int(width)), num_classes
        self.backbone_name, self.backbone_options, self.in_chans = backbone, options, in_chans
        self.num_selects, self.head = tuple(num_selects), head
        with torch.device("meta"), torch.no_grad():  # a pass that needs no memory and computes nothing
            blank = torch.zeros(1, in_chans, *self.image_size)
            maps = _maps(make_backbone(backbone, self.image_size, in_chans, options).eval(), blank)
        self.plan = tuple(
            Level(m.shape[2] * m.shape[3], m.shape[1], (m.shape[2], m.shape[3]))
            if m.dim() == 4
            else Level(m.shape[1], m.shape[2], None)
            for m in maps
        )
        if head not in ("combiner", "sum"):
            raise UnsupportedBackbone(f"PIM's logits are those of head 'combiner' or 'sum', got head={head!r}")
        places, selects = [level.places for level in self.plan], self.num_selects
        if len(selects) != LEVELS or not all(0 < n <= most for n, most in zip(selects, places, strict=True)):
            raise UnsupportedBackbone(
                f"PIM selects at least one and at most all tokens of each level ({places}), got {list(selects)}"
            )
        self.backbone = make_backbone(backbone, self.image_size, in_chans, options)
        droppable = is_timm_vit(self.backbone)
        self.static_reason = None if droppable else f"the grid of its backbone, {backbone}, has to stay whole"
        self.num_tokens = sum(places)
        self.pyramid = Pyramid(self.plan, fpn_size)
        width, classes = fpn_size, num_classes
        self.classifiers = nn.ModuleList(
            nn.Sequential(nn.Conv1d(width, width, 1), nn.BatchNorm1d(width), nn.ReLU(), nn.Conv1d(width, classes, 1))
            for _ in self.plan
        )
        self.combiner = Combiner(sum(self.num_selects), fpn_size, num_classes, drop_rate)

    def adapter(self) -> Backbone:
        """The adapter that runs the model for the toolkit."""
        return PimVitBackbone(self) if self.static_reason is None else PimWhole(self)

    def get_classifier(self) -> nn.Module | None:
        """The last linear layer of ``forward``; ``None`` where several heads are added up."""
        return self.combiner.head if self.head == "combiner" else None

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, K) of ``head``."""
        return self.compute_logits(self.levels(images))

    def forward_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> what the losses read: see ``compute_outputs``."""
        return self.compute_outputs(self.levels(images))

    def levels(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the backbone's four levels (B, S, C), shallow to deep."""
        return [m.flatten(2).transpose(1, 2) if m.dim() == 4 else m for m in _maps(self.backbone, images)]

    def judge(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Four levels (B, S, C) -> their features (B, S, F), and the logits (B, S, K) of every token."""
        features = self.pyramid(levels)
        logits = [each(x.transpose(1, 2)).transpose(1, 2) for each, x in zip(self.classifiers, features, strict=True)]
        return features, logits

    def compute_outputs(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Four levels (B, S, C) -> all outputs by their official names.

        ``layer1`` to ``layer4`` (B, S, K); ``select_layer1`` (B, n, K) and ``drop_layer1`` (B, S - n, K) to 4, the
        surest tokens first; ``comb_outs`` (B, K).
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
        return outputs | {"comb_outs": self.combiner(picked)}

    def logits_among(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """What ``compute_outputs`` gave -> the logits (B, K) of ``head``; an evaluation of the heads asks, too."""
        return outputs["comb_outs"] if self.head == "combiner" else mean_of_heads(_heads(outputs))

    def compute_logits(self, levels: Sequence[Tensor]) -> Tensor:
        """Four levels (B, S, C) -> logits (B, K) of ``head``, and nothing that they do not need."""
        features, logits = self.judge(levels)
        combined: Tensor = self.combiner(self.selected(features, logits))
        return combined if self.head == "combiner" else mean_of_heads([*(each.mean(1) for each in logits), combined])

    def selected(self, features: Sequence[Tensor], logits: Sequence[Tensor]) -> list[Tensor]:
        """The selected tokens (B, n, F) of each level, the surest first."""
        return [
            gather_rows(x, by_confidence(z, count))
            for x, z, count in zip(features, logits, self.num_selects, strict=True)
        ]


_CLASSIFIERS = ("combiner.head", *(f"classifiers.{level}.3" for level in range(LEVELS)))


for _name, _shape, _size, _first in (
    ("pim_vit_base_patch16", {"backbone": "vit_base_patch16_224_miil"}, 448, "patch_embed.proj"),
    ("pim_swin_large_patch4_window12_384",
     {"backbone": "swin_large_patch4_window12_384", "fpn_size": 1536, "num_selects": CUB_SELECTS}, 384,
     "patch_embed.proj"),
    ("pim_resnet50", {"backbone": "resnet50"}, 448, "conv1"),
    # torchvision's B7, which the official builder takes, has another epsilon in its norms than timm's.
    ("pim_efficientnet_b7", {"backbone": "efficientnet_b7", "bn_eps": 1e-3}, 448, "conv_stem"),
):  # fmt: skip
    # Every edge to 510 px at any input size, as the official code has it, then the centre.
    register(__name__, Pim, {_name: _shape}, {
        **FGVC_EVALUATION, "input_size": (3, _size, _size), "crop_pct": _size / 510, "classifier": _CLASSIFIERS,
        "first_conv": f"backbone.{_first}",
    })  # fmt: skip
