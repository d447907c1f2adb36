"""The catalogue of metrics: what each one is of a model's logits, which way is better, what it needs; and calibration.

As an ``Accuracy`` each is a share in [0, 1] with a 95 % interval. The loss is then told as the ``likelihood``,
exp(-mean cross-entropy): the geometric mean of the probabilities of the right classes; the divergence from the dense
model as the ``fidelity``, exp(-mean KL(dense || model)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.data.images import list_classes
from tavt_kit.errors import DataError, UnknownName

Labels: TypeAlias = NDArray[np.int64]

_RESAMPLES = 400
"""Of the bootstrap: the ends of its 95 % interval then vary by less than the interval means."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What metrics are computed of: (n, classes) logits, those of the dense model too where a metric compares with it,
    and the index of the class that is wanted where a metric names one."""

    logits: NDArray[Any]
    labels: Labels
    wanted: int | None = None
    dense: NDArray[Any] | None = None

    @property
    def said(self) -> Labels:
        """(n,) the likeliest class of each image."""
        return likeliest(self.logits)


@dataclass(frozen=True, slots=True)
class Metric:
    """An entry of the catalogue: of hits the share is the value, else ``value`` and ``bounds`` give it.

    In its name ``CLASS`` stands for a class. ``hits`` (m,) says of each image that counts whether it is right;
    ``share`` makes the figure one in [0, 1] with these ``bounds`` (95 %), recorded by its own name or the metric's.
    """

    name: str
    hits: Callable[[Predictions], NDArray[np.bool_]] | None = None
    value: Callable[[Predictions], float] | None = None
    bounds: Callable[[Predictions], tuple[float, float]] | None = None
    share: Callable[[float], float] = float
    recorded: str = ""
    higher_is_better: bool = True
    needs: Literal["", "class", "dense"] = ""

    def of(self, seen: Predictions) -> float:
        """The figure; NaN where no image counts."""
        if self.hits is not None:
            hits = self.hits(seen)
            return float(hits.mean()) if len(hits) else math.nan
        assert self.value is not None  # an entry has hits or a value
        return self.value(seen)

    def accuracy(self, seen: Predictions, split: str, name: str | None = None) -> Accuracy:
        """The share with its interval."""
        name = name or self.recorded or self.name
        if self.hits is not None:
            hits = self.hits(seen)
            return Accuracy.of_counts(int(hits.sum()), len(hits), split=split, metric=name)
        assert self.bounds is not None  # an entry has hits or bounds
        value, (low, high) = self.share(self.of(seen)), self.bounds(seen)
        return Accuracy(name, split, value, len(seen.labels), min(value, low), max(value, high))

    def better(self, value: float, other: float) -> bool:
        """Whether the value is better; of equals neither is."""
        return value > other if self.higher_is_better else value < other


def probabilities(logits: NDArray[Any]) -> NDArray[np.float64]:
    """(n, classes) logits -> their softmax, in double precision."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def likeliest(logits: NDArray[Any]) -> Labels:
    """(n, classes) -> (n,) the likeliest class; -1, which is no class, where a logit is no number."""
    return np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), -1)


def first_classes(logits: NDArray[Any], count: int) -> Labels:
    """(n, classes) -> (n, count), the likeliest first; of equal logits the lower class, as in argmax; NaN is last."""
    return np.argsort(-np.nan_to_num(logits, nan=-np.inf), axis=1, kind="stable")[:, :count]


def is_among_first(logits: NDArray[Any], labels: Labels, count: int) -> NDArray[np.bool_]:
    """(n,) whether the label is among the first ``count`` classes; never where a logit is no number."""
    hit = (first_classes(logits, count) == labels[:, None]).any(axis=1)
    return np.asarray(hit & np.isfinite(logits).all(axis=1))


def macro_f1(truth: Labels, said: Labels, count: int) -> float:
    """Mean over classes of 2 TP / (2 TP + FP + FN); a class that neither occurs nor is said leaves; -1 is none."""
    hits = np.bincount(truth[truth == said], minlength=count)
    both = np.bincount(truth, minlength=count) + np.bincount(said[said >= 0], minlength=count)
    return float((2 * hits[both > 0] / both[both > 0]).mean())


