"""How unlike two images look, differentiable and offline: the loss of the paper's inversion.

    perceptual = choose_perceptual(lpips=None)        # LPIPS where it is on this disk, else structural
    loss = perceptual(images, target)                 # (n,), images (n, 3, h, w) in [0, 1], target (1, ...)
    perceptual.name                                   # "lpips-vgg" or "structural"

The paper uses LPIPS (Zhang et al., CVPR 2018) on VGG-16. It is used here if the package ``lpips`` and the
trunk's weights are on disk; nothing is ever downloaded. The structural loss needs neither: the mean over
scales of absolute difference and one minus SSIM, as in multi-scale SSIM but summed, so that no scale can
veto the others.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from registry.errors import InputError
from registry.fingerprints.similarity import WINDOW, ssim

SCALES = 4
"""Each half the size of the one before, as far as the window of the structural similarity fits."""

TRUNKS = {"vgg16-397923af.pth": "vgg", "alexnet-owt-7be5be79.pth": "alex"}
"""File names of torchvision's trunks in torch's cache, the paper's first."""
_GIVE = f"Give --lpips a file such as {next(iter(TRUNKS))}."
_FIRST_FILTERS: Mapping[tuple[int, ...], str] = {(64, 3, 3, 3): "vgg", (64, 3, 11, 11): "alex"}
LPIPS_SMALLEST = 64
"""Smaller images are enlarged for LPIPS: the trunks halve five times."""


class Perceptual(Protocol):
    """A loss with a name for the output."""

    @property
    def name(self) -> str:
        """What reports call it."""

    def __call__(self, images: torch.Tensor, target: torch.Tensor, /) -> torch.Tensor:
        """Loss (n,) of ``images`` (n, 3, h, w) against ``target`` (1 or n, 3, h, w), both in [0, 1]."""


class Structural:
    """Multi-scale L1 and structural dissimilarity."""

    name = "structural"

    def __call__(self, images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        target, scales = target.expand_as(images), []
        for _ in range(SCALES):
            absolute = (images - target).abs().flatten(1).mean(1)
            fits = min(images.shape[-2:]) >= WINDOW  # images of 8 pixels have no structure to compare
            scales.append(absolute + 1 - ssim(images, target) if fits else absolute)
            if min(images.shape[-2:]) < 2 * WINDOW:
                break
            images, target = F.avg_pool2d(images, 2), F.avg_pool2d(target, 2)
        return torch.stack(scales).mean(0)


class Lpips:
    """The package ``lpips`` with a trunk from disk."""

    def __init__(self, trunk: Path) -> None:
        """:class:`InputError` where the package is missing or ``trunk`` is no VGG-16 or AlexNet."""
        state = _load(trunk)
        first = state.get("features.0.weight")
        kind = None if first is None else _FIRST_FILTERS.get(tuple(first.shape))
        if kind is None:
            raise InputError(
                f"{trunk}: not the weights of torchvision's VGG-16 or AlexNet.",
                _GIVE,
            )
        self.name = f"lpips-{kind}"
        self._model = _build(kind)
        tensors = self._model.net.state_dict()
        try:
            # The package cuts the trunk into slices whose layers keep their numbers.
            loaded = {name: state["features." + name.split(".", 1)[1]] for name in tensors}
            self._model.net.load_state_dict(loaded)
        except (KeyError, RuntimeError) as error:
            raise InputError(f"{trunk}: the weights are not whole ({str(error).splitlines()[0]}).") from None
        self._model.requires_grad_(False)

    def __call__(self, images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if min(images.shape[-2:]) < LPIPS_SMALLEST:
            images, target = (
                F.interpolate(x, (LPIPS_SMALLEST, LPIPS_SMALLEST), mode="bilinear") for x in (images, target)
            )
        loss: torch.Tensor = self._model(images, target, normalize=True)
        return loss.flatten()


def choose_perceptual(lpips: Path | None = None) -> Perceptual:
    """LPIPS with the trunk at ``lpips`` or in torch's cache; without these, or the package, structural.

    :class:`InputError` if ``lpips`` is given and cannot be used.
    """
    if lpips is not None:
        return Lpips(lpips)
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    for name in TRUNKS:
        if (cache / name).is_file():
            with contextlib.suppress(InputError):  # asked for by nobody: the other loss will do
                return Lpips(cache / name)
    return Structural()


def _load(trunk: Path) -> Mapping[str, torch.Tensor]:
    if not trunk.is_file():
        raise InputError(f"{trunk}: no such file.", _GIVE)
    try:
        state = torch.load(trunk, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle at all end anywhere in torch's reader
        # What torch says then ("101", or advice to load the file without its guard) helps nobody.
        raise InputError(f"{trunk}: not readable as PyTorch weights of plain tensors.", _GIVE) from error
    if not isinstance(state, Mapping):
        raise InputError(f"{trunk}: expected tensors by name.")
    return state


def _build(kind: str) -> Any:
    """The package's model with its own linear layers and an empty trunk."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # it calls torchvision in an old way
            return importlib.import_module("lpips").LPIPS(net=kind, pnet_rand=True, verbose=False)
    except (ImportError, RuntimeError) as error:  # a torchvision for another torch raises the latter
        missing = isinstance(error, ImportError) and error.name
        raise InputError(
            f"--lpips needs the package {missing}, which is not installed."
            if missing
            else f"--lpips: the package lpips cannot be loaded ({str(error).splitlines()[0]}).",
            "Run `pip install lpips`, or leave --lpips away: the structural loss needs nothing.",
        ) from None
