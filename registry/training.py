"""One resumable training loop for everything the registry trains.

training = Training(model, folder / "network.pt", steps=5000, lr=1e-3, ema=0.999)
with progress("network", steps, training.step) as bar:
    model = training.run(loss, bar)
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import nn

from registry.interrupts import between_steps
from registry.progress import Progress
from registry.storage import atomic_file

Loss = Callable[[torch.Generator], tuple[torch.Tensor, dict[str, float]]]
"""Draws a batch from the generator it is given; returns the loss and figures worth showing."""


M = TypeVar("M", bound=nn.Module)


class Training(Generic[M]):
    """A resumable loop: model, optimiser, averaged weights and step live in one checkpoint file."""

    def __init__(self, model: M, checkpoint: Path, steps: int, lr: float, ema: float) -> None:
        self.model, self.checkpoint, self.steps, self.ema_decay = model, checkpoint, steps, ema
        self.averaged = copy.deepcopy(model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.99), weight_decay=1e-3)
        self.peak, self.step = lr, 0
        self._whole = True
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            self.step = state["step"]
            self.model.load_state_dict(state["model"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])

    def save(self) -> None:
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with atomic_file(self.checkpoint) as file:
            torch.save(state, file)

    def rate(self) -> float:
        """Linear warm-up over 200 steps, then a cosine to a fiftieth of the peak."""
        warm = min(1.0, (self.step + 1) / 200)
        cosine = 0.51 + 0.49 * math.cos(math.pi * min(1.0, self.step / self.steps))
        return self.peak * warm * cosine

    def run(
        self,
        loss: Loss,
        bar: Progress,
        save_seconds: float = 120,
    ) -> M:
        """Train to the end and return the averaged model.

        Ctrl-C lets the step end; then, as after an error in the loss, the checkpoint is saved. A second
        Ctrl-C that tears a step apart leaves the checkpoint before.
        """
        saved = time.monotonic()
        try:
            with between_steps() as check:
                while self.step < self.steps:
                    value, shown = loss(torch.Generator().manual_seed(self.step))
                    self._descend(value)
                    bar.update(self.step, **shown)
                    if time.monotonic() - saved > save_seconds:
                        self.save()
                        saved = time.monotonic()
                    check()
        finally:
            if self._whole:
                self.save()
        return self.averaged

    def _descend(self, loss: torch.Tensor) -> None:
        """One step of model, optimiser and average; ``_whole`` is false while they disagree."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._whole = False
        self.optimizer.step()
        self.step += 1
        move_average(self.averaged, self.model, self.ema_decay, self.step)
        self._whole = True


@torch.no_grad()
def move_average(averaged: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the weights' exponential average after ``step`` steps; the first steps forget faster."""
    decay = min(decay, (1 + step) / (10 + step))
    for mean, value in zip(averaged.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)
    for kept, buffer in zip(averaged.buffers(), model.buffers(), strict=True):
        kept.copy_(buffer)
