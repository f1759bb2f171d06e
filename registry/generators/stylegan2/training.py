"""Train a small StyleGAN2 on a folder or zip of photographs.

    python -m registry.generators.stylegan2.training --data flowers128.zip --out flowers-stylegan2

Non-saturating logistic loss, R1 every eighth step (Mescheder et al. 2018, lazily as in StyleGAN2), and
DiffAugment (Zhao et al., NeurIPS 2020: colour, translation, cutout on real and generated images alike),
without which some thousand photographs are learned by heart. Ctrl-C keeps the checkpoint; the same
command goes on from there. Writes a model folder for the adapter ``stylegan2``.
"""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import nn

from registry.errors import InputError
from registry.generators.photographs import load_photographs, random_crops
from registry.generators.stylegan2.checkpoints import save_model
from registry.generators.stylegan2.network import GAIN, SLOPE, EqualLinear, Layout, Synthesis
from registry.interrupts import between_steps
from registry.progress import progress
from registry.storage import atomic_file
from registry.training import move_average

WIDTHS = {32: (128, 96, 64, 48), 64: (192, 160, 128, 96, 48)}
"""Channels by side of the images: at most 8 M parameters."""
MAPPING_LAYERS = 4
R1_WEIGHT = 0.5
R1_EVERY = 8
SMALLEST_CROP = 0.9
SAVE_EVERY = 250
RATE = 2.5e-3
AVERAGE = 0.998


