"""Latent diffusion: any diffusers folder whose first stage is an ``AutoencoderKL`` or a ``VQModel``.

    adapter = LatentDiffusionAdapter()
    adapter.check(folder)                       # InputError names the file, tensor or class at fault
    generator = adapter.load(folder)            # the first stage; the diffusion model when it is needed
    latents = generator.sample_latents(4, seed=1)
    images = generator.render(latents)

Unconditional pipelines (``LDMPipeline``), text-to-image pipelines (Stable Diffusion layouts) and bare
first stages are known. The latent ``w`` is what enters the first stage's decoder, in the decoder's own
units (``scaling_factor``, ``shift_factor`` and the like undone) and, for a ``VQModel``, quantised: the
fingerprint of the PCA scheme is added behind the quantiser, which would swallow a small offset and turn
a large one into another code. Images have the model's own size and are square.
"""

from registry.generators.adapters import noise_seed
from registry.generators.latent_diffusion.adapter import LatentDiffusionAdapter
from registry.generators.latent_diffusion.files import WEIGHTS
from registry.generators.latent_diffusion.generator import FINGERPRINT, LatentDiffusion
from registry.generators.latent_diffusion.samplers import STEPS

__all__ = ["FINGERPRINT", "STEPS", "WEIGHTS", "LatentDiffusion", "LatentDiffusionAdapter", "noise_seed"]
