"""The first stage of a fingerprinted latent-diffusion copy; travels inside the copy's folder.

``DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`` loads it with diffusers alone.
"""

import functools

import torch
from diffusers import AutoencoderKL, VQModel


class FingerprintedAutoencoderKL(AutoencoderKL):
    """An ``AutoencoderKL`` that adds the tensor ``fingerprint`` to every latent before decoding.

    The tensor has the shape (channels, height, width) of one latent at the model's own resolution;
    latents of another size are decoded without it.
    """

    @functools.wraps(AutoencoderKL.__init__)  # diffusers reads the configuration off the signature
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.fingerprint = _carrier(self.config, self.config.latent_channels)

    def _decode(self, z: torch.Tensor, return_dict: bool = True):
        return super()._decode(_marked(z, self.fingerprint), return_dict=return_dict)


class FingerprintedVQModel(VQModel):
    """A ``VQModel`` that adds the tensor ``fingerprint`` to every latent after quantisation.

    Before it, a small offset would be lost and a large one would become another code.
    """

    @functools.wraps(VQModel.__init__)
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.fingerprint = _carrier(self.config, self.config.vq_embed_dim or self.config.latent_channels)

    def decode(self, h: torch.Tensor, force_not_quantize: bool = False, return_dict: bool = True, shape=None):
        loss = None
        if not force_not_quantize:
            h, loss, _ = self.quantize(h)
        marked = _marked(h, self.fingerprint)
        decoded = super().decode(marked, force_not_quantize=True, return_dict=True, shape=shape)
        if loss is not None:
            decoded.commit_loss = loss
        return decoded if return_dict else (decoded.sample, decoded.commit_loss)


def _carrier(config, channels: int) -> torch.nn.Parameter:
    side = config.sample_size >> (len(config.block_out_channels) - 1)
    return torch.nn.Parameter(torch.zeros(channels, side, side), requires_grad=False)


def _marked(z: torch.Tensor, fingerprint: torch.Tensor) -> torch.Tensor:
    return z + fingerprint.to(z.dtype) if z.shape[1:] == fingerprint.shape else z
