"""The StyleGAN2 generator (Karras et al., CVPR 2020) with the state dict of rosinality's implementation.

    network = Synthesis(Layout.of(state_dict))
    network.load_state_dict(state_dict)
    w = network.mapping(z)                     # (n, 512) -> (n, 512)
    images = network(w)                        # (n, 3, size, size), about [-1, 1]

Names and shapes of the tensors are those of the public PyTorch StyleGAN2 behind the latent-fingerprint
paper, so its checkpoints load as they are; the numbers of channels are read off the tensors. A modulated
convolution scales its input by the style and its output by the demodulation factor, which is the same
map as convolving with a kernel per sample, and one ordinary convolution for the batch.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from registry.errors import InputError

GAIN = math.sqrt(2)
SLOPE = 0.2
MAPPING_RATE = 0.01
"""Learning-rate multiplier of the mapping network; its stored weights are divided by it."""
BLUR = (1.0, 3.0, 3.0, 1.0)


@dataclass(frozen=True)
class Layout:
    """The sizes of one generator: ``channels[i]`` at resolution ``4 * 2**i``, the last one the images'."""

    style_dim: int
    mapping_layers: int
    channels: tuple[int, ...]

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return 4 << (len(self.channels) - 1)

    @classmethod
    def of(cls, state: Mapping[str, torch.Tensor], where: str = "the state dict") -> Layout:
        """Read off a state dict; :class:`InputError` names the tensor that is missing or misshapen."""

        def second(name: str, dimensions: int) -> int:
            if name not in state or state[name].dim() != dimensions:
                raise InputError(
                    f"{where}: no StyleGAN2 generator: tensor {name} is missing or misshapen.",
                    "Checkpoints of rosinality's stylegan2-pytorch are known.",
                )
            return state[name].shape[1]

        found = [re.match(r"(convs|to_rgbs)\.(\d{1,3})\.", name) for name in state]
        levels = max((int(m[2]) // (2 if m[1] == "convs" else 1) + 1 for m in found if m), default=0)
        convolutions = ["conv1", *(f"convs.{2 * level}" for level in range(levels))]
        channels = [second(f"{name}.conv.weight", 5) for name in convolutions]
        layers = sum(name.startswith("style.") and name.endswith(".weight") for name in state)
        return cls(second("conv1.conv.modulation.weight", 2), layers, tuple(channels))

    @classmethod
    def config_f(cls, size: int, channel_multiplier: int = 2) -> Layout:
        """The published configuration F for images of ``size`` pixels, a power of two from 8 to 1024."""
        widths = [512, 512, 512, 512] + [(256 >> i) * channel_multiplier for i in range(5)]
        return cls(512, 8, tuple(widths[: int(math.log2(size)) - 1]))


class EqualLinear(nn.Module):
    """A linear layer whose weights are stored at unit variance and scaled when used."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.scale, self.rate = rate / math.sqrt(inputs), rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class PixelNorm(nn.Module):
    """Latents on the sphere of radius sqrt(dimensions)."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)


class _MappingLayer(EqualLinear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(super().forward(x), SLOPE) * GAIN


class Blur(nn.Module):
    """Separable binomial filter; ``kernel`` (4, 4) includes the factor that upsampling by two needs."""

    kernel: torch.Tensor

    def __init__(self, gain: float, pad: tuple[int, int]) -> None:
        super().__init__()
        taps = torch.tensor(BLUR)
        self.register_buffer("kernel", torch.outer(taps, taps) / taps.sum() ** 2 * gain)
        self.pad = pad

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, 4, 4)
        return F.conv2d(F.pad(x, self.pad * 2), kernel, groups=channels)


class Upsample(nn.Module):
    """Double the resolution of an image: zeros between pixels, then the blur."""

    kernel: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor(BLUR)
        self.register_buffer("kernel", torch.outer(taps, taps) / taps.sum() ** 2 * 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, 4, 4)
        # A transposed convolution with the symmetric blur is zero insertion followed by the blur.
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=channels)


class ModulatedConv(nn.Module):
    """Convolution whose input channels are scaled by the style, normalised unless it paints RGB."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        style_dim: int,
        *,
        up: bool = False,
        demodulate: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, kernel, kernel))
        self.modulation = EqualLinear(style_dim, inputs, bias=1.0)
        self.scale, self.up, self.demodulate = 1 / math.sqrt(inputs * kernel**2), up, demodulate
        if up:
            self.blur = Blur(4.0, (1, 1))

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):  # styles carry the key: in full
            style = self.modulation(w.float())
            if self.demodulate:
                power = style.square() @ (self.weight[0].float() * self.scale).square().sum((2, 3)).T
        weight = self.weight[0] * self.scale
        x = x * style[:, :, None, None].to(x.dtype)
        if self.up:
            x = self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        else:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        if self.demodulate:
            x = x * torch.rsqrt(power + 1e-8)[:, :, None, None].to(x.dtype)
        return x


class _Noise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return x + (self.weight * noise).to(x.dtype)


class _Activation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _activated(x, self.bias)

    def forward_per_sample(self, offsets: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return _activated(x, self.bias + offsets["bias"])


def _activated(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Biased leaky ReLU of x (n, channels, h, w); one ``bias`` (channels,) for all or (n, channels)."""
    return F.leaky_relu(x + bias[..., None, None].to(x.dtype), SLOPE) * GAIN


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias and leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, *, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, style_dim, up=up)
        self.noise = _Noise()
        self.activate = _Activation(outputs)

    def forward(self, x: torch.Tensor, w: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return self.activate(self.noise(self.conv(x, w), noise))


class ToRGB(nn.Module):
    """The image at one resolution, added to the enlarged image of the one before."""

    def __init__(self, inputs: int, style_dim: int, *, up: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.conv = ModulatedConv(inputs, 3, 1, style_dim, demodulate=False)
        if up:
            self.upsample = Upsample()

    def forward(self, x: torch.Tensor, w: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        return self._image(self.bias, x, w, skip)

    def forward_per_sample(
        self,
        offsets: Mapping[str, torch.Tensor],
        x: torch.Tensor,
        w: torch.Tensor,
        skip: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return self._image(self.bias + offsets["bias"][:, 0], x, w, skip)

    def _image(
        self, bias: torch.Tensor, x: torch.Tensor, w: torch.Tensor, skip: torch.Tensor | None
    ) -> torch.Tensor:
        image = self.conv(x, w).float() + bias
        return image if skip is None else image + self.upsample(skip)


class _Constant(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))

    def forward(self, n: int) -> torch.Tensor:
        return self.input.expand(n, -1, -1, -1)

    def forward_per_sample(self, offsets: Mapping[str, torch.Tensor], _: int) -> torch.Tensor:
        return self.input + offsets["input"][:, 0]


class _NoiseMaps(nn.Module):
    """The fixed noise of each layer, (1, 1, side, side)."""

    def __init__(self, sides: Sequence[int]) -> None:
        super().__init__()
        for number, side in enumerate(sides):
            self.register_buffer(f"noise_{number}", torch.randn(1, 1, side, side))

    def maps(self) -> list[torch.Tensor]:
        """In the order of the layers."""
        return list(self.buffers())


class Synthesis(nn.Module):
    """Mapping and synthesis networks of one generator."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        dim, channels = layout.style_dim, layout.channels
        layers = [_MappingLayer(dim, dim, rate=MAPPING_RATE) for _ in range(layout.mapping_layers)]
        self.style = nn.Sequential(PixelNorm(), *layers)
        self.input = _Constant(channels[0])
        self.conv1 = StyledConv(channels[0], channels[0], dim)
        self.to_rgb1 = ToRGB(channels[0], dim, up=False)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        sides = [4]
        for number, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
            self.convs.append(StyledConv(inputs, outputs, dim, up=True))
            self.convs.append(StyledConv(outputs, outputs, dim))
            self.to_rgbs.append(ToRGB(outputs, dim))
            sides += [8 << number] * 2
        self.noises = _NoiseMaps(sides)

    def mapping(self, z: torch.Tensor) -> torch.Tensor:
        """Latents w (n, style_dim) of normal draws z (n, style_dim)."""
        w: torch.Tensor = self.style(z)
        return w

    def forward(self, w: torch.Tensor, noise: Sequence[torch.Tensor] | None = None) -> torch.Tensor:
        """Images (n, 3, size, size) of latents w (n, style_dim), or of one for each layer (n, layers, dim).

        ``noise`` replaces the fixed maps: one (1 or n, 1, side, side) for each styled convolution.
        """
        maps = self.noises.maps() if noise is None else noise
        layer = (lambda i: w) if w.dim() == 2 else (lambda i: w[:, i])
        x = self.input(len(w))
        x = self.conv1(x, layer(0), maps[0])
        image = self.to_rgb1(x, layer(1))
        for number, to_rgb in enumerate(self.to_rgbs):
            first = 2 * number + 1
            x = self.convs[first - 1](x, layer(first), maps[first])
            x = self.convs[first](x, layer(first + 1), maps[first + 1])
            image = to_rgb(x, layer(first + 2), image)
        return image
