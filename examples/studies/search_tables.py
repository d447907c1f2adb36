"""The tables of ``search_cost``, printed from its record."""

from __future__ import annotations

from typing import Any


def show(record: dict[str, Any]) -> None:
    """What was found, for people."""
    if "seconds" in record:
        print()
        for precision, line in record["seconds"].items():
            seconds = f"{line['base']:.2f} s + {1e9 * line['per_mac']:.2f} s a GMAC an image"
            errors = f"{100 * line['mean_error']:.1f} % on average, {100 * line['worst_error']:.1f} % at worst"
            print(f"A whole pass over val in {precision}: {seconds}; off by {errors}.")
    if "levers" in record:
        print("\n| evaluator | times as fast as one by one in f32 |\n|---|---|")
        for name, ratio in record["levers"]["evaluators"].items():
            print(f"| {name} | {ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] |")
        costs = record["levers"]["costs"]
        once, each = costs["at_once"], costs["one_by_one"]
        print(f"\nMultiply-adds of a schedule: {once:.2f} us at once, {each:.0f} us one by one.")
    if "ranks" in record:
        print("\n| quick evaluator | Kendall's tau | of the exact front found | volume kept | largest difference |")
        print("|---|---|---|---|---|")
        for name, one in record["ranks"].items():
            print(f"| {name} | {one['tau']:.3f} | {100 * one['overlap']:.0f} % | {100 * one['kept']:.2f} % | "
                  f"{100 * one['largest']:.1f} points |")  # fmt: skip
    if "ours" in record:
        _show_ours(record["ours"])
    for row in record.get("sober", []):
        if "too_slow" in row:
            names = ", ".join(row["too_slow"])
            print(
                f"\nAt {100 * row['share_of_dense']:.0f} % of the dense model's latency: nothing that fast of {names}."
            )
        if "dense_ms" not in row:
            continue
        dense = row["dense_ms"]
        print(f"\nAt {100 * row['share_of_dense']:.0f} % of the dense model's latency ({dense:.2f} ms):")
        for name, one in row.items():
            if isinstance(one, dict) and "test" in one:
                print(f"  {name}: {100 * one['test']:.1f} % of test, {one['median_ms']:.2f} ms, {one['schedule']}")
        for family in ("taper", "stages"):
            if f"beats_{family}" not in row:
                continue
            found = row[f"beats_{family}"]
            value, low, high = (100 * part for part in (found["difference"], *found["ci95"]))
            print(f"  beats the best {family}: {found['answer']} ({value:+.1f} points [{low:+.1f}, {high:+.1f}])")


def _show_ours(found: dict[str, Any]) -> None:
    print("\n| seed | search | volume on val, on test | evaluations, images | seconds | official reached | factor |")
    print("|---|---|---|---|---|---|---|")
    for row in found["seeds"]:
        for name, one in {"official": row["official"], "NSGA-II": row["nsga2"], **row["variants"]}.items():
            both = f"{one['front_volume_val']:.4f}, {one['front_volume_test']:.4f}"
            looked = f"{one['evaluations']}, {100 * one.get('looked_at', 1.0):.0f} %"
            then, factor = one.get("reached"), one.get("factor")
            reached = f"{then['evaluations']}, {then['seconds']:.0f} s" if then else "-"
            times = f"{factor:.1f}x" if factor else "-"
            print(f"| {row['seed']} | {name} | {both} | {looked} | {one['seconds']:.0f} | {reached} | {times} |")
            for share, early in one.get("early", {}).items():
                if early:
                    both = f"{early['front_volume_val']:.4f}, {early['front_volume_test']:.4f}"
                    name_then, number = f"{name} at 1/{share} of the official seconds", early["evaluations"]
                    print(f"| {row['seed']} | {name_then} | {both} | {number} | {early['seconds']:.0f} | | |")
    for name, one in found["summary"].items():
        reached = f", reached in {one['reached']} of {one['of']}" if "of" in one else ""
        if "mean" not in one:
            print(f"{name}: never{reached}")
            continue
        ends = "one seed" if one["ci95"] is None else ", ".join(f"{end:.4g}" for end in one["ci95"])
        print(f"{name}: {one['mean']:.4g} [{ends}]{reached}")
