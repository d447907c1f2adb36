"""A fine-grained set of drawings: 71 roles and activities, each drawn 36 times; the women's pictures are held out.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0
    python examples/studies/emoji_roles.py emoji-datasource-*.tgz --out emoji
    fgvc-kit fit emoji/list.csv --budget latency=60%

A role is what exists as a man, as a woman and as a person, in six colours of skin, by two houses. Training has men and
persons of both; ``val`` has the women as Twitter draws them, ``test`` as Google does: no picture of ``val`` or ``test``
has a near copy in training. Pictures are 64 pixels wide, on white. Licences: Google's Apache-2.0, Twitter's CC BY 4.0,
the packages MIT.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

_MAN, _WOMAN, _PERSON = "1F468", "1F469", "1F9D1"
_WHO = {_MAN: "man", _WOMAN: "woman", _PERSON: "person", "2642": "man", "2640": "woman"}
_LOOK = "FE0F"
"""Variation selector: it changes no meaning."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", type=Path, nargs=2, help="the two .tgz files, of Google and of Twitter")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = []
    for package in given.packages:
        house = next(name for name in ("google", "twitter") if name in package.name)
        with tarfile.open(package) as archive:
            for role, who, image in roles(json.load(_member(archive, "package/emoji.json"))):
                split = "train" if who != "woman" else "test" if house == "google" else "val"
                path = given.out / role / f"{house}-{image}"
                path.parent.mkdir(parents=True, exist_ok=True)
                drawn = Image.open(io.BytesIO(_member(archive, f"package/img/{house}/64/{image}").read()))
                paper = Image.new("RGBA", drawn.size, "white")
                paper.alpha_composite(drawn.convert("RGBA"))
                paper.convert("RGB").save(path)
                rows.append((f"{role}/{path.name}", role, split))
    with (given.out / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *sorted(rows)])
    print(f"{len({role for _, role, _ in rows})} roles, {len(rows)} pictures: {given.out / 'list.csv'}")


def roles(table: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Role, who (man, woman, person) and file of every picture of a role that exists as all three."""
    found: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for one in table:
        if len(one.get("skin_variations", ())) == 5 and not one["short_name"].endswith("facing_right"):
            parts = [part for part in one["unified"].split("-") if part != _LOOK]
            sign = next((part for part in ("2640", "2642") if part in parts), None)
            if sign is not None:  # after what joins it to the role
                at = parts.index(sign)
                key, who = "-".join(parts[: at - 1] + parts[at + 1 :]), _WHO[sign]
            elif len(parts) > 1 and parts[0] in (_MAN, _WOMAN, _PERSON):
                key, who = "-".join(parts[1:]), _WHO[parts[0]]
            else:
                key, who = "-".join(parts), "person"
            found[key][who] = one
    for by_whom in found.values():
        if len(by_whom) == 3:
            for who, one in by_whom.items():
                for image in (one, *one["skin_variations"].values()):
                    yield by_whom["person"]["short_name"], who, image["image"]


def _member(archive: tarfile.TarFile, name: str) -> io.BufferedReader:
    file = archive.extractfile(name)
    assert file is not None, name
    return file  # type: ignore[return-value]


if __name__ == "__main__":
    main()
