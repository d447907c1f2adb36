"""What an artifact's card says of it, against what is found: a false card fails whatever the answers are."""

from __future__ import annotations

from tavt_kit.checks.source import Source
from tavt_kit.checks.token_choice import TokenChoice
from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.device import TargetDevice


def false_claim(
    card: ArtifactCard,
    source: Source,
    *,
    stored: str | None = None,
    executed: TargetDevice | None = None,
    choice: TokenChoice | None = None,
) -> str:
    """One clause of the first thing that is not as the card says, or nothing.

    Args:
        card: Of the artifact.
        source: What it is checked against, with the images that check it.
        stored: In what most of its weights are stored; ``None`` where that is not known.
        executed: Where it ran, with the precision that really ran; ``None`` where that is not known.
        choice: What was found of its choice of tokens; ``None`` where that was not asked.
    """
    return (
        _weights(card, source)
        or _preprocessing(card, source)
        or _stored(card, stored)
        or _executed(card, executed)
        or _calibration(card, source)
        or ("" if choice is None else choice.reason)
    )


def _weights(card: ArtifactCard, source: Source) -> str:
    made_from, present = card.model.weights_sha256, source.card.weights_sha256
    if not made_from or not present or made_from == present:
        return ""
    return (
        f"it was made from other weights ({made_from[:8]}...) than those it is checked against ({present[:8]}...); "
        "export it again, or check it against the run it was made from"
    )


def _preprocessing(card: ArtifactCard, source: Source) -> str:
    own, wanted = card.preprocessing, source.card.preprocessing
    odd = sorted(name for name in {*own, *wanted} if own.get(name) != wanted.get(name))
    if not odd:
        return ""
    told = "; ".join(f"{name} {own.get(name)} instead of {wanted.get(name)}" for name in odd)
    return f"it prepares images in another way than its source ({told})"


def _stored(card: ArtifactCard, stored: str | None) -> str:
    """Of a quantized file the precision that ran tells more."""
    if stored is None or card.precision not in ("f32", "f16") or stored == card.precision:
        return ""
    return f"its card says {card.precision}, but most of its weights are stored in {stored}"


def _executed(card: ArtifactCard, executed: TargetDevice | None) -> str:
    """A GPU or NPU does not say in what it computes; there the card is believed."""
    if executed is None or not executed.is_cpu or (card.precision == "int8") == (executed.precision == "int8"):
        return ""
    return f"its card says {card.precision}, but most of its matrix products ran in {executed.precision}"


def _calibration(card: ArtifactCard, source: Source) -> str:
    if card.precision != "int8":
        return ""
    if card.calibration is None or not card.calibration.get("images"):
        return "it is int8, but its card names no images that its ranges were calibrated on"
    if card.calibration.get("split") == source.split:
        return (
            f"it was calibrated on the {source.split} split, which checks it here; an accuracy on these images says "
            "nothing of others"
        )
    return ""
