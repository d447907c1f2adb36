"""The tables and the image of README and docs that are made from committed records.

    python examples/studies/result_tables.py

writes anew what stands between ``<!-- from RECORD[, RECORD] by FUNCTION of result_tables.py -->`` and ``<!-- end -->``
in README and docs, and the image. A test holds every one of them against its records.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(<!-- from (\S.*?) by (\w+) of result_tables\.py -->\n).*?(<!-- end -->)", re.DOTALL)
UNTRAINED = "examples/studies/results/untrained-merging.json"
CHART = ROOT / "docs" / "results" / "merging.svg"


def pages() -> list[Path]:
    """Every page that may hold a block."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def renew(page: str) -> str:
    """A page with each of its blocks made anew from its records."""

    def block(match: re.Match[str]) -> str:
        records = [read(path) for path in match[2].split(", ")]
        return f"{match[1]}\n{globals()[match[3]](*records).rstrip()}\n\n{match[4]}"

    return BLOCK.sub(block, page)


def read(path: str) -> Any:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def merging(record: Mapping[str, Any]) -> str:
    """Merging and dropping in networks that never learned to lose tokens: a row for each schedule and network."""
    merged, dropped = by_reduction(record)
    rows = [
        [
            f"{key[0]} ({100 * one['dense_top1']:.1f} %)",
            f"`{one['schedule']}`",
            f"{one['fewer_multiply_adds']:.2f}x",
            points(one),
            f"{one['kl']:.3f}",
            points(dropped[key]),
            f"{dropped[key]['kl']:.3f}",
        ]
        for key, one in merged.items()
    ]
    header = ["network", "schedule", "fewer multiply-adds", "merge, points", "KL", "drop, points", "KL"]
    against = "points against the same network's dense answers, paired 95 % intervals; KL in nats"
    return f"{untrained_setting(record)}; {against}.\n\n{table(header, rows)}"


def reductions(record: Mapping[str, Any], few: Mapping[str, Any], many: Mapping[str, Any]) -> str:
    """What a schedule of three stages saves in time, dropped and merged, and what it costs without any training."""
    merged, dropped = by_reduction(record)
    network = "fine-tuned"
    stages = {"drop": dropped[network, "three stages, keep 0.7"], "merge": merged[network, "three stages, keep 0.7"]}
    steep = max((one for key, one in dropped.items() if key[0] == network), key=lambda one: one["fewer_multiply_adds"])
    kept = merged[network, steep["name"]]
    rows = []
    for bench in (few, many):
        of = {tuple(one["name"].removeprefix(one["thing"]).split()): one for one in bench["candidates"]}
        for schedule, reduction in dict.fromkeys((words[0], words[1]) for words in of):
            pair = [of[schedule, reduction, "on", runtime] for runtime in ("openvino", "onnxruntime")]
            tokens, cost = pair[0]["schedule"][0], "not measured"
            if schedule == "dense":
                label, cost = f"dense, as {reduction}", ""
            else:
                label = f"{reduction} `{schedule}`"
                if schedule == stages[reduction]["schedule"]:
                    cost = points(stages[reduction])
            rows.append([str(tokens), label, f"{pair[0]['macs'] / 1e9:.2f}", *map(timed, pair), cost])
    one, other = few["candidates"][0], many["candidates"][0]
    header = ["tokens", "what", "GMACs", "OpenVINO", "onnxruntime", "top-1, points"]
    return (
        f"Times: {one['thing']}, random weights, {one['image_size'][0]} and {other['image_size'][0]} px, "
        f"{one['target']['precision']}, batch {one['target']['batch']}, {device(few)}; "
        "medians, and speed against the first row of that size, paired by rounds, 95 % intervals. The machine was "
        f"{few['noise']['word']} at 65 tokens and {many['noise']['word']} at 197. Top-1: another network of the same "
        f"size, which never learned to lose tokens: {untrained_setting(record)}.\n\n{table(header, rows)}\n"
        f"The steepest schedule of that record, `{steep['schedule']}`, loses {-steep['points']:.1f} points dropped and "
        f"{-kept['points']:.1f} merged, at {steep['fewer_multiply_adds']:.2f}x and {kept['fewer_multiply_adds']:.2f}x "
        "fewer multiply-adds.\n"
    )


