"""What is compared: each method at about three strengths, how it is trained, and how its module is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from peers.methods import Evit, RandomDrop, ToMe, TopK
from peers.official import OfficialTavt
from peers.training import Workshop
from tavt_kit.checkpoints import load_model
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.records import read_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.models.wrap import AdaptiveViT, LeanViT

DENSE = "dense"
OURS = SEARCHED, AGAIN, DROPS = "ours, searched", "ours, distilled again", "ours, three drops"
"""What stands against the peers: one network for all budgets, then networks that were taught one schedule each."""
KEEP = (0.7, 0.5, 0.3)
"""Of EViT (its paper's own are 0.5 to 0.9), Top-K and random drop, at three layers."""
MERGED = (0.4, 0.7, 0.9)
"""ToMe: so many of all tokens would be gone after the last layer, if every layer merged as many."""
TAPERS, OFFICIAL_TAPERS = (0.1, 0.2, 0.3), (0.1, 0.15, 0.2)
"""The official bound is 0.2: steeper schedules were never trained."""
RESOLUTIONS, DEPTHS, SHARES = (7 / 8, 3 / 4, 1 / 2), (0.75, 0.58, 0.42), (0.83, 0.67, 0.5)
COSTS = (0.75, 0.55, 0.4)
"""Of the dense model's predicted latency, for schedules to be picked from the front by their accuracy on val."""

Make = Callable[[AdaptiveViT], nn.Module]


@dataclass(frozen=True, slots=True)
class Row:
    """One network with one way to run it.

    Args:
        method: Of which there are several strengths.
        strength: In the method's own terms.
        run: Folder of its weights below the study's.
        make: From the loaded run to a module, images -> logits.
        schedule: Where token counts are ours.
        int8: Run by OpenVINO in INT8.
    """

    method: str
    strength: str
    run: str
    make: Make
    schedule: TokenSchedule | None = None
    int8: bool = False

    @property
    def name(self) -> str:
        """Unique in the study."""
        return f"{self.method} {self.strength}".strip()

    @property
    def slug(self) -> str:
        """For a file."""
        return "".join(letter if letter.isalnum() or letter == "." else "-" for letter in self.name)


def trainings(shop: Workshop, target: str, evaluations: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Name and work of everything that makes weights or schedules, in order."""
    yield "dense", lambda: shop.dense("dense")
    yield "distilled", lambda: shop.distilled("distilled", "--bound", "0.4", "--kl", "forward")
    yield (
        "official",
        lambda: shop.distilled(
            "official", "--bound", "0.2", "--sub-networks", "2", "--layer-dropout", "0.2", "--kl", "reverse"
        ),
    )
    yield "search", lambda: shop.searched("search", "distilled", target, evaluations)
    model = load_model(shop.probe)
    for _, _, run, schedule in single(shop, model):
        yield (
            run,
            lambda run=run, schedule=schedule: shop.distilled(  # type: ignore[misc]
                run, "--schedule", str(schedule), "--sub-networks", "0", "--kl", "forward"
            ),
        )
    for method, strength, run, make in reduced(model):
        yield f"{method} {strength}", lambda run=run, make=make: shop.reduced(run, make)  # type: ignore[misc]
    for size in sizes(model):
        yield f"{size} px", lambda size=size: shop.dense(f"px-{size}", image_size=size)  # type: ignore[misc]
    for run, shares in cuts(model).items():
        yield run, lambda run=run, shares=shares: shop.pruned(run, *shares)  # type: ignore[misc]


def rows(shop: Workshop) -> list[Row]:
    """All of them, dense first; called when every training is done."""
    model = load_model(shop.probe)
    found = [Row(DENSE, "", "dense", lean), Row("INT8 alone", "", "dense", lean, int8=True)]
    ours = [(SEARCHED, share, "distilled", schedule) for schedule, share in picked(shop, model)] + single(shop, model)
    for method, strength, run, schedule in ours:
        found.append(scheduled(method, strength, schedule, run))
        found.append(scheduled(f"{method} + INT8", strength, schedule, run, int8=True))
    for ratio in TAPERS:
        schedule = TokenSchedule.taper(model.layout, ratio)
        found.append(scheduled("ours, uniform taper", f"{ratio:g}", schedule, "distilled"))
    for ratio in OFFICIAL_TAPERS:
        schedule = TokenSchedule.taper(model.layout, ratio)
        found.append(Row("official-style TAVT", f"{ratio:g}", "official", official(schedule), schedule))
    for method, strength, run, make in reduced(model):
        found.append(Row(method, strength, run, lambda model, make=make: make(model.bare)))  # type: ignore[misc]
        if method == "ToMe":
            untrained: Make = lambda model, make=make: make(model.bare)  # type: ignore[misc]  # noqa: E731
            found.append(Row("ToMe, not trained", strength, "dense", untrained))
    found += [Row("lower resolution", f"{size} px", f"px-{size}", lean) for size in sizes(model)]
    for run in cuts(model):
        kind, _, strength = run.partition("-")
        found.append(Row(NAMED[kind], strength, run, lean))
    return found


NAMED = {"layers": "fewer layers", "pruned": "pruning alone"}


def lean(model: AdaptiveViT) -> nn.Module:
    """Dense, by the lean path."""
    return LeanViT(model, model.dense_schedule)


def scheduled(method: str, strength: str, schedule: TokenSchedule, run: str, int8: bool = False) -> Row:
    """A distilled network under a schedule."""
    return Row(method, strength, run, lambda model: LeanViT(model, schedule), schedule, int8)


def single(shop: Workshop, model: AdaptiveViT) -> list[tuple[str, str, str, TokenSchedule]]:
    """Method, strength, run folder and schedule of our networks that are taught one schedule alone, as peers are."""
    found = []
    for schedule, share in picked(shop, model):
        found.append((AGAIN, share, f"again-{share.split()[-1]}", schedule))
    for keep in KEEP:
        peer, counts = TopK(model.bare, keep), [model.tokens]
        for layer in range(model.layers):
            counts.append(peer.after(layer, counts[-1]))
        found.append((DROPS, f"{keep:g}", f"three-{keep:g}", TokenSchedule(tuple(counts[1:]))))
    return found


def official(schedule: TokenSchedule) -> Make:
    """The official-style forward pass."""
    return lambda model: OfficialTavt(model.bare, schedule)


def reduced(model: AdaptiveViT) -> list[tuple[str, str, str, Callable[[nn.Module], nn.Module]]]:
    """Method, strength, run folder and module of every method that trains with its tokens reduced."""
    found: list[tuple[str, str, str, Callable[[nn.Module], nn.Module]]] = []
    for method, kind in (("EViT", Evit), ("Top-K", TopK), ("random drop", RandomDrop)):
        for keep in KEEP:
            make = lambda bare, kind=kind, keep=keep: kind(bare, keep)  # noqa: E731
            found.append((method, f"{keep:g}", f"{kind.__name__.lower()}-{keep:g}", make))
    for r in dict.fromkeys(max(1, round(share * model.tokens / model.layers)) for share in MERGED):
        found.append(("ToMe", f"r {r}", f"tome-{r}", lambda bare, r=r: ToMe(bare, r)))
    return found


def sizes(model: AdaptiveViT) -> list[int]:
    """Lower resolutions in pixels a side, in whole patches."""
    grid, side = model.grid[0], model.backbone.image_size[0]
    patch = side // grid
    wanted = [max(1, int(share * grid)) * patch for share in RESOLUTIONS]
    return [size for size in dict.fromkeys(wanted) if size < side]


def cuts(model: AdaptiveViT) -> dict[str, tuple[str, ...]]:
    """Run folder -> flags of ``fgvc-kit prune``."""
    depths = dict.fromkeys(max(1, round(share * model.layers)) for share in DEPTHS)
    found: dict[str, tuple[str, ...]] = {f"layers-{depth}": ("--depth", str(depth)) for depth in depths}
    return found | {f"pruned-{share:g}": ("--mlp", f"{share:g}", "--heads", f"{share:g}") for share in SHARES}


def picked(shop: Workshop, model: AdaptiveViT) -> list[tuple[TokenSchedule, str]]:
    """Of the search: for each share of the dense latency the schedule that is best on val and predicted to be below."""
    body = read_record(shop.out / "search" / "front.json", "front")
    dense = next(cost(one) for one in body["baselines"] if one["origin"] == "dense")
    shorter = {  # on a machine that is not quiet the dense model may be on the front, too
        schedule: entry
        for entry in body["candidates"]
        if not (schedule := Configuration.from_record(entry).schedule).is_dense(model.tokens)
    }
    found: dict[TokenSchedule, str] = {}
    for share in COSTS if shorter else ():
        below = [schedule for schedule, entry in shorter.items() if cost(entry) <= share * dense]
        if below:
            best = max(below, key=lambda schedule: float(shorter[schedule]["top1"]))
        else:
            best = min(shorter, key=lambda schedule: cost(shorter[schedule]))
        found.setdefault(best, f"below {share:g}" if below else "cheapest")
    for schedule in found:
        schedule.check(model.layout)
    return list(found.items())


def cost(candidate: Any) -> float:
    """Milliseconds, as the latency table predicts them."""
    return float(candidate["latency_ms"]["predicted"])
