"""Weights that differ from sample to sample of one batch, in any PyTorch module, without a loop.

    with per_sample(decoder, {"conv_in.bias": offsets}):     # offsets (n, channels)
        images = decoder(latents)                            # latents (n, ...)

Each offset is added to its layer's output as the layer would have computed it with the offset in its
weights: biases as a shift per sample, normalisation gains as another scaling of the normalised input,
kernels as one grouped convolution for the batch. A layer that is none of these, such as one whose bias
comes before its activation, computes its output itself: see :class:`PerSample`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import nn

from registry.errors import InputError


@runtime_checkable
class PerSample(Protocol):
    """A module that knows its own output under weights that differ from sample to sample."""

    def forward_per_sample(self, offsets: Mapping[str, torch.Tensor], *inputs: Any) -> torch.Tensor:
        """``forward(*inputs)`` with ``offsets`` (own parameter name -> (n, *shape)) added to parameters."""


@contextmanager
def per_sample(module: nn.Module, offsets: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Add ``offsets`` (parameter name -> (n, *shape)) to the parameters of ``module``, one for each sample.

    Convolutions, linear layers (and layers like them that add a one-dimensional ``bias`` to their output),
    group normalisation and :class:`PerSample` modules are known; :class:`InputError` names a parameter of
    any other kind.
    """
    by_layer: dict[str, dict[str, torch.Tensor]] = {}
    for name, offset in offsets.items():
        layer, _, parameter = name.rpartition(".")
        by_layer.setdefault(layer, {})[parameter] = offset
    modules = dict(module.named_modules())
    for name in offsets:
        layer, _, parameter = name.rpartition(".")
        if layer not in modules or not isinstance(getattr(modules[layer], parameter, None), torch.Tensor):
            raise InputError(f"the model has no parameter {name}, which the basis changes.")
    hooks = []
    try:
        for layer, changed in by_layer.items():
            hooks.append(modules[layer].register_forward_hook(_Hook(layer, changed)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Hook:
    """Adds to a layer's output what the offsets of its parameters add."""

    def __init__(self, layer: str, offsets: Mapping[str, torch.Tensor]) -> None:
        self.layer, self.offsets = layer, offsets

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        for offset in self.offsets.values():
            if len(offset) != len(output):
                raise ValueError(f"{len(offset)} offsets of {self.layer} for {len(output)} samples")
        if isinstance(module, PerSample):
            return module.forward_per_sample(self.offsets, *inputs)
        x = inputs[0]
        for parameter, offset in self.offsets.items():
            output = output + self._term(module, parameter, offset.to(output.dtype), x)
        return output

    def _term(self, module: nn.Module, parameter: str, offset: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        if isinstance(module, nn.GroupNorm):
            if parameter == "bias":
                return _over_positions(offset, x)
            normalised = F.group_norm(x, module.num_groups, eps=module.eps)
            return normalised * _over_positions(offset, x)
        if isinstance(module, nn.Conv2d):
            return _over_positions(offset, x) if parameter == "bias" else _convolve(module, offset, x)
        if parameter == "bias" and offset.dim() == 2:
            return offset if x.dim() == 2 else offset[:, None, :]  # linear, of vectors or of sequences
        if parameter == "weight" and isinstance(module, nn.Linear):
            return torch.einsum("n...i,noi->n...o", x, offset)
        raise InputError(
            f"parameter {self.layer}.{parameter} of a {type(module).__name__} cannot carry keys."
        )


def _over_positions(offset: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return offset.reshape(*offset.shape, *([1] * (x.dim() - 2)))


def _convolve(module: nn.Conv2d, kernels: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Each sample under its own kernel (n, out, in, h, w), as one convolution with n groups."""
    if module.groups != 1 or module.padding_mode != "zeros":
        raise InputError("grouped and specially padded convolutions cannot carry keys.")
    n, out = kernels.shape[:2]
    x = x.to(kernels.dtype).reshape(1, n * x.shape[1], *x.shape[2:])
    y = F.conv2d(x, kernels.flatten(0, 1), None, module.stride, module.padding, module.dilation, groups=n)
    return y.view(n, out, *y.shape[2:])