def timed(one: Mapping[str, Any]) -> str:
    ratio, median = one["ratio"], one["latency_ms"]["median"]
    return f"{median:.1f} ms, {ratio['value']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def merge_costs(record: Mapping[str, Any]) -> str:
    """What three merges take longer than three drops at equal counts, as a share of the dense network's time."""
    rows = []
    for size in record["sizes"]:
        macs = size["macs"]
        of = {(one["runtime"], one["precision"], one["what"]): one for one in size["rows"]}
        for runtime, precision in dict.fromkeys(key[:2] for key in of):
            dense, drop, merge = (of[runtime, precision, what] for what in ("dense", "drop", "merge"))
            # Who is sure is measured no longer: rounds that both were in.
            more = np.array([after - before for after, before in zip(merge["rounds"], drop["rounds"], strict=False)])
            half = 1.96 * more.std(ddof=1) / np.sqrt(len(more))
            share, apart = 100 * more.mean() / dense["median"], 100 * half / dense["median"]
            floor = 100 * 2e-6 * (macs["merge"] - macs["drop"]) / size["gflops"] / dense["median"]
            tokens = (size["pixels"] // 14) ** 2 + 1
            goal = floor + 2 if tokens == 785 else 3 if precision == "f32" else 5
            rows.append([
                str(tokens), f"{runtime} {precision}", *(f"{one['median']:.2f}" for one in (dense, drop, merge)),
                f"{share:.1f} ± {apart:.1f}", f"{floor:.1f}", f"{goal:.1f}", "yes" if share <= goal else "no",
            ])  # fmt: skip
    header = ["tokens", "where", "dense, ms", "three drops", "three merges", "merges - drops, % of dense", "floor, %",
              "at most, %", "met"]  # fmt: skip
    first = record["sizes"][0]
    words = ", ".join(f"{one['noise']} at {(one['pixels'] // 14) ** 2 + 1} tokens" for one in record["sizes"])
    return (
        f"ViT-S/14, each kept share 70 %, batch 1, {first['threads']} threads, {device(first)}; means of "
        f"rounds, paired, with 95 % intervals; the machine was {words}.\n\n{table(header, rows)}"
    )


def search_cost(record: Mapping[str, Any]) -> str:
    """Seconds until the surrogate has the official search's volume, seed by seed."""
    name = record["asked"]["variants"][0]
    rows = []
    for seed in record["ours"]["seeds"]:
        official, ours = seed["official"], seed["variants"][name]
        reached, shown = ours["reached"], ["never", ""]
        if reached:
            shown = [
                f"{reached['seconds']:.0f} s, {reached['evaluations']} evaluations",
                f"{ours['factor_f32']:.0f}, {ours['factor']:.1f}",
            ]
        rows.append([
            str(seed["seed"]),
            f"{official['front_volume_val']:.4f}, {official['front_volume_test']:.4f}",
            f"{official['seconds_f32']:,.0f}, {official['seconds']:,.0f}",
            f"{ours['front_volume_val']:.4f}, {ours['front_volume_test']:.4f}",
            *shown,
        ])  # fmt: skip
    summary = record["ours"]["summary"]
    slow, same = summary[f"{name} factor_f32"], summary[f"{name} factor"]
    after = f"ours after {record['asked']['evaluations']} evaluations"
    header = ["seed", "official volume on `val`, `test`", "its seconds in f32, in bf16", after, "reached after",
              "times fewer seconds than in f32, in bf16"]  # fmt: skip
    return (
        f"{table(header, rows)}\n{same['reached']} of {same['of']} seeds reach it; of these, geometric means of the "
        f"times fewer seconds, with 95 % intervals: {interval(slow, '.1f')} than in f32, {interval(same, '.1f')} than "
        "in bf16. On `test` ours after all evaluations less the official: "
        f"{interval(summary[f'{name} volume_test less official'])}.\n"
    )


def search_cost_f32(record: Mapping[str, Any]) -> str:
    """One seed in f32: the official search, NSGA-II without levers, and two with all of them."""
    seed = record["ours"]["seeds"][0]
    official, plain = seed["official"], seed["nsga2"]
    names = {"surrogate:128": "surrogate, shared prefixes, bf16", "nsga2:0": "NSGA-II, shared prefixes, bf16"}
    least = f"{official['seconds'] / plain['factor']:.0f}: {plain['factor']:.1f}x fewer"
    searches = [
        ("official", official, " (modelled)", ""),
        ("NSGA-II in f32, no lever", plain, " (modelled)", least),
        *((names[name], one, "", "not reached") for name, one in seed["variants"].items() if not one["reached"]),
    ]
    rows = [
        [name, f"{one['evaluations']:,}", f"{one['seconds']:,.0f}{how}", f"{one['front_volume_val']:.4f}",
         f"{one['front_volume_test']:.4f}", reached]
        for name, one, how, reached in searches
    ]  # fmt: skip
    header = ["search", "evaluations", "seconds", "volume on `val` (f32)", "on `test`",
              "seconds to the official volume on `val`"]  # fmt: skip
    return table(header, rows)


def own_speed(record: Mapping[str, Any]) -> str:
    """The kit's own speed: a row for each job."""
    rows = []
    for one in record["candidates"]:
        found = one["latency_ms"]
        low, high = found["interval95"]
        sure = f" ± {50 * (high - low) / found['median']:.1f} %" if found["steady"] else ", unsteady"
        median = found["median"]
        rows.append([one["name"], (f"{median / 1000:.2f} s" if median >= 1000 else f"{median:.3g} ms") + sure])
    packages = record["host"]["packages"]
    versions = ", ".join(f"{name} {packages[name].split('+')[0]}" for name in ("torch", "openvino", "onnxruntime"))
    return (
        f"{record['inputs'].split('for ')[1]}, random weights, batch 1, f32, {device(record)}; {versions}.\n\n"
        f"{table(['job', 'median'], rows)}"
    )


def proof(record: Mapping[str, Any]) -> str:
    """Every network that was trained and asked, f32 beside int8, and what came of the goals."""
    places = sorted({place for row in record["rows"] for place in row["on"]})
    both: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in record["rows"]:
        asked, _, precision = row["asked"].rpartition(" ")
        both.setdefault((row["network"], asked), {})[precision] = row
    rows = []
    for (network, asked), of in both.items():
        size, schedule = asked.split(" ")
        one, few = next(iter(of.values())), of.get("int8")
        shares = [" / ".join(f"{100 * of[precision][split]['value']:.1f}" for split in ("val", "test"))
                  if precision in of else "" for precision in ("f32", "int8")]  # fmt: skip
        ms = None if few is None else few["ms"]
        rows.append([network, f"{size} px, `{schedule}`", f"{one['macs'] / 1e9:.2f}", *shares,
                     "" if few is None else mean(few["against_dense"]),
                     *([] if record["target"] is None
                       else [f"{ms['median']:.2f}, {ms['p90']:.2f}; {ms['alone']:.2f}" if ms else ""])])  # fmt: skip
    header = ["network", "size, schedule", "GMACs", "f32, `val` / `test`, %", "int8, `val` / `test`, %",
              "int8 against dense f32, points"]  # fmt: skip
    header += [] if record["target"] is None else ["int8, ms: median, p90; alone"]
    dense = ", ".join(f"{name} on {place}" for place, name in record["dense"].items())
    seeds = f"{len(places)} fold or seed of a set" if len(places) == 1 else f"{len(places)} folds and seeds of sets"
    times = "" if record["target"] is None else f", times on {record['target']}"
    where = record.get("answered") or device(record)
    times += f" of {device(record)}" if times and where != device(record) else ""
    return (
        f"{seeds} ({', '.join(places)}), n = {record['rows'][0]['test']['n']} test images, "
        f"{record['answers']}, {where}{times}. Dense, chosen on `val`: {dense}.\n\n{table(header, rows)}\n"
        + proof_goals(record)
    )


def distilled(record: Mapping[str, Any]) -> str:
    """Of a record of the proof the one network that distillation taught all sizes."""
    one = record | {"rows": [row for row in record["rows"] if row["network"] == "ours-merge"], "goals": []}
    return proof(one).rstrip()


def proof_goals(record: Mapping[str, Any]) -> str:
    """What came of the goals, over all sets of the record."""
    return "\n".join(
        f"- {goal['goal']}: {', '.join(filter(None, (mean(goal['points']), goal['verdict'])))}"
        + "".join(f"; {chosen}" for chosen in goal["chosen"]) + "."
        for goal in record["goals"]
    )  # fmt: skip


def heads(record: Mapping[str, Any]) -> str:
    """Heads and losses that cost nothing at run time, each against the labels alone."""
    asked, rows = record["asked"], []
    for row in record["rows"]:
        changes = (", ".join(f"{one:+.1f}" for one in row["points_by_place"][split]) for split in ("val", "test"))
        shares = (f"{100 * row[split]['accuracy']['value']:.1f}" for split in ("val", "test"))
        plain = row["way"] == "labels"
        rows.append(
            [f"`{row['way']}`", *shares, *(["", "", ""] if plain else [*changes, "yes" if row["kept"] else "no"])]
        )
    header = [
        "trained by",
        "`val`, %",
        "`test`, %",
        "`val`, points in each",
        "`test`, points in each",
        "wins everywhere",
    ]
    return (
        f"{', '.join(asked['place'])}: {asked['image_size']} px, merged by `{asked['schedule']}`, {asked['steps']} "
        f"steps of 16, f32, {device(record)}.\n\n{table(header, rows)}"
    )


def fitted(*records: Mapping[str, Any]) -> str:
    """The closing table of each fit, and what it advises."""
    parts = []
    for record in records:
        rows = []
        for role, index in record["shown"].items():
            row = record["rows"][index]
            shares = ("" if row[split] is None else accuracy(row[split]) for split in ("val", "test"))
            verdict, ms = row["verdict"] if row["fits"] else "missed", row["latency_ms"]
            times = f"{ms['median']:.2f}, {ms['p90']:.2f}" + ("" if ms["steady"] else ", unsteady")
            rows.append([role, row["name"], *shares, f"{row['macs'] / 1e9:.2f}", times, verdict])
        spent, data, target = record["seconds"], record["data"], record["target"]
        runs = ":".join(str(target[key]) for key in ("runtime", "processor", "threads") if target.get(key) is not None)
        parts.append(
            f"**{_SETS.get(data['name'], data['name'])}**, {data['classes']} classes, `{record['command']}`: {runs}, "
            f"batch 1, {device(record)}; "
            f"first answer after {spent['first']:.0f} s, the end after {spent['all']:.0f} s.\n\n"
            + table(["", "model", "val, %", "test, %", "GMACs", "median, p90, ms", "budget"], rows)
            + f"\n\n> {record['advice']}"
        )
    return "\n\n".join(parts)


_SETS = {
    "elpv": "solar cells (ELPV)",
    "emoji/list.csv": "emoji roles",
    "timm:torch/fashion_mnist:fashion": "Fashion-MNIST",
}


def recommended(*records: Mapping[str, Any]) -> str:
    """What each fit ships, beside the dense model in f32 and in INT8: top-1 on test and p90."""
    rows, roles = [], ("recommended", "dense", "dense INT8")
    for record in records:
        found = [record["rows"][record["shown"][role]] for role in roles]
        figures = [f"{accuracy(row['test'])}, {row['latency_ms']['p90']:.1f} ms" for row in found]
        name = record["data"]["name"]
        shown = found[0]["name"].partition(" (")[0]
        rows.append([_SETS.get(name, name), str(record["data"]["classes"]), shown, *figures])
    ours = sum(record["rows"][record["recommended"]]["kind"] == "ours" for record in records)
    steady = all(record["rows"][record["shown"][role]]["latency_ms"]["steady"] for record in records for role in roles)
    share = records[0]["command"].partition("--budget ")[2].split()[0]
    return (
        f"`fgvc-kit fit` with `--budget {share}` (of dense INT8's time) on sets that nobody tuned for: top-1 on test, "
        f"% [95 %], and p90 at batch 1{'' if steady else ', unsteady'}; {device(*records)}; one seed each. What it "
        f"ships has fewer tokens in {ours} of {len(records)}: in the others a baseline was better.\n\n"
        + table(["images", "classes", "ships", "it has", "dense f32", "dense INT8"], rows)
    )


def accuracy(found: Mapping[str, Any]) -> str:
    low, high = found["ci95"]
    return f"{100 * found['top1']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def mean(points: Sequence[float] | None) -> str:
    return "" if points is None else f"{points[0]:+.1f} [{points[1]:+.1f}, {points[2]:+.1f}]"


def merging_chart(record: Mapping[str, Any]) -> str:
    """Top-1 against multiply-adds, dropped and merged, of the network that was fine-tuned in all layers."""
    left, top, width, height, most, lowest, highest = 64, 58, 560, 250, 2.8, -35.0, 5.0

    def x(value: float) -> float:
        return left + width * (value - 1) / (most - 1)

    def y(value: float) -> float:
        return top + height * (highest - value) / (highest - lowest)

    def text(across: float, down: float, words: str, style: str = "") -> str:
        return f'<text x="{across:.1f}" y="{down:.1f}"{style}>{words}</text>'

    middle, end = ' text-anchor="middle"', ' text-anchor="end"'
    drawn = [text(left, 24, "What a network keeps that never learned to lose tokens", ' font-size="16" fill="#17212b"')]
    drawn.append(text(left, 43, "top-1 on ELPV, points against the same network dense; 95 % intervals"))
    for value in range(-30, 1, 10):
        drawn.append(f'<path d="M{left} {y(value):.1f}h{width}" stroke="#dbe1e6"/>')
        drawn.append(text(left - 8, y(value) + 4, f"{value:+d}" if value else "0", end))
    for value in (1.0, 1.5, 2.0, 2.5):
        drawn.append(text(x(value), top + height + 20, f"{value:.1f}x", middle))
    drawn.append(text(left + width / 2, top + height + 40, "fewer multiply-adds", middle))
    for reduction, rows, colour in zip(("merge", "drop"), by_reduction(record), ("#0b6e4f", "#b4440c"), strict=True):
        shown = sorted((one for key, one in rows.items() if key[0] == "fine-tuned"),
                       key=lambda one: one["fewer_multiply_adds"])  # fmt: skip
        places = [(x(one["fewer_multiply_adds"]), y(one["points"])) for one in shown]
        line = " ".join(f"{across:.1f},{down:.1f}" for across, down in [(x(1), y(0)), *places])
        drawn.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for one, (across, down) in zip(shown, places, strict=True):
            low, high = one["ci95"]
            drawn.append(f'<path d="M{across:.1f} {y(low):.1f}V{y(high):.1f}" stroke="{colour}" opacity=".5"/>')
            drawn.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4" fill="{colour}"/>')
        drawn.append(text(places[-1][0] + 10, places[-1][1] + 4, reduction, f' fill="{colour}" font-weight="bold"'))
    body = "\n".join(drawn)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 360" font-family="sans-serif" font-size="13" '
        f'fill="#556370">\n<rect width="680" height="360" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def by_reduction(record: Mapping[str, Any]) -> Iterator[dict[tuple[str, str], Mapping[str, Any]]]:
    """The rows of merging, then those of dropping, by network and name of the schedule."""
    for reduction in ("merge", "drop"):
        yield {(one["network"], one["name"]): one for one in record["rows"] if one["reduction"] == reduction}


def untrained_setting(record: Mapping[str, Any]) -> str:
    size = record["train"].rpartition(" ")[2]
    return (
        f"ELPV (8 classes), {record['model']} at {size} px, f32, torch {record['torch'].split('+')[0]}, "
        f"{device(record)}; {record['folds']} of {record['of']} folds, n = {record['rows'][0]['n']} test images"
    )


def device(*records: Mapping[str, Any]) -> str:
    host, dates = records[0]["host"], sorted({record["host"]["date"][:10] for record in records})
    return f"{host['cores']} cores of an {host['cpu']}, {' and '.join(dates)}"


def points(row: Mapping[str, Any]) -> str:
    low, high = row["ci95"]
    return f"{row['points']:+.1f} [{low:+.1f}, {high:+.1f}]"


def verdicts_latency(record: Mapping[str, Any]) -> str:
    """PASS of what is exactly at its latency limit, before and now, and of what is 5 % inside."""
    rows = []
    for one in record["latency"]:
        if not one["false_pass_before"] and not one["power"]["8"]:
            continue  # too few runs for any verdict, before and now
        rows.append([f"{one['memory']:g}", f"{one['runs']:,}", one["statistic"], percent(one["false_pass_before"]),
                     percent(one["false_pass"]), *(percent(one["power"][gap]) for gap in ("2", "5", "8"))])  # fmt: skip
    header = ["AR(1)", "runs", "limit on", "false PASS before", "now", "PASS of 2 % inside", "5 %", "8 %"]
    asked, most = record["asked"], max(one["false_pass"] for one in record["latency"])
    return (
        f"{asked['draws']:,} series a row, {asked['ms']:g} ms with a spread of {100 * asked['spread']:g} %; "
        f"3,000 runs are a minute. The most false PASS now: {percent(most)}.\n\n{table(header, rows)}"
    )


def verdicts_stored(record: Mapping[str, Any]) -> str:
    """The same of stored series."""
    rows = [
        [one["statistic"], f"{one['thirds']}, {one['steady']}", f"{one['before']}, {one['before_steady']}",
         f"{one['after']}, {one['after_steady']}", f"{one['inside']} of {one['steady']}"]
        for one in record["stored"]
    ]  # fmt: skip
    header = ["limit on", "thirds, of them steady", "false PASS before", "now", "PASS of 5 % inside, steady"]
    return table(header, rows)


def verdicts_chosen(record: Mapping[str, Any]) -> str:
    """PASS of a choice among measured candidates that are all exactly at a latency limit."""
    rows = []
    for one in record["chosen"]:
        if not one["power"]["8"]:
            continue  # too few runs for any verdict among so many
        rows.append([f"{one['memory']:g}", f"{one['runs']:,}", one["statistic"], str(one["measured"]),
                     percent(one["false_pass_before"]), percent(one["false_pass"]),
                     *(percent(one["power"][gap]) for gap in ("2", "5", "8"))])  # fmt: skip
    header = ["AR(1)", "runs of each", "limit on", "measured", "false PASS as if alone", "now", "PASS of 2 % inside",
              "5 %", "8 %"]  # fmt: skip
    draws, most = record["chosen"][0]["draws"], max(one["false_pass"] for one in record["chosen"])
    return f"{draws:,} searches a row. The most false PASS now: {percent(most)}.\n\n{table(header, rows)}"


def verdicts_choices(record: Mapping[str, Any]) -> str:
    """PASS of a choice among candidates that are all exactly at a floor."""
    rows = [
        [f"`{one['floor']}`", str(one["candidates"]), "learns" if one["evolves"] else "independent",
         percent(one["before"]), percent(one["bonferroni"]), percent(one["held_out"])]
        for one in record["choices"]
    ]  # fmt: skip
    header = ["floor", "candidates", "proposals", "false PASS before", "Bonferroni, refused", "now: half judges"]
    one = record["choices"][0]
    return (
        f"1,000 images (200 of the class), {one['draws']:,} searches a row, {one['judged']:,} judgements of the other "
        f"half.\n\n{table(header, rows)}"
    )


def verdicts_power(record: Mapping[str, Any]) -> str:
    """PASS of one candidate that is truly inside a floor."""
    rows = [
        [one["floor"], f"{one['images']:,}", *(percent(one["power"][inside]) for inside in ("1", "2", "3", "5"))]
        for one in record["accuracy"]
    ]
    return table(["floor", "images that judge", "1 point inside", "2", "3", "5"], rows)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %" if 0 < share < 0.1 else f"{100 * share:.0f} %"


def interval(found: Mapping[str, Any], form: str = "+.4f") -> str:
    low, high = found["ci95"]
    return f"{found['mean']:{form}} [{low:{form}}, {high:{form}}]"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" | ".join(cells) for cells in (header, *rows)]
    lines.insert(1, "|".join(["---"] * len(header)))
    return "".join(f"|{line}|\n" if line.startswith("---") else f"| {line} |\n" for line in lines)


def main() -> None:
    for path in pages():
        path.write_text(renew(path.read_text(encoding="utf-8")), encoding="utf-8")
    CHART.write_text(merging_chart(read(UNTRAINED)), encoding="utf-8")


if __name__ == "__main__":
    main()
