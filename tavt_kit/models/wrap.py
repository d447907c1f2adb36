"""wrap(model) -> AdaptiveViT: one loop over half-blocks, for every backbone, without a copied forward."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tavt_kit.core.latency_table import HEAD, STEM
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import DataError, ScheduleError, UnknownName, UnsupportedBackbone
from tavt_kit.models.backbones import Backbone, Outputs, make_adapter
from tavt_kit.models.backbones.base import Watch
from tavt_kit.models.token_reduction import (
    REDUCTIONS,
    SCORES,
    Pick,
    Selection,
    TokenState,
    drop,
    gather_rows,
    merge,
    restore,
)


def part_scope(name: str, module: nn.Module | None = None) -> AbstractContextManager[None]:
    """While torch traces a graph: the nodes made here are named after this part. Nothing at other times.

    A layer itself, as a module, is never called, so what bare functions do in it would be named after nothing. The
    name is for torch's ONNX exporter, the module that holds the part's weights for tracers that know modules alone.
    """
    if not torch._C._get_tracing_state():
        return nullcontext()
    if torch.onnx.is_in_onnx_export():
        return _pushed(f"tavt_kit::{name}")  # it wants a class before the name
    known: Any = torch.jit._trace._trace_module_map  # none where a tracer has a way of its own
    path = None if known is None else known.get(module)
    return nullcontext() if path is None else _pushed(path)


@contextmanager
def _pushed(scope: str) -> Iterator[None]:
    tracing = torch._C._get_tracing_state()
    tracing.push_scope(scope)
    try:
        yield
    finally:
        tracing.pop_scope()


POOLS = ("kept", "restored")


def wrap(model: nn.Module, score: str = "column", pool: str = "kept", reduction: str = "drop") -> AdaptiveViT:
    """Make a Vision Transformer keep fewer tokens by a schedule; with all of them it stays the model, bit for bit.

    Args:
        model: A timm ViT; it is not changed, and shares its weights with the wrap.
        score: ``"column"`` (TAVT: attention received from all queries), ``"cls"`` (attention of the class token), or
            one that another package adds.
        pool: For heads that pool over all tokens: over the ``"kept"`` ones, or over all with the dropped ones
            ``"restored"`` to the last value they had.
        reduction: What becomes of the tokens that a layer does not keep: they ``"drop"`` out, they ``"merge"`` into
            those that stay, each into the one it resembles most, or what another package adds.

    Raises:
        UnsupportedBackbone: Tokens of this model cannot be dropped or merged rightly, or ``cls`` without a class token.
        UnknownName: No such score, pool or reduction.

    Example:
        >>> import tavt_kit as tk, timm, torch
        >>> model = tk.wrap(timm.create_model("vit_tiny_patch16_224", num_classes=5).eval())
        >>> model.schedule = tk.TokenSchedule.taper(model.layout, ratio=0.2)
        >>> model(torch.zeros(2, 3, 224, 224)).shape
        torch.Size([2, 5])
    """
    if isinstance(model, AdaptiveViT):
        raise UnsupportedBackbone("this model is wrapped already; set its score and schedule, or unwrap() it first")
    return AdaptiveViT(model, score, pool, reduction)


_MADE_AGAIN = frozenset(("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set", "_bare", "backbone",
                         "layout", "_macs_formulas"))  # fmt: skip


class AdaptiveViT(nn.Module):
    """A ViT whose layers keep the token counts of a schedule. Made by ``wrap``.

    Its parameters, buffers and their names are the bare model's own, so a state dict fits both.
    """

    layout: TokenLayout
    """What a schedule must fit."""
    folder: Path | None
    """Run folder that ``load_model`` read it from; None of any other model."""

    def __init__(self, model: nn.Module, score: str = "column", pool: str = "kept", reduction: str = "drop") -> None:
        super().__init__()
        backbone = make_adapter(model)
        # The very dictionaries of the bare model: same keys, and .to(), load_state_dict() or pruning reach both.
        self._modules = model._modules
        self._parameters = model._parameters
        self._buffers = model._buffers
        self._non_persistent_buffers_set = model._non_persistent_buffers_set
        self.training = model.training
        self.__dict__["_bare"] = model
        self.__dict__["backbone"] = backbone
        self.backbone: Backbone
        self.score = score
        self.pool = pool
        self.reduction = reduction
        self.selection: Selection = "argsort"
        self.sites: Collection[int] | None = None
        self.layout = TokenLayout(
            backbone.tokens, backbone.layers, backbone.prefix, token_pooled=backbone.head_rows is not None
        )
        self.folder = None
        self._card: ModelCard | None = None
        self._schedule = self.dense_schedule

    def __setattr__(self, name: str, value: Any) -> None:
        allowed = {"score": SCORES, "pool": POOLS, "reduction": REDUCTIONS}.get(name)
        if allowed is not None and value not in allowed:
            raise UnknownName(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        if name == "score" and SCORES[value].rows and not getattr(self.backbone, "has_class_token", True):
            raise UnsupportedBackbone(f"score {value!r} needs a class token; this model has none: use score 'column'")
        if name == "reduction" and REDUCTIONS[value].owners and self.backbone.unmergeable is not None:
            raise UnsupportedBackbone(
                f"tokens of {type(self.bare).__name__} cannot be merged: {self.backbone.unmergeable}; "
                "use reduction 'drop'"
            )
        super().__setattr__(name, value)

    @property
    def bare(self) -> nn.Module:
        """The wrapped model."""
        return self.__dict__["_bare"]  # type: ignore[no-any-return]

    def unwrap(self) -> nn.Module:
        """The very model that was wrapped."""
        return self.bare

    def __repr__(self) -> str:
        how = f"score {self.score!r}, reduction {self.reduction!r}"
        size = f"{self.tokens} tokens, {self.layers} layers"
        return f"<AdaptiveViT of {type(self.bare).__name__}: {size}, schedule {self.schedule}, {how}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled as the bare model and the options: the adapter's functions are made again."""
        state = {name: value for name, value in self.__dict__.items() if name not in _MADE_AGAIN}
        return AdaptiveViT, (self.bare, self.score, self.pool, self.reduction), state

    def again(self) -> AdaptiveViT:
        """Another wrap of the same model with the same options and card, under the dense schedule."""
        other = AdaptiveViT(self.bare, self.score, self.pool, self.reduction)
        other._card, other.folder = self._card, self.folder
        return other

    @property
    def card(self) -> ModelCard | None:
        """What is known beside the weights, with the options as they are now; None where ``wrap`` alone made it."""
        card, own = self._card, (self.score, self.pool, self.reduction)
        if card is None or (card.score, card.pool, card.reduction) == own:
            return card
        return replace(card, score=self.score, pool=self.pool, reduction=self.reduction)

    @card.setter
    def card(self, card: ModelCard | None) -> None:
        self._card = card

    def require_card(self) -> ModelCard:
        """The card. Raises DataError: there is none, so that nobody knows the classes."""
        if self.card is None:
            raise DataError("this model has no card with its classes and preprocessing; take one from load_model")
        return self.card

    @property
    def layers(self) -> int:
        """Transformer layers."""
        return self.layout.layers

    @property
    def tokens(self) -> int:
        """Tokens of an image before anything is dropped, prefix included."""
        return self.layout.tokens

    @property
    def prefix(self) -> int:
        """Leading tokens that are no patches."""
        return self.layout.prefix

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.backbone.grid

    @property
    def restores(self) -> bool:
        """Whether the head is given every token again: a dropped one as it last was, a merged one as its owner is."""
        if self.layout.token_pooled:
            return False
        return self.pool == "restored" or (self.merges and not self.backbone.weighs_sizes)

    @property
    def merges(self) -> bool:
        """Whether tokens that a layer does not keep go into those that stay."""
        return REDUCTIONS[self.reduction].owners is not None

    @property
    def dense_schedule(self) -> TokenSchedule:
        """The schedule that drops nothing."""
        return TokenSchedule.dense(self.layout)

    @property
    def schedule(self) -> TokenSchedule:
        """The counts in force; a text such as ``"taper:0.2"`` may be set. What does not fit raises ScheduleError."""
        return self._schedule

    @schedule.setter
    def schedule(self, schedule: TokenSchedule | str) -> None:
        if isinstance(schedule, str):
            schedule = TokenSchedule.parse(schedule, self.layout)
        schedule.check(self.layout)
        if schedule != self.dense_schedule:
            self.check_droppable()
        self._schedule = schedule

    def check_droppable(self) -> None:
        """Refuse what only makes sense for models that can drop tokens."""
        if self.backbone.static_reason is not None:
            raise UnsupportedBackbone(
                f"no tokens can be dropped from {type(self.bare).__name__}: {self.backbone.static_reason}; "
                "make it smaller by fgvc-kit export `precision` int8"
            )

    def train(self, mode: bool = True) -> AdaptiveViT:
        """As nn.Module.train; the bare model follows."""
        super().train(mode)
        self.bare.training = mode
        return self

    def start(self, images: Tensor, *, track: bool = False) -> TokenState:
        """(B, 3, H, W) -> the state before layer 0; ``track`` keeps what is needed to restore tokens that leave."""
        size, given = self.backbone.image_size, tuple(images.shape[-2:])
        if not torch._C._get_tracing_state() and given != size:
            raise ScheduleError(
                f"the model was wrapped for images of {size}, but these are {given}; create the model with "
                f"img_size={given} and wrap it again, or resize the images"
            )
        with part_scope(STEM):
            state = self.backbone.embed(images)
        if not track:
            return state
        if self.merges:
            rows = torch.arange(state.count, device=state.tokens.device)
            return replace(state, owner=rows.expand(state.tokens.shape[0], -1))
        return replace(state, last=state.tokens)

    def advance(
        self,
        state: TokenState,
        layers: Sequence[int],
        counts: Sequence[int] | Tensor,
        *,
        lean: bool = False,
        watch: Watch | None = None,
    ) -> TokenState:
        """Run ``layers`` (ascending), keeping ``counts[layer]`` tokens after each; the given state stays as it was.

        Args:
            counts: One per layer of the model; an int64[L] tensor makes them a runtime input, and then every layer
                scores and slices.
            lean: Do no work for rows that do not go on (changes the last bits).
            watch: Looks at the attention of one layer, which then runs on all rows.
        """
        blocks = self.backbone.blocks
        for layer in layers:
            with part_scope(f"layer.{layer}", blocks[layer] if blocks else None):
                pick = self._pick(layer, state, counts[layer], lean and watch is None)
                if pick is None:
                    state = self.backbone.attend(layer, state, watch)
                else:
                    state = self.attend_and_reduce(layer, state, pick, lean=lean and watch is None, watch=watch)
                state = self.backbone.feed(layer, state)
                if state.last is not None:
                    state = replace(state, last=restore(state.last, state.tokens, state.place))
        return state

    def attend_and_reduce(
        self, layer: int, state: TokenState, pick: Pick, *, lean: bool, watch: Watch | None = None
    ) -> TokenState:
        """The attention half-block of a layer, and what of its tokens goes on."""
        if lean and (pick.score is None or not self.merges):
            return self.backbone.attend_rows(layer, state, pick)
        watch = watch or Watch(self.score)
        state = self.backbone.attend(layer, state, watch)
        return self.reduce(layer, state, watch.scored(layer), pick)

    def reduce(self, layer: int, state: TokenState, scores: Tensor, pick: Pick) -> TokenState:
        """What is left between the halves of a layer: ``pick.count`` tokens of a state, by their scores (B, n)."""
        if owners := REDUCTIONS[self.reduction].owners:
            return merge(state, scores, pick, owners)
        return drop(state, pick.index(scores), passed=not self.backbone.joint[layer])

    def _pick(self, layer: int, state: TokenState, count: int | Tensor, lean: bool) -> Pick | None:
        """What goes on after this layer's attention, or None where everything does."""
        rows = self.backbone.head_rows
        if lean and rows is not None and layer == self.layers - 1 and state.last is None:
            return Pick(rows, self.prefix, None)
        if not self.backbone.droppable[layer] or (isinstance(count, int) and count == state.count):
            return None
        if not isinstance(count, int) and self.sites is not None and layer not in self.sites:
            return None
        return Pick(count, self.prefix, self.score, self.selection)

    def finish(self, state: TokenState) -> Tensor:
        """The logits (B, classes) of a state that passed every layer."""
        return self.outputs(state).logits  # type: ignore[no-any-return]

    def outputs(self, state: TokenState) -> Outputs:
        """As ``finish``, with the named tensors that a family's losses read."""
        with part_scope(HEAD):
            return self.backbone.outputs(self._to_pool(state))

    def pooled(self, state: TokenState) -> Tensor:
        """Of a state that passed every layer, the features (B, D) that the head's last linear layer receives."""
        return self.backbone.pooled(self._to_pool(state))

    def _to_pool(self, state: TokenState) -> TokenState:
        if self.restores and state.owner is not None:
            return replace(state, tokens=gather_rows(state.tokens, state.owner), place=None, sizes=None, owner=None)
        if self.pool == "restored" and state.last is not None:
            return replace(state, tokens=state.last, place=None)
        return state

    def _run(self, images: Tensor, *, lean: bool) -> TokenState:
        state = self.start(images, track=self.restores)
        return self.advance(state, self._schedule.running, self._schedule.counts, lean=lean)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, classes) under the schedule, by the plain path."""
        return self.finish(self._run(images, lean=False))

    def forward_lean(self, images: Tensor) -> Tensor:
        """As ``forward`` (to 1e-5), without work for rows that do not go on; what search, export and bench run."""
        return self.finish(self._run(images, lean=True))

    def forward_pooled(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> the features (B, D) that the head's last linear layer receives, by the lean path."""
        return self.pooled(self._run(images, lean=True))

    def forward_kept(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and for each executed layer the original positions (B, n) of the tokens it kept, ascending.

        A layer that drops nothing by its nature (FFVT's fusion) kept those of the layer before.
        """
        state = self.start(images, track=self.restores)
        place = torch.arange(self.tokens, device=images.device).expand(images.shape[0], -1)
        kept = []
        for layer in self._schedule.running:
            state = self.advance(state, [layer], self._schedule.counts)
            if self.backbone.droppable[layer] and state.place is not None:
                place = state.place
            kept.append(place)
        return self.finish(state), kept

    def forward_owned(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and for each executed layer the position (B, N) of the token that each original one is now in."""
        if not self.merges:
            raise UnsupportedBackbone(
                f"tokens have owners under reduction 'merge', and this model's is {self.reduction!r}; wrap it with "
                "reduction='merge', or ask forward_kept"
            )
        state = self.start(images, track=True)
        owners = []
        for layer in self._schedule.running:
            state = self.advance(state, [layer], self._schedule.counts)
            assert state.owner is not None  # what track asks for
            owners.append(state.owner if state.place is None else gather_rows(state.place, state.owner))
        return self.finish(state), owners


class LeanViT(nn.Module):
    """One schedule of an AdaptiveViT, frozen, by the lean path: what is converted, timed and shipped.

    Args:
        schedule: ``None`` takes the one now in force.
        selection: ``"argsort"`` for eager and OpenVINO, ``"topk"`` for static ONNX.
    """

    def __init__(
        self, adaptive: AdaptiveViT, schedule: TokenSchedule | None = None, selection: Selection = "argsort"
    ) -> None:
        super().__init__()
        self.adaptive = adaptive.again()
        self.adaptive.selection = selection
        self.adaptive.schedule = adaptive.schedule if schedule is None else schedule
        self.train(adaptive.training)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, classes)."""
        return self.adaptive.forward_lean(images)


class SwitchableViT(nn.Module):
    """An AdaptiveViT by the lean path, with the token counts as a second input: one graph for every schedule.

    Args:
        selection: ``"argsort"`` for eager and OpenVINO, ``"topk"`` for ONNX.
        sites: The layers that may reduce; elsewhere the count must be that of the layer before. ``None`` for all.
            Merging costs its matching even where every token stays, so a graph holds it only where it is wanted.
    """

    def __init__(
        self,
        adaptive: AdaptiveViT,
        selection: Selection = "argsort",
        executed: tuple[int, ...] | None = None,
        sites: Collection[int] | None = None,
    ) -> None:
        super().__init__()
        adaptive.check_droppable()
        self.adaptive = adaptive.again()
        self.adaptive.selection = selection
        self.adaptive.sites = sites
        self.adaptive.schedule = replace(self.adaptive.dense_schedule, executed=executed)
        self.train(adaptive.training)

    def forward(self, images: Tensor, lengths: Tensor) -> Tensor:
        """(B, 3, H, W) and int64[layers], tokens kept after each layer -> logits (B, classes).

        Nothing is checked, since a graph cannot: counts never grow, never exceed ``tokens``, stay above ``prefix``.
        """
        adaptive = self.adaptive
        state = adaptive.start(images, track=adaptive.restores)
        return adaptive.finish(adaptive.advance(state, adaptive.schedule.running, lengths, lean=True))
