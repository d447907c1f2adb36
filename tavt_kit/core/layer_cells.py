"""What a latency table is made of: the times of a layer's halves at some token counts, and what lies between them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

from tavt_kit.core.codec import recorded_as
from tavt_kit.errors import MeasurementError


@dataclass(frozen=True, slots=True)
class Curve:
    """Milliseconds at some token counts, ascending; between and beyond them interpolated.

    Args:
        counts: Tokens.
        ms: Time at each.
        width: Width of a part whose work is ``n * (2 * width + n)``, such as attention: the interpolation is linear
            in that work, so that a constant, a linear and a quadratic share are met together. 0 for a part
            whose work is linear in n.

    Raises:
        MeasurementError: No points, unordered counts, or a time that is not above zero.
    """

    counts: tuple[int, ...]
    ms: tuple[float, ...]
    width: int = 0

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip(self.counts, self.counts[1:], strict=False))
        if not self.counts or len(self.counts) != len(self.ms) or not ascending:
            raise MeasurementError(f"a latency curve needs one time for each ascending count, got {self.counts}")
        if not all(ms > 0 for ms in self.ms):
            raise MeasurementError(f"a latency curve needs times above 0 ms, got {self.ms}")

    def at(self, count: float) -> float:
        """Milliseconds at any token count; never below zero."""
        if len(self.counts) == 1:
            return self.ms[0]
        above = min(max(bisect_right(self.counts, count), 1), len(self.counts) - 1)
        low, high = self._work(self.counts[above - 1]), self._work(self.counts[above])
        share = (self._work(count) - low) / (high - low)
        return max(self.ms[above - 1] + share * (self.ms[above] - self.ms[above - 1]), 0.0)

    def _work(self, count: float) -> float:
        return count * (2 * self.width + count) if self.width else count


@dataclass(frozen=True, slots=True)
class DropCell:
    """Attention, score, selection and gather from ``count`` tokens, measured at two numbers of kept tokens.

    At a fixed length all that depends on the kept tokens is linear in them (projection, gather, queries).
    """

    count: int
    few: int
    few_ms: float
    many: int
    many_ms: float

    def at(self, kept: float) -> float:
        """Milliseconds when ``kept`` tokens stay."""
        if self.many == self.few:
            return (self.few_ms + self.many_ms) / 2
        slope = (self.many_ms - self.few_ms) / (self.many - self.few)
        return max(self.few_ms + slope * (kept - self.few), 0.0)


@dataclass(frozen=True, slots=True)
class ShapePenalty:
    """Token counts that take longer than their neighbours, because a product's rows fall into no good blocks.

    Args:
        counts: Those tokens, ascending.
        ms: What a feed-forward half takes more at each.
        share: Share of that which an attention half takes more.
        dropping: Share of the attention half's due to all tokens where it drops; the rest is due to those that stay.
        reading: The same of the last layer of a head that reads leading tokens only; the rest is nobody's.
    """

    counts: tuple[int, ...]
    ms: tuple[float, ...]
    share: float
    dropping: float = 0.75
    reading: float = 0.5

    def feed(self, count: float) -> float:
        """Milliseconds more of a feed-forward half."""
        place = bisect_left(self.counts, count)
        return self.ms[place] if place < len(self.counts) and self.counts[place] == count else 0.0

    def attend(self, count: float) -> float:
        """Of an attention half that keeps every token."""
        return self.share * self.feed(count)

    def drop(self, count: float, kept: float) -> float:
        """Of one that drops."""
        return self.dropping * self.attend(count) + (1 - self.dropping) * self.attend(kept)

    def last(self, count: float) -> float:
        """Of the last layer of a head that reads leading tokens only."""
        return self.reading * self.attend(count)


EVEN = ShapePenalty((), (), 0.0)
"""No count takes longer than its neighbours."""


@dataclass(frozen=True, slots=True)
class LayerCells:
    """One layer, averaged over the layers of the model, and what stands before and after the layers.

    Args:
        attend: Attention half-block that keeps every token.
        drop: Attention half-blocks that drop, by ascending count.
        feed: Feed-forward half-block.
        last: The whole last layer of a head that reads leading tokens only; ``None`` for pooling heads.
        stem_ms: Patch and position embedding.
        head: Final norm, pooling and classifier.
        uneven: What single counts take more than the curves say; ``None`` where they take no more.
    """

    attend: Curve
    drop: tuple[DropCell, ...]
    feed: Curve
    last: Curve | None
    stem_ms: float
    head: Curve
    uneven: ShapePenalty | None = field(default=None, metadata=recorded_as(omit_default=True))
    """Left out of records where there is none, so that the digests of older profiles stay what they were."""

    def attend_ms(self, count: int) -> float:
        """The attention half at any count."""
        return self.attend.at(count) + (self.uneven or EVEN).attend(count)

    def feed_ms(self, count: int) -> float:
        """The feed-forward half at any count."""
        return self.feed.at(count) + (self.uneven or EVEN).feed(count)

    def last_ms(self, count: int) -> float:
        """The last layer at any count, where it has a time of its own."""
        assert self.last is not None  # heads that pool have no such layer
        return self.last.at(count) + (self.uneven or EVEN).last(count)

    def drop_ms(self, count: int, kept: int) -> float:
        """Attention from ``count`` tokens to ``kept``: both neighbouring lengths at the same share kept."""
        more = (self.uneven or EVEN).drop(count, kept)
        counts = [cell.count for cell in self.drop]
        above = min(max(bisect_right(counts, count), 1), len(counts) - 1)
        cells = self.drop[max(above - 1, 0) : above + 1]
        times = tuple(max(cell.at(cell.count * kept / count), 1e-6) for cell in cells)
        return Curve(tuple(cell.count for cell in cells), times, self.attend.width).at(count) + more
