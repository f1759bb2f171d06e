"""The whole path with an autoencoder of Stable Diffusion's size, random weights, at 64 pixels."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from bench.full_size import STABLE_DIFFUSION, WEIGHTS
from registry.accounts import service as accounts
from registry.copies.service import download
from registry.fingerprints.basis import Basis
from registry.generators import service as generators
from registry.generators.latent_diffusion import LatentDiffusionAdapter
from registry.home import Home
from registry.keys.service import Issuer, derive, get_key
from tests.registry.support import RECIPIENT, write_network
from verifier.phi import unpack

BITS = 16
SIZE = 64
CHANGED = ("decoder.conv_in.bias", "decoder.up_blocks.0.resnets.0.norm1.weight", "decoder.conv_norm_out.bias")


def test_a_copy_of_a_full_size_first_stage_is_an_ordinary_one(sqlite_home: Home, tmp_path: Path) -> None:
    torch.manual_seed(0)
    AutoencoderKL(**STABLE_DIFFUSION, sample_size=SIZE).save_pretrained(tmp_path / "model")
    model = generators.add_model(sqlite_home, "full", "latent-diffusion", str(tmp_path / "model"))
    shapes = {name: load_file(tmp_path / "model" / WEIGHTS)[name].shape for name in CHANGED}
    rng = np.random.default_rng(0)
    directions = {
        (WEIGHTS, name): rng.standard_normal((BITS, *shape)).astype(np.float32) / 20
        for name, shape in shapes.items()
    }
    basis = Basis("learned", 0.5, 0, model.digest_text, directions)
    basis.save(tmp_path / "basis.safetensors")
    write_network(tmp_path / "network", basis.digest, np.zeros((1, BITS), np.int16))
    with sqlite_home.database.write() as session:
        generators.install_basis(session, sqlite_home.storage, model, tmp_path / "basis.safetensors")
        generators.install_network(session, sqlite_home.storage, model, tmp_path / "network")
        accounts.add_recipient(session, RECIPIENT)
    certificate = Issuer.open(sqlite_home, "full", RECIPIENT).issue(1)[0]
    download(sqlite_home, certificate["copy_id"], tmp_path / "copy")

    copy = AutoencoderKL.from_pretrained(tmp_path / "copy").eval()
    latents = torch.randn((1, 4, SIZE // 8, SIZE // 8))
    with torch.no_grad():
        theirs = (copy.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    with sqlite_home.database.read() as session:
        key = get_key(session, sqlite_home.identity.registry, certificate["key_id"])
    signs = torch.from_numpy(unpack(derive(sqlite_home, key)).astype(np.float32))[None]
    generator = LatentDiffusionAdapter().load(tmp_path / "model")
    expected = generator.render(latents, basis.offsets(signs))
    torch.testing.assert_close(theirs, expected, atol=1e-4, rtol=0)
    assert (expected - generator.render(latents)).abs().max() > 0.01
