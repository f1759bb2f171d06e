"""The first stage of a fingerprinted latent-diffusion copy; travels inside the copy's folder.

``DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`` loads it with diffusers alone.
"""

import functools

import torch
from diffusers import AutoencoderKL


class FingerprintedAutoencoderKL(AutoencoderKL):
    """An ``AutoencoderKL`` that adds the tensor ``fingerprint`` to every latent before decoding.

    The tensor has the shape (channels, height, width) of one latent at the model's own resolution;
    latents of another size are decoded without it.
    """

    @functools.wraps(AutoencoderKL.__init__)  # diffusers reads the configuration off the signature
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        side = self.config.sample_size >> (len(self.config.block_out_channels) - 1)
        shape = (self.config.latent_channels, side, side)
        self.fingerprint = torch.nn.Parameter(torch.zeros(shape), requires_grad=False)

    def _decode(self, z: torch.Tensor, return_dict: bool = True):
        if z.shape[1:] == self.fingerprint.shape:
            z = z + self.fingerprint.to(z.dtype)
        return super()._decode(z, return_dict=return_dict)
