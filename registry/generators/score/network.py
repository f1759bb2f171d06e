"""A small score-based (diffusion) model of pixels: ``diffusers``' U-Net and schedulers.

    network = Score(Layout(size=32, channels=(24, 48), patch=2))
    loss = network.loss(images, rng)           # images (n, 3, size, size) in [-1, 1]
    images = network.decode(z)                 # z (n, 3 * size**2), standard normal: where sampling begins

The network predicts the velocity (Salimans, Ho 2022) under the cosine schedule. ``patch`` folds squares
of pixels into channels, which makes a step ``patch**2`` times cheaper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel

from registry.generators.small_network import SmallNetwork

GROUPS = 8
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
}
SAMPLERS = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler, "dpm-solver": DPMSolverMultistepScheduler}


@dataclass(frozen=True)
class Layout:
    """Side of the images; channels of the U-Net's levels; side of a patch."""

    size: int
    channels: tuple[int, ...]
    patch: int = 2


class Score(SmallNetwork):
    """The U-Net, its loss, and the samplers that turn noise into images."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        levels, values = len(layout.channels), 3 * layout.patch**2
        self.unet = UNet2DModel(
            sample_size=layout.size // layout.patch,
            in_channels=values,
            out_channels=values,
            block_out_channels=layout.channels,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            layers_per_block=1,
            norm_num_groups=GROUPS,
            add_attention=False,
        )

    def loss(self, images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Mean squared error of the velocity at random times."""
        scheduler = DDPMScheduler(**SCHEDULE)
        x = F.pixel_unshuffle(images, self.layout.patch)
        noise = torch.randn(x.shape, generator=rng)
        times = torch.randint(0, SCHEDULE["num_train_timesteps"], (len(x),), generator=rng)
        noisy, velocity = (f(x, noise, times) for f in (scheduler.add_noise, scheduler.get_velocity))
        return F.mse_loss(self.unet(noisy, times).sample.float(), velocity)

    def decode(
        self,
        z: torch.Tensor,
        sampler: str = "ddim",
        steps: int = 20,
        **options: Any,  # noqa: ARG002
    ) -> torch.Tensor:
        """Images (n, 3, size, size), about [-1, 1], of the noise ``z`` (n, 3 * size**2).

        Noise that a sampler adds on the way is drawn from a generator seeded by ``z``.
        """
        side = self.layout.size // self.layout.patch
        scheduler = SAMPLERS[sampler](**SCHEDULE)
        scheduler.set_timesteps(steps)
        rng = torch.Generator().manual_seed(int(z[0, :4].mul(1e4).round().abs().sum()))
        extra = {} if sampler == "ddim" else {"generator": rng}
        x = z.view(len(z), -1, side, side)
        for time in scheduler.timesteps:
            velocity = self.unet(x, time).sample.float()
            x = scheduler.step(velocity, time, x, **extra).prev_sample
        return F.pixel_shuffle(x, self.layout.patch)