def _dense_logits(seen: Predictions) -> NDArray[Any]:
    if seen.dense is None:
        raise DataError("a comparison with the dense model needs its predictions, but there are none")
    return seen.dense


def _divergences(seen: Predictions) -> NDArray[np.float64]:
    """(n,) nats by which the probabilities diverge from the dense model's, KL(dense || these)."""
    theirs, ours = (_log_probabilities(logits) for logits in (_dense_logits(seen), seen.logits))
    nats: NDArray[np.float64] = (np.exp(theirs) * (theirs - ours)).sum(axis=1)
    return nats.clip(min=0.0)  # a rounding error may lie below


def _f1_bounds(seen: Predictions) -> tuple[float, float]:
    """A bootstrap interval of the macro F1."""
    # Images with the same truth and prediction are alike, so whole cells are drawn; of classes, those that occur.
    pairs, counts = np.unique(np.stack([seen.labels, seen.said], axis=1), axis=0, return_counts=True)
    present, cells = np.unique(pairs, return_inverse=True)
    draws = np.random.default_rng(0).multinomial(len(seen.labels), counts / len(seen.labels), size=_RESAMPLES)
    truth, said = cells.reshape(pairs.shape).T
    both, hits = np.zeros((2, len(present), _RESAMPLES))
    np.add.at(both, truth, draws.T)
    np.add.at(both, said, draws.T)
    np.add.at(hits, truth[truth == said], 2 * draws.T[truth == said])
    both, hits = both[present >= 0], hits[present >= 0]  # -1 is no class
    with np.errstate(invalid="ignore"):
        each = np.where(both > 0, hits / both, np.nan)
    low, high = np.quantile(np.nanmean(each, axis=0), (0.025, 0.975))
    return float(low), float(high)


def _log_probabilities(logits: NDArray[Any]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _losses(seen: Predictions) -> NDArray[np.float64]:
    """(n,) cross-entropy in nats."""
    return np.asarray(-_log_probabilities(seen.logits)[np.arange(len(seen.labels)), seen.labels])


def _in_nats(
    name: str, recorded: str, nats: Callable[[Predictions], NDArray[np.float64]], needs: Literal["", "dense"] = ""
) -> Metric:
    """A mean of so many nats an image; its share is exp(-mean), by the normal interval of that mean."""

    def bounds(seen: Predictions) -> tuple[float, float]:
        each = nats(seen)
        mean, half = float(each.mean()), 0.0
        if len(each) > 1:
            half = 1.96 * float(each.std(ddof=1)) / math.sqrt(len(each))
        return math.exp(-(mean + half)), min(1.0, math.exp(-(mean - half)))

    return Metric(
        name, value=lambda seen: float(nats(seen).mean()), bounds=bounds, share=lambda nats: math.exp(-nats),
        recorded=recorded, higher_is_better=False, needs=needs,
    )  # fmt: skip


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("top1", hits=lambda seen: is_among_first(seen.logits, seen.labels, 1)),
        Metric("top5", hits=lambda seen: is_among_first(seen.logits, seen.labels, 5)),
        Metric(
            "macro_f1", value=lambda seen: macro_f1(seen.labels, seen.said, seen.logits.shape[1]), bounds=_f1_bounds
        ),
        Metric(
            "recall[CLASS]", hits=lambda seen: np.asarray((seen.said == seen.labels)[seen.labels == seen.wanted]),
            needs="class",
        ),
        _in_nats("loss", "likelihood", _losses),
        Metric(
            "agreement", hits=lambda seen: np.asarray(seen.said == _dense_logits(seen).argmax(axis=1)), needs="dense"
        ),
        _in_nats("divergence", "fidelity", _divergences, needs="dense"),
    )
}  # fmt: skip
"""Every metric, by its name."""


def find_metric(name: str) -> tuple[Metric, str | None]:
    """The metric of a name, or of the name of its share, and the class that it names.

    Raises:
        UnknownName: No such metric.

    Example:
        >>> metric, wanted = find_metric("recall[crack]")
        >>> metric.name, wanted
        ('recall[CLASS]', 'crack')
    """
    kind, bracket, rest = name.partition("[")
    if bracket:
        metric, wanted = METRICS.get(f"{kind}[CLASS]"), rest.removesuffix("]") if rest.endswith("]") else ""
    else:
        metric = next((each for each in METRICS.values() if kind and kind in (each.name, each.recorded)), None)
        wanted = ""
    if metric is not None and bool(bracket) == bool(wanted):
        return metric, wanted or None
    raise UnknownName(f"a metric is one of {', '.join(METRICS)}, got {name!r}")


