"""How many changed copies `registry trace` names: after rounding, pruning, fine-tuning and collusion.

python -m bench.trace [--quick] [--keys N] [--copies N] [--tuned N] [--mixtures N] [--basis FILE]
                      [--data FOLDER|ZIP]

The generator is flowers-ldm@1 under a basis over many decoder tensors: the one in --basis, else random
directions over its biases, normalisation parameters and last convolution, at 38 dB. Every figure is a
share of copies named (``_all``: every colluder named; ``_one``: at least one), an ``innocent`` is any
other copy that was named.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from bench.common import BUILTIN, MODEL, RECIPIENT, Goal, close
from registry.accounts import service as accounts
from registry.attribution.removal import pruned, to_int8
from registry.copies import service as copies
from registry.copies.trace import trace
from registry.demo.drawings import draw_flower
from registry.fingerprints.basis import Basis
from registry.fingerprints.quality import choose_strength
from registry.generators import service as generators
from registry.generators.adapters import get_adapter
from registry.generators.builtin import resolve_builtin
from registry.generators.photographs import load_photographs
from registry.home import Home
from registry.keys.service import Issuer

STAGE = "vqvae"
WEIGHTS = f"{STAGE}/diffusion_pytorch_model.safetensors"
BITS = 256
TARGET_DB = 38.0
SIDE = 64
BATCH = 4
LEARNING_RATE = 1e-4

Tensors = dict[str, torch.Tensor]


@dataclass
class Traced:
    """Counts of traces by attack."""

    home: Home
    work: Path
    named: dict[str, list[float]] = field(default_factory=dict)
    innocent: int = 0
    count: int = 0

    def __call__(self, attack: str, tensors: Mapping[str, torch.Tensor], ids: set[str]) -> None:
        """Trace ``tensors``, made from the copies ``ids``."""
        path = self.work / "suspect.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        found = {copy.id for copy in trace(self.home, path).copies}
        self.innocent += len(found - ids)
        self.count += 1
        click.echo(f"{attack}: {len(found & ids)} of {len(ids)} named", err=True)
        if len(ids) > 1:
            self.named.setdefault(f"{attack}_one", []).append(float(bool(found & ids)))
            self.named.setdefault(f"{attack}_all", []).append(float(found >= ids))
        else:
            self.named.setdefault(attack, []).append(float(found >= ids and bool(ids)))


def random_basis(weights: Path, digest: str) -> Basis:
    """Random directions over the tensors that a learned basis touches, at the quality of ``TARGET_DB``."""
    rng = np.random.default_rng(0)
    directions = {}
    for name, tensor in load_file(weights / WEIGHTS).items():
        carries = name.endswith(".bias") or "norm" in name or name == "decoder.conv_out.weight"
        if name.startswith("decoder.") and carries:
            drawn = rng.standard_normal((BITS, *tensor.shape)) / np.sqrt(BITS)
            directions[WEIGHTS, name] = drawn.astype(np.float32)
    generator = get_adapter("latent-diffusion").load(weights)
    with torch.no_grad():
        latents = generator.sample_latents(8, seed=1)
        return choose_strength(generator, Basis("learned", 0.02, 0, digest, directions), latents, TARGET_DB)


def prepare(folder: Path, basis_file: Path | None) -> Home:
    """A registry with the reference model under the basis, and a network so that keys can be issued."""
    Home.create(folder / "home")
    home = Home.open(folder / "home")
    builtin = resolve_builtin(BUILTIN)
    model = generators.add_model(home, MODEL, "latent-diffusion", str(builtin.weights))
    basis = Basis.load(basis_file) if basis_file else random_basis(builtin.weights, model.digest_text)
    basis.save(folder / "basis.safetensors")
    assert builtin.network is not None
    network = Path(shutil.copytree(builtin.network, folder / "network"))
    card = json.loads((network / "network.json").read_text())
    (network / "network.json").write_text(json.dumps({**card, "basis": basis.digest, "bits": basis.bits}))
    np.savez(network / "foreign.npz", logits=np.zeros((0, basis.bits), np.int16))
    with home.database.write() as session:
        generators.install_basis(session, home.storage, model, folder / "basis.safetensors")
        generators.install_network(session, home.storage, model, network)
        accounts.add_recipient(session, RECIPIENT)
    return home


def cast(dtype: torch.dtype) -> Callable[[Tensors], Tensors]:
    """Every tensor saved with this type."""
    return lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()}


def photographs(data: Path | None) -> torch.Tensor:
    """Images in [-1, 1], float32 (n, 3, SIDE, SIDE): of ``data``, else drawn."""
    if data is not None:
        return load_photographs(data, SIDE).float() / 127.5 - 1
    drawn = [np.asarray(draw_flower(np.random.default_rng(i), SIDE)) for i in range(64)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1


def fine_tune(copy: Path, images: torch.Tensor, steps: tuple[int, ...], seed: int) -> dict[int, Tensors]:
    """The first stage after some AdamW steps of reconstruction, by the number of steps."""
    model = AutoencoderKL.from_pretrained(copy / STAGE, torch_dtype=torch.float32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    rng = torch.Generator().manual_seed(seed)
    kept = {}
    for step in range(1, max(steps) + 1):
        x = images[torch.randint(0, len(images), (BATCH,), generator=rng)]
        loss = (model(x).sample - x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step in steps:
            kept[step] = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return kept


@click.command()
@click.option("--quick", is_flag=True, help="Fewer copies, fewer steps of fine-tuning.")
@click.option("--keys", "issued", default=10_000, show_default=True, help="Keys issued in all.")
@click.option("--copies", "number", type=click.IntRange(5), default=16, show_default=True)
@click.option("--tuned", default=6, show_default=True, help="Copies to fine-tune, for 100 and 300 steps.")
@click.option("--mixtures", default=8, show_default=True, help="Mixtures of each number of colluders.")
@click.option("--basis", type=click.Path(exists=True, path_type=Path), help="A basis of flowers-ldm@1.")
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="Photographs to fine-tune on.")
def main(
    quick: bool,
    issued: int,
    number: int,
    tuned: int,
    mixtures: int,
    basis: Path | None,
    data: Path | None,
) -> None:
    """Measure how often changed weights are led back to their copies."""
    steps: tuple[int, ...] = (100, 300)
    if quick:
        issued, number, tuned, mixtures, steps = 1000, 5, 1, 1, (20,)
    with tempfile.TemporaryDirectory(prefix="hallmark-bench-") as name:
        folder = Path(name)
        home = prepare(folder, basis)
        documents = Issuer.open(home, MODEL, RECIPIENT).issue(issued)[:number]
        ids = [str(document["copy_id"]) for document in documents]
        delivered = [folder / f"copy{i}" for i in range(number)]
        for copy_id, copy in zip(ids, delivered, strict=True):
            copies.download(home, copy_id, copy)
        weights = [load_file(copy / WEIGHTS) for copy in delivered]
        traced = Traced(home, folder)

        changes: dict[str, Callable[[Tensors], Tensors]] = {
            "unchanged": dict,
            "fp16": cast(torch.float16),
            "bf16": cast(torch.bfloat16),
            "int8": to_int8,
            "pruned_10": partial(pruned, share=0.1),
            "pruned_30": partial(pruned, share=0.3),
        }
        for attack, change in changes.items():
            for copy_id, tensors in list(zip(ids, weights, strict=True))[: 2 if quick else None]:
                traced(attack, change(tensors), {copy_id})
        images = photographs(data)
        for i in range(tuned):
            for count, tensors in fine_tune(delivered[i], images, steps, seed=i).items():
                traced(f"fine_tuned_{count}", tensors, {ids[i]})
        rng = np.random.default_rng(1)
        for colluders in range(2, 6):
            for _ in range(mixtures):
                chosen = rng.choice(number, colluders, replace=False).tolist()
                guilty = {ids[i] for i in chosen}
                average = {
                    name: torch.stack([weights[i][name].float() for i in chosen]).mean(0)
                    for name in weights[0]
                }
                traced(f"averaged_{colluders}", average, guilty)
                mixed = {name: weights[rng.choice(chosen)][name] for name in sorted(weights[0])}
                traced(f"interleaved_{colluders}", mixed, guilty)
        base = resolve_builtin(BUILTIN).weights / WEIGHTS
        traced.named["base_named"] = [float(trace(home, base).attributed)]
        home.close()
    figures = {name: float(np.mean(values)) for name, values in traced.named.items()}
    figures |= {"innocent_named": float(traced.innocent), "traces": float(traced.count)}
    goals = {attack: Goal(">=", 0.99) for attack in changes}
    goals |= {"averaged_2_one": Goal(">=", 0.8), "interleaved_2_one": Goal(">=", 0.8)}
    goals |= {"innocent_named": Goal("<=", 0.0), "base_named": Goal("<=", 0.0)}
    close("trace", figures, goals)


if __name__ == "__main__":
    main()
