"""A small Glow (Kingma, Dhariwal 2018): a multi-scale normalising flow, built with ``normflows``.

network = Flow(Layout(size=32, levels=3, steps=4, hidden=64))
loss = network.loss(images, rng)           # images (n, 3, size, size) in [-1, 1]
images = network.decode(z)                 # z (n, 3 * size**2), standard normal
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import normflows
import torch

from registry.generators.small_network import SmallNetwork

LEVELS_OF_GREY = 32
"""Images are quantised to five bits in training, as Glow's are: the low bits cost most of its capacity."""


@dataclass(frozen=True)
class Layout:
    """Side of the images; scales; steps of flow at each scale; width of the coupling networks."""

    size: int
    levels: int
    steps: int
    hidden: int


class Flow(SmallNetwork):
    """Invertible map between images and standard normal numbers at several scales."""

    in_half: ClassVar[bool] = False

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        levels, size = layout.levels, layout.size
        flows, merges, bases = [], [], []
        self.shapes: list[tuple[int, int, int]] = []
        for level in range(levels):
            channels = 3 * 2 ** (levels + 1 - level)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # normflows still calls torch.lu
                steps = [
                    normflows.flows.GlowBlock(channels, layout.hidden, split_mode="channel", scale=True)
                    for _ in range(layout.steps)
                ]
            flows.append([*steps, normflows.flows.Squeeze()])
            side = size >> (levels - level)
            if level:
                merges.append(normflows.flows.Merge())
            shape = (channels // 2 if level else channels, side, side)
            self.shapes.append(shape)
            bases.append(normflows.distributions.DiagGaussian(shape, trainable=False))
        self.flow = normflows.MultiscaleFlow(bases, flows, merges)

    def loss(self, images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Negative log likelihood in bits per pixel value, up to a constant."""
        grey = ((images + 1) * (LEVELS_OF_GREY / 2)).floor_().clamp_(0, LEVELS_OF_GREY - 1)
        x = (grey + torch.rand(grey.shape, generator=rng)) / LEVELS_OF_GREY - 0.5
        per_value = math.prod(images.shape[1:]) * math.log(2)
        loss: torch.Tensor = self.flow.forward_kld(x) / per_value
        return loss

    def decode(self, z: torch.Tensor, **options: Any) -> torch.Tensor:  # noqa: ARG002
        """Images (n, 3, size, size), about [-1, 1], of latents (n, 3 * size**2)."""
        sizes = [math.prod(shape) for shape in self.shapes]
        parts = [part.view(-1, *shape) for part, shape in zip(z.split(sizes, 1), self.shapes, strict=True)]
        x = parts[0]
        for level, flows in enumerate(self.flow.flows):
            if level:
                x, _ = self.flow.merges[level - 1]([x, parts[level]])
            for step in flows:
                x, _ = step(x)
        return 2 * x
