"""Train the small generators of the zoo: VAE, flow and score-based by their own loss, GAN against a critic.

    network = train(Autoencoder(layout), photographs, Path("work"), steps=1000, batch=32, seed=0)

Ctrl-C keeps the checkpoint in ``work``; the same call goes on from there.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
import torch.nn.functional as F

from registry.generators.adapters import noise_seed
from registry.generators.gan.network import Critic, Generator
from registry.generators.photographs import random_crops
from registry.generators.small_network import SmallNetwork
from registry.interrupts import between_steps
from registry.progress import progress
from registry.storage import atomic_file
from registry.training import Training, move_average

SMALLEST_CROP = 0.85
AVERAGE = 0.995
RATE = 2e-3
CRITIC = (128, 96, 64, 32)
CRITIC_RATE, GAN_RATE, GAN_AVERAGE = 8e-4, 4e-4, 0.99
SAVE_EVERY = 250


def train(
    network: SmallNetwork, photographs: torch.Tensor, work: Path, steps: int, batch: int, seed: int
) -> SmallNetwork:
    """Train ``network`` on uint8 photographs (n, 3, s, s); its averaged weights.

    ``network`` has a ``layout`` with ``size``, and a ``loss`` unless it is a GAN's generator.
    """
    work.mkdir(parents=True, exist_ok=True)
    if isinstance(network, Generator):
        return _adversarial(network, photographs, work / "gan.pt", steps, batch, seed)

    def loss(rng: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        rng = _reseeded(rng, seed)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=network.in_half):
            value = network.loss(_batch(photographs, network.layout.size, batch, rng), rng)
        return value, {"loss": value.item()}

    training = Training(network, work / "network.pt", steps, RATE, AVERAGE)
    with progress(work.name, steps, training.step) as bar:
        return training.run(loss, bar)


def _reseeded(rng: torch.Generator, seed: int) -> torch.Generator:
    """A generator of its own for each seed: the loop's depends on the step alone."""
    return torch.Generator().manual_seed(noise_seed(seed, int(torch.randint(2**31, (), generator=rng))))


def _batch(photographs: torch.Tensor, size: int, batch: int, rng: torch.Generator) -> torch.Tensor:
    chosen = torch.randint(0, len(photographs), (batch,), generator=rng)
    return random_crops(photographs[chosen], size, SMALLEST_CROP, rng)


class _Duel:
    """Generator, its average, critic, their optimisers: what a checkpoint holds."""

    def __init__(self, generator: Generator, checkpoint: Path) -> None:
        self.generator, self.critic = generator, Critic(CRITIC[-len(generator.layout.channels) :])
        self.averaged = copy.deepcopy(generator).eval().requires_grad_(False)
        betas = (0.0, 0.9)
        self.of_generator = torch.optim.Adam(generator.parameters(), GAN_RATE, betas=betas)
        self.of_critic = torch.optim.Adam(self.critic.parameters(), CRITIC_RATE, betas=betas)
        self.checkpoint, self.step = checkpoint, 0
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            self.step = state.pop("step")
            for name, value in state.items():
                getattr(self, name).load_state_dict(value)

    def save(self) -> None:
        names = ("generator", "critic", "averaged", "of_generator", "of_critic")
        with atomic_file(self.checkpoint) as file:
            torch.save({"step": self.step, **{n: getattr(self, n).state_dict() for n in names}}, file)


def _adversarial(
    generator: Generator, photographs: torch.Tensor, checkpoint: Path, steps: int, batch: int, seed: int
) -> Generator:
    duel = _Duel(generator, checkpoint)
    with progress(checkpoint.parent.name, steps, duel.step) as bar, between_steps() as check:
        while duel.step < steps:
            check()
            rng = torch.Generator().manual_seed(noise_seed(seed, duel.step))
            shown = _exchange(duel, _batch(photographs, generator.layout.size, batch, rng), rng)
            duel.step += 1
            move_average(duel.averaged, generator, GAN_AVERAGE, duel.step)
            bar.update(duel.step, **shown)
            if duel.step % SAVE_EVERY == 0 or duel.step == steps:
                duel.save()
    return duel.averaged


def _exchange(duel: _Duel, real: torch.Tensor, rng: torch.Generator) -> dict[str, float]:
    """One step of each side, hinge loss; too few steps to learn some thousand photographs by heart."""
    z = torch.randn(len(real), duel.generator.layout.latent, generator=rng)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fake = duel.generator.decode(z).float()
        of_real, of_fake = duel.critic(torch.cat([real, fake.detach()])).chunk(2)
    _descend(duel.of_critic, F.relu(1 - of_real).mean() + F.relu(1 + of_fake).mean())
    duel.critic.requires_grad_(False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = duel.critic(fake)
    _descend(duel.of_generator, -logits.mean())
    duel.critic.requires_grad_(True)
    return {"real": of_real.mean().item(), "made": of_fake.mean().item()}


def _descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
