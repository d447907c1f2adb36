"""What TransFG's attention rollout costs: as products of whole maps, as officially, and as a row times a map.

    python examples/studies/attention_chains.py --image-size 448

One forward pass notes the maps of all layers before the fusion; both rollouts are then made from these, interleaved
with forward passes, and must choose the same patches. Multiply-adds: (L - 2) H N^3 of the products, (L - 2) H N^2 of
the row.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch import Tensor

from tavt_kit.models.backbones.fusion import rollout_row
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import wrap


def whole_product(maps: tuple[tuple[Tensor, Tensor | None], ...]) -> Tensor:
    """(B, N, H): the class token's row of the product of all maps, every one multiplied out."""
    product = maps[0][0]
    for attention, _ in maps[1:]:
        product = attention @ product
    return product[:, :, 0].transpose(1, 2)


def seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="transfg_base_patch16")
    parser.add_argument("--image-size", type=int, default=448)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    bare = timm.create_model(given.model, img_size=given.image_size, num_classes=200).eval()
    for block in bare.blocks:
        block.attn.qkv.weight.mul_(4)  # peaked attention: which patch is best is no accident
    model = wrap(bare)
    images = torch.randn(1, 3, given.image_size, given.image_size)
    state = model.advance(model.start(images), range(model.layers - 1), model.dense_schedule.counts)
    maps = state.notes["maps"]
    rows = {"row": lambda: rollout_row(maps, model.tokens), "products": lambda: whole_product(maps)}
    chosen = {name: roll()[:, 1:].argmax(1) for name, roll in rows.items()}
    assert torch.equal(chosen["row"], chosen["products"])
    todo: dict[str, Callable[[], object]] = {"forward": lambda: model(images), **rows}
    order, found = np.random.default_rng(0), {name: [] for name in todo}  # type: ignore[var-annotated]
    for _ in range(given.rounds):
        for name in order.permutation(list(todo)):
            found[name].append(seconds(todo[name]))
    forward, row, products = (1e3 * median(found[name]) for name in todo)
    print(f"{given.model} at {given.image_size} px, {model.tokens} tokens, f32, batch 1, {given.threads} threads:")
    print(
        f"the same {chosen['row'].numel()} patches; forward {forward:.0f} ms with the row of {row:.1f} ms in it "
        f"({100 * row / forward:.1f} %); products of maps {products:.0f} ms ({products / row:.0f}x the row)"
    )


if __name__ == "__main__":
    main()