def metric_named(name: str) -> str:
    """The name under which a metric is recorded: ``loss`` as ``likelihood``, ``divergence`` as ``fidelity``.

    Raises UnknownName: no such metric.
    """
    metric, _ = find_metric(name)
    return metric.recorded or name


def class_index(name: str, classes: tuple[str, ...]) -> int | None:
    """The index of the class that a metric names; None where it names none, DataError where there is no such class."""
    _, wanted = find_metric(name)
    if wanted is not None and wanted not in classes:
        raise DataError(f"{name} names no class of the data, which has {list_classes(classes)}")
    return None if wanted is None else classes.index(wanted)


@dataclass(frozen=True, slots=True)
class Scoring:
    """Which metrics are wanted beside top-1, of images of val with these labels.

    Args:
        names: As ``metric_named`` gives them; top-1 among them is left out, because it is always known.

    Raises:
        UnknownName: No such metric.
        DataError: A recall of a class that there is not, or that has no image.

    Example:
        >>> scoring = Scoring(("macro_f1",), np.array([0, 0, 1]), ("a", "b"))
        >>> [str(round(f1.value, 3)) for f1 in scoring.of(np.eye(2)[[0, 1, 1]])]
        ['0.667']
    """

    names: tuple[str, ...]
    labels: Labels
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        names = (metric_named(name) for name in self.names)
        object.__setattr__(self, "names", tuple(dict.fromkeys(name for name in names if name != "top1")))
        for name in self.names:
            self._index(name)

    def of(self, logits: NDArray[np.floating], dense: Callable[[], NDArray[Any]] | None = None) -> tuple[Accuracy, ...]:
        """The wanted metrics of (n, classes) finite logits; ``dense`` gives those of the dense model."""
        accuracies = []
        for name in self.names:
            metric, _ = find_metric(name)
            other = dense() if metric.needs == "dense" and dense is not None else None
            seen = Predictions(logits, self.labels, self._index(name), other)
            accuracies.append(metric.accuracy(seen, "val", name))
        return tuple(accuracies)

    def _index(self, name: str) -> int | None:
        index = class_index(name, self.classes)
        if index is not None and not (self.labels == index).any():
            raise DataError(f"val has no image for {name}, so it cannot be known; give more images")
        return index


CALIBRATION_BINS = 15


def reliability(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = CALIBRATION_BINS
) -> tuple[list[dict[str, Any]], float]:
    """The bins of equal width over (0, 1], JSON-ready, and the expected calibration error.

    The accuracy and confidence of an empty bin are null.

    Example:
        >>> bins, error = reliability(np.array([0.4, 0.5, 0.9]), np.array([True, False, True]), 2)
        >>> [(share["n"], share["accuracy"]) for share in bins], round(error, 4)
        ([(2, 0.5), (1, 1.0)], 0.0667)
    """
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    hits, sums = (np.bincount(index, values, minlength=bins) for values in (right, confidence))
    records = [
        {
            "low": i / bins,
            "high": (i + 1) / bins,
            "n": int(n),
            "accuracy": float(hits[i] / n) if n else None,
            "confidence": float(sums[i] / n) if n else None,
        }
        for i, n in enumerate(counts)
    ]
    return records, float(np.abs(sums - hits).sum() / len(confidence))


def calibration_error(logits: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """Expected calibration error: how far confidence (the largest softmax) is from accuracy, weighted by bin.

    Bins of equal width over (0, 1]. NaN where a logit is no number. Source: Guo, Pleiss, Sun and Weinberger, On
    Calibration of Modern Neural Networks, ICML 2017.
    """
    if not np.isfinite(logits).all():
        return float("nan")
    confidence = probabilities(logits).max(axis=1)
    return reliability(confidence, logits.argmax(axis=1) == labels)[1]