class _Conv(nn.Module):
    """A convolution that keeps the size, its weights stored at unit variance and scaled when used."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = 1 / math.sqrt(inputs * kernel**2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.weight.shape[-1] // 2)


class _Activation(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x, SLOPE) * GAIN


class Discriminator(nn.Module):
    """Images (n, 3, size, size) -> logits (n,): residual blocks down to 4 x 4, then the batch's spread."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        widths = channels[::-1]
        self.first = nn.Sequential(_Conv(3, widths[0], 1), _Activation())
        self.blocks, self.shortcuts = nn.ModuleList(), nn.ModuleList()
        for inputs, outputs in itertools.pairwise(widths):
            body = [_Conv(inputs, inputs, 3), _Activation(), _Conv(inputs, outputs, 3), _Activation()]
            self.blocks.append(nn.Sequential(*body, nn.AvgPool2d(2)))
            self.shortcuts.append(nn.Sequential(nn.AvgPool2d(2), _Conv(inputs, outputs, 1)))
        last = widths[-1]
        self.spread = nn.Sequential(_Conv(last + 1, last, 3), _Activation())
        self.head = nn.Sequential(EqualLinear(last * 16, last), _Activation(), EqualLinear(last, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block, shortcut in zip(self.blocks, self.shortcuts, strict=True):
            x = (block(x) + shortcut(x)) / math.sqrt(2)
        groups = x.float().view(4, -1, *x.shape[1:])  # each sample beside three others of the batch
        spread = groups.var(0, correction=0).add(1e-8).sqrt().mean((1, 2, 3))
        plane = spread.repeat(4)[:, None, None, None].expand(-1, 1, *x.shape[2:])
        x = self.spread(torch.cat([x, plane.to(x.dtype)], 1))
        logits: torch.Tensor = self.head(x.flatten(1))[:, 0]
        return logits.float()


def augment(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """DiffAugment's colour, translation (1/8 of the side) and cutout (half of the side), for each image."""
    n, _, side, _ = x.shape

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(n, *shape, generator=rng)

    x = x + uniform(1, 1, 1) - 0.5
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (2 * uniform(1, 1, 1))
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * (0.5 + uniform(1, 1, 1))
    reach = side // 8
    shift = torch.randint(-reach, reach + 1, (2, n, 1), generator=rng)
    place = torch.arange(side)[None]
    rows, columns = ((place + offset).clamp(-1, side) + 1 for offset in shift)
    padded = F.pad(x, (1, 1, 1, 1))
    x = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    centre = torch.randint(0, side + 1, (2, n, 1), generator=rng)
    inside = [(place - c).abs() < side // 4 for c in centre]
    return x * ~(inside[0][:, None, :, None] & inside[1][:, None, None, :])


class _State:
    """Both networks, the averaged generator, their optimisers: what a checkpoint holds."""

    def __init__(self, channels: tuple[int, ...], checkpoint: Path) -> None:
        self.generator = Synthesis(Layout(512, MAPPING_LAYERS, channels))
        self.discriminator = Discriminator(channels)
        self.averaged = copy.deepcopy(self.generator).eval().requires_grad_(False)
        mapping = list(self.generator.style.parameters())
        rest = [p for name, p in self.generator.named_parameters() if not name.startswith("style.")]
        self.of_generator = torch.optim.Adam([*mapping, *rest], RATE, betas=(0.0, 0.99))
        self.of_discriminator = torch.optim.Adam(self.discriminator.parameters(), RATE, betas=(0.0, 0.99))
        self.checkpoint, self.step = checkpoint, 0
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            self.step = state.pop("step")
            for name, value in state.items():
                getattr(self, name).load_state_dict(value)

    def save(self) -> None:
        names = ("generator", "discriminator", "averaged", "of_generator", "of_discriminator")
        state = {name: getattr(self, name).state_dict() for name in names}
        with atomic_file(self.checkpoint) as file:
            torch.save({"step": self.step, **state}, file)


def train(photographs: torch.Tensor, size: int, work: Path, steps: int, batch: int) -> Synthesis:
    """Train for ``steps`` batches on uint8 photographs (n, 3, s, s), s >= size; the averaged generator."""
    if size not in WIDTHS:
        raise InputError(f"--size {size}: give one of {', '.join(map(str, WIDTHS))}.")
    if batch % 4:
        raise InputError(f"--batch {batch}: give a multiple of four.")
    torch.manual_seed(0)
    state = _State(WIDTHS[size], work / "gan.pt")
    with progress("stylegan2", steps, state.step) as bar, between_steps() as check:
        while state.step < steps:
            check()
            shown = _step(state, photographs, size, batch, min(1.0, 2 - 2 * state.step / steps))
            state.step += 1
            move_average(state.averaged, state.generator, AVERAGE, state.step)
            bar.update(state.step, **shown)
            if state.step % SAVE_EVERY == 0 or state.step == steps:
                state.save()
    return state.averaged


def _step(state: _State, photographs: torch.Tensor, size: int, batch: int, rate: float) -> dict[str, float]:
    rng = torch.Generator().manual_seed(state.step)
    for optimizer in (state.of_generator, state.of_discriminator):
        for group in optimizer.param_groups:
            group["lr"] = RATE * max(rate, 0.02)
    real = random_crops(
        photographs[torch.randint(0, len(photographs), (batch,), generator=rng)], size, 0.9, rng
    )
    z = torch.randn(2, batch, state.generator.layout.style_dim, generator=rng)

    def made(noise: torch.Tensor) -> torch.Tensor:
        images: torch.Tensor = state.generator(state.generator.mapping(noise)).float()
        return images

    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            fake = made(z[0])
        logits = state.discriminator(augment(torch.cat([real, fake]), rng))
    of_real, of_fake = logits.chunk(2)
    loss = F.softplus(-of_real).mean() + F.softplus(of_fake).mean()
    if state.step % R1_EVERY == 0:
        real.requires_grad_()
        (slope,) = torch.autograd.grad(state.discriminator(augment(real, rng)).sum(), real, create_graph=True)
        loss = loss + R1_WEIGHT / 2 * R1_EVERY * slope.square().sum((1, 2, 3)).mean()
    _descend(state.of_discriminator, loss)

    state.discriminator.requires_grad_(False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = state.discriminator(augment(made(z[1]), rng))
    _descend(state.of_generator, F.softplus(-logits).mean())
    state.discriminator.requires_grad_(True)
    return {"real": of_real.mean().item(), "made": of_fake.mean().item()}


def _descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--size", default=32, show_default=True, help="Side of the images in pixels.")
@click.option("--steps", default=20000, show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(data: Path, out: Path, size: int, steps: int, batch: int, threads: int) -> None:
    """Train on DATA; run again to resume."""
    torch.set_num_threads(threads)
    work = out / "training"
    work.mkdir(parents=True, exist_ok=True)
    averaged = train(load_photographs(data, 2 * size), size, work, steps, batch)
    save_model(averaged.state_dict(), out / "model")


if __name__ == "__main__":
    main()
