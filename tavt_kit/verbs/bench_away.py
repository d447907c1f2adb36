"""``fgvc-kit bench --pack`` and ``--carried``: a search's front on its way to the device, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tavt_kit.errors import ParameterError

__all__ = ["go_away"]


def go_away(things: Sequence[str], pack: Path | None, carried: Path | None, as_json: bool) -> int:
    """A search's front on its way to the device, or back."""
    from tavt_kit.verbs.front_view import print_front
    from tavt_kit.workflows.carried import settle

    run = Path(things[0] if things else "")
    if len(things) != 1 or not run.is_dir() or (pack and carried):
        raise ParameterError(
            f"--pack or --carried takes the run folder of one search, got {', '.join(things) or 'none'}"
            + (" and both flags" if pack and carried else "")
        )
    if carried is None:
        assert pack is not None
        return _write_pack(run, pack, as_json)
    body = settle(run, carried)
    if as_json:
        print(json.dumps(body))
    else:
        print_front(body, place=run)
    return 0 if body["verdict"] == "PASS" else 1


def _write_pack(run: Path, pack: Path, as_json: bool) -> int:
    from tavt_kit.bench.pack import pack_passes, refuse_live
    from tavt_kit.checkpoints import load_model
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.core.records import make_folder
    from tavt_kit.verbs.profile import say_packed
    from tavt_kit.verbs.progress import watching
    from tavt_kit.workflows.carried import front_schedules, read_front

    body = read_front(run)
    target = TargetDevice.from_record(body["target"])
    refuse_live(target)
    make_folder(pack.parent)
    model = load_model(run).eval()
    card: Any = model.card
    with watching("packing") as tell:
        digest = pack_passes(
            model,
            target,
            front_schedules(body),
            pack,
            thing=str(run),
            name=card.name,
            on_part=lambda what: tell(f"converting {what}", None),
        )
    say_packed(pack, digest, "bench.json", f"fgvc-kit bench {run} --carried bench.json", target.runtime, as_json)
    return 0
