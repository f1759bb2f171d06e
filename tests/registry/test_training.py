"""The training loop on a model of six parameters, interrupted at every place that matters."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from registry.progress import progress
from registry.training import Training

STEPS = 6
Figures = tuple[torch.Tensor, dict[str, float]]


def training(checkpoint: Path) -> Training[nn.Linear]:
    model = nn.Linear(2, 2)
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)
    return Training(model, checkpoint, STEPS, lr=0.1, ema=0.9)


def run(subject: Training[nn.Linear], before: Callable[[], None] = lambda: None) -> nn.Linear:
    """Train, with ``before`` called as each loss is computed."""

    def loss(rng: torch.Generator) -> Figures:
        before()
        value = subject.model(torch.randn(4, 2, generator=rng)).square().mean()
        return value, {"loss": value.item()}

    with progress("training", STEPS) as bar:
        return subject.run(loss, bar)


def at(subject: Training[nn.Linear], step: int, act: Callable[[], None]) -> Callable[[], None]:
    return lambda: act() if subject.step == step else None


def press() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def whole(tmp_path: Path) -> nn.Linear:
    """What an uninterrupted training returns."""
    return run(training(tmp_path / "whole.pt"))


def assert_goes_on(checkpoint: Path, step: int, whole: nn.Linear) -> None:
    again = training(checkpoint)
    assert again.step == step
    torch.testing.assert_close(run(again).state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_ctrl_c_waits_for_the_end_of_the_step_and_the_work_goes_on_from_there(
    whole: nn.Linear, tmp_path: Path
) -> None:
    subject = training(tmp_path / "model.pt")
    with pytest.raises(KeyboardInterrupt):
        run(subject, at(subject, 2, press))
    assert_goes_on(tmp_path / "model.pt", 3, whole)


def test_ctrl_c_inside_the_optimiser_does_not_tear_the_step(whole: nn.Linear, tmp_path: Path) -> None:
    subject = training(tmp_path / "model.pt")
    hook = subject.optimizer.register_step_post_hook(lambda *_: press())
    with pytest.raises(KeyboardInterrupt):
        run(subject)
    hook.remove()
    assert_goes_on(tmp_path / "model.pt", 1, whole)


def test_a_second_ctrl_c_inside_the_optimiser_leaves_the_checkpoint_before(
    whole: nn.Linear, tmp_path: Path
) -> None:
    first = training(tmp_path / "model.pt")
    with pytest.raises(KeyboardInterrupt):
        run(first, at(first, 1, press))
    second = training(tmp_path / "model.pt")
    hook = second.optimizer.register_step_post_hook(lambda *_: press())
    with pytest.raises(KeyboardInterrupt):
        run(second, press)
    hook.remove()
    assert_goes_on(tmp_path / "model.pt", 2, whole)


def test_an_error_in_the_loss_keeps_what_was_done(whole: nn.Linear, tmp_path: Path) -> None:
    def fail() -> None:
        raise MemoryError

    subject = training(tmp_path / "model.pt")
    with pytest.raises(MemoryError):
        run(subject, at(subject, 4, fail))
    assert_goes_on(tmp_path / "model.pt", 4, whole)


def test_a_finished_training_is_not_begun_again(whole: nn.Linear, tmp_path: Path) -> None:
    def unexpected() -> None:
        raise AssertionError

    again = run(training(tmp_path / "whole.pt"), unexpected)
    torch.testing.assert_close(again.state_dict(), whole.state_dict(), rtol=0, atol=0)
