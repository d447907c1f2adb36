"""PIM as a plug-in module: any timm backbone with four feature levels gets its pyramid, selector and graph combiner.

Here one more CNN and one more ViT than the official four, with random weights: what matters is that they run, train and
export. ``python examples/pim_over_any_backbone.py`` prints for each the levels, its size, one training step, what token
drop saves, and how far OpenVINO's answers are from torch's at a batch size that was not traced.
"""

from __future__ import annotations

import numpy as np
import torch

import tavt_kit as tk
from tavt_kit.core.device import TargetDevice
from tavt_kit.distill.losses import pim_loss
from tavt_kit.models.backbones.pim import Pim
from tavt_kit.models.wrap import AdaptiveViT, LeanViT
from tavt_kit.runtimes import open_module

BACKBONES = ("convnext_atto", "deit3_small_patch16_224")
SIZE, CLASSES = 112, 10


def show(backbone: str) -> None:
    """Build, train a step, drop, export."""
    torch.manual_seed(0)
    pim = Pim(backbone, num_classes=CLASSES, img_size=SIZE, fpn_size=128, num_selects=(32, 16, 8, 4))
    print(f"{backbone}: levels of (places, channels) {[(level.places, level.width) for level in pim.plan]}")
    images, labels = torch.rand(2, 3, SIZE, SIZE), torch.tensor([0, 3])
    pim.train()
    optimiser = torch.optim.SGD(pim.parameters(), lr=1e-3)
    loss = pim_loss(pim.forward_outputs(images), labels)
    loss.backward()
    optimiser.step()
    print(f"  one training step: loss {loss.item():.3f}")
    model = tk.wrap(pim.eval())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    dense = tk.count_macs(model)
    print(f"  {parameters / 1e6:.1f} M parameters, {dense / 1e9:.2f} GMACs")
    if model.backbone.static_reason is None:
        model.schedule = tk.TokenSchedule.taper(model.layout, 0.2)
        print(f"  taper 0.2: {tk.count_macs(model) / 1e9:.2f} GMACs")
    else:
        print(f"  nothing to drop: {model.backbone.static_reason}")
    print(f"  OpenVINO, batch 3: {difference(model):.0e} of the largest logit from torch at most")


@torch.inference_mode()
def difference(model: AdaptiveViT) -> float:
    """The largest over three images, in shares of the largest logit; the graph is traced on two."""
    lean, images = LeanViT(model, model.schedule, selection="topk").eval(), torch.rand(3, 3, SIZE, SIZE)
    session = open_module(lean, TargetDevice.parse("openvino:cpu:precision=f32"), (2, 3, SIZE, SIZE))
    expected = model(images).numpy()
    return float(np.abs(session(images.numpy()) - expected).max() / np.abs(expected).max())


if __name__ == "__main__":
    for name in BACKBONES:
        show(name)
