from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from registry import cli
from registry.accounts import service as accounts
from registry.config import HOME_VARIABLE
from registry.copies import service
from registry.copies.suspects import Suspect, latent_diffusion, weight_file
from registry.copies.trace import Trace, rows, shares, trace
from registry.errors import InputError, StateError
from registry.fingerprints.basis import Basis
from registry.fingerprints.projection import observe, project
from registry.generators import service as generators
from registry.generators.train_latent_diffusion import new_autoencoder
from registry.home import Home
from registry.keys.service import Issuer, revoke
from tests.registry.support import MODEL, RECIPIENT, SIDE, TinyModel, write_network
from verifier.evidence import log10_tail

STAGE = "vqvae/diffusion_pytorch_model.safetensors"
BITS = 64
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Learned:
    """A registry whose model has a basis over many tensors, 40 keys, and three delivered copies."""

    home: Home
    base: Path
    copies: list[Path]
    ids: list[str]

    def tensors(self, copy: int) -> Tensors:
        return dict(load_file(self.copies[copy] / STAGE))


def many_tensors(weights: Path, digest: str) -> Basis:
    """Random directions over the decoder's biases, normalisation parameters and last convolution."""
    rng = np.random.default_rng(5)
    directions = {}
    for name, tensor in load_file(weights / STAGE).items():
        carries = name.endswith(".bias") or "norm" in name or name == "decoder.conv_out.weight"
        if name.startswith("decoder.") and carries:
            drawn = rng.standard_normal((BITS, *tensor.shape)) / np.sqrt(BITS)
            directions[STAGE, name] = drawn.astype(np.float32)
    return Basis("learned", 0.05, 0, digest, directions)


@pytest.fixture(scope="module")
def learned(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Learned]:
    folder = tmp_path_factory.mktemp("learned")
    Home.create(folder / "home")
    home = Home.open(folder / "home")
    model = generators.add_model(home, MODEL, "latent-diffusion", str(tiny.weights))
    basis = many_tensors(tiny.weights, model.digest_text)
    basis.save(folder / "basis.safetensors")
    foreign = np.random.default_rng(1).integers(-128, 129, (20, BITS)).astype(np.int16)
    write_network(folder / "network", basis.digest, foreign)
    with home.database.write() as session:
        generators.install_basis(session, home.storage, model, folder / "basis.safetensors")
        generators.install_network(session, home.storage, model, folder / "network")
        accounts.add_recipient(session, RECIPIENT)
    ids = [str(document["copy_id"]) for document in Issuer.open(home, MODEL, RECIPIENT).issue(40)][:3]
    copies = [folder / f"copy{i}" for i in range(3)]
    for copy_id, copy in zip(ids, copies, strict=True):
        service.download(home, copy_id, copy)
    yield Learned(home, tiny.weights, copies, ids)
    home.close()


def saved(tensors: Mapping[str, torch.Tensor], path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def names(found: Trace) -> set[str]:
    assert found.attributed == bool(found.copies)
    for copy in found.copies:
        assert copy.log10_p_family <= np.log10(found.evidence.alpha)
        assert copy.log10_p >= -BITS * np.log10(2)
    return {copy.id for copy in found.copies}


def test_a_copy_is_named_with_every_bit_and_its_certificate(learned: Learned) -> None:
    found = trace(learned.home, learned.copies[0])
    assert names(found) == {learned.ids[0]}
    (copy,) = found.copies
    assert (copy.matching_bits, copy.recipient, copy.revoked) == (BITS, RECIPIENT, False)
    assert copy.sha256 is not None
    assert copy.log10_p == pytest.approx(-BITS * np.log10(2), abs=0.05)
    assert found.evidence.hypotheses == 40
    (tried,) = found.models
    assert (tried.state, tried.tensors_missing, tried.keys) == ("tested", 0, 40)
    assert {"hallmark.json", STAGE} <= {statement.source for statement in found.certificates}
    for statement in found.certificates:
        assert (statement.copy_id, statement.signature, statement.problem, statement.agrees) == (
            learned.ids[0], True, None, True,
        )  # fmt: skip


def test_a_copy_without_its_certificate_is_not_registered_as_a_base_model(
    learned: Learned, tmp_path: Path
) -> None:
    stolen = shutil.copytree(learned.copies[1], tmp_path / "stolen")
    (stolen / "hallmark.json").unlink()
    for file in stolen.rglob("*.safetensors"):
        saved({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    with pytest.raises(InputError, match="stolen: these weights depend on the key of a copy"):
        generators.add_model(learned.home, "mine", "latent-diffusion", str(stolen))
    base = generators.add_model(learned.home, "mine", "latent-diffusion", str(learned.base))
    assert base.label == "mine@1", "the base weights themselves carry no key"


def int8(tensor: torch.Tensor) -> torch.Tensor:
    step = tensor.abs().max().clamp_min(1e-12) / 127
    return (tensor / step).round() * step


def pruned(tensor: torch.Tensor) -> torch.Tensor:
    return torch.where(tensor.abs() <= tensor.abs().flatten().quantile(0.3), 0.0, tensor)


def noisy(tensor: torch.Tensor) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return tensor + 0.01 * torch.randn(tensor.shape, generator=rng)


@pytest.mark.parametrize(
    "change",
    [
        torch.Tensor.half,
        torch.Tensor.bfloat16,
        torch.Tensor.double,
        int8,
        pruned,
        noisy,
        lambda tensor: 3 * tensor,
        lambda tensor: 0.98 * tensor,
        lambda tensor: tensor * (2 if tensor.dim() == 1 else 0.5),
    ],
    ids=["fp16", "bf16", "fp64", "int8", "pruned", "noise", "x3", "x0.98", "scaled by tensor"],
)
def test_a_changed_copy_is_still_named(
    learned: Learned, tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    changed = {name: change(tensor) for name, tensor in learned.tensors(0).items()}
    found = trace(learned.home, saved(changed, tmp_path / "leak.safetensors"))
    assert names(found) == {learned.ids[0]}
    assert found.certificates == []


def fine_tuned(folder: Path, out: Path, steps: int) -> Path:
    """The autoencoder after so many AdamW steps of reconstruction on random images."""
    model = AutoencoderKL.from_pretrained(folder)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    rng = torch.Generator().manual_seed(3)
    for _ in range(steps):
        images = torch.rand((4, 3, SIDE, SIDE), generator=rng) * 2 - 1
        loss = (model(images).sample - images).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.save_pretrained(out)
    return out


def test_a_fine_tuned_copy_is_still_named(learned: Learned, tmp_path: Path) -> None:
    folder = fine_tuned(learned.copies[1] / "vqvae", tmp_path / "tuned", steps=50)
    moved = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert any((moved[name] != tensor).any() for name, tensor in learned.tensors(1).items())
    assert names(trace(learned.home, folder)) == {learned.ids[1]}


def test_an_average_names_its_copies_and_no_other(learned: Learned, tmp_path: Path) -> None:
    one, two = learned.tensors(0), learned.tensors(1)
    mixed = {name: (tensor + two[name]) / 2 for name, tensor in one.items()}
    found = trace(learned.home, saved(mixed, tmp_path / "mixed.safetensors"))
    assert found.attributed
    assert names(found) <= set(learned.ids[:2])


def test_both_copies_of_interleaved_tensors_are_named(learned: Learned, tmp_path: Path) -> None:
    one, two = learned.tensors(0), learned.tensors(2)
    mixed = {name: one[name] if i % 2 else two[name] for i, name in enumerate(sorted(one))}
    found = trace(learned.home, saved(mixed, tmp_path / "mixed.safetensors"))
    assert names(found) == {learned.ids[0], learned.ids[2]}
    assert "the keys of" in found.statement()


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_the_base_is_nobodys_copy(learned: Learned, tmp_path: Path, kind: torch.dtype) -> None:
    base = {name: tensor.to(kind) for name, tensor in load_file(learned.base / STAGE).items()}
    found = trace(learned.home, saved(base, tmp_path / "base.safetensors"))
    assert (names(found), found.model) == (set(), None)
    assert found.models[0].state == "unmarked"
    assert "they carry no key" in found.notes[0]


def test_another_model_of_the_same_architecture_is_nobodys_copy(learned: Learned, tmp_path: Path) -> None:
    torch.manual_seed(77)
    new_autoencoder(SIDE, (8, 8, 8)).save_pretrained(tmp_path / "vae")
    found = trace(learned.home, tmp_path / "vae")
    assert names(found) == set()
    assert found.models[0].distance > 0.3
    assert found.certificates == []


def test_foreign_weights_accuse_fresh_keys_no_oftener_than_the_bound_says(learned: Learned) -> None:
    """Whatever the readings of weights that know nothing of the keys: the bound holds for every one."""
    model = new_autoencoder(SIDE, (8, 8, 8)).state_dict()
    base = load_file(learned.base / STAGE)
    basis = many_tensors(learned.base, "sha256:0")
    observed = {
        (file, name): observe(d * np.float32(0.05), base[name].double().numpy(), model[name].double().numpy())
        for (file, name), d in basis.directions.items()
    }
    projection = project(observed, BITS)
    assert len(projection.readings) > 20
    signs = np.random.default_rng(9).choice([-1, 1], (20_000, BITS))
    for reading in projection.readings[::6]:
        assert np.abs(reading.logits).max() > 0
        scores = signs @ reading.logits
        for quantile in (0.5, 0.9, 0.99, 0.999):
            at = float(np.quantile(scores, quantile))
            observed_rate = float((scores >= at).mean())
            # Four standard errors of a rate over 20 000 keys.
            slack = 4 * np.sqrt(observed_rate / len(scores))
            assert observed_rate - slack <= 10 ** log10_tail(reading.logits, at)
            assert 10 ** log10_tail(reading.logits, at) <= observed_rate + slack


def test_the_shares_of_alpha_sum_to_one(learned: Learned) -> None:
    projection = project(
        {(STAGE, str(i)): observe(np.ones((8, 4), np.float32), np.ones(4), np.arange(4.0)) for i in range(5)},
        8,
    )
    assert sum(shares(projection.readings)) == pytest.approx(1)
    assert shares(projection.readings[:1]) == [1.0]


def to_latent_diffusion(tensors: Tensors, prefix: str) -> Tensors:
    """As CompVis's code names them; its attention is made of 1 x 1 convolutions."""
    converted = {}
    for name, tensor in tensors.items():
        spelled = latent_diffusion(name, 3)
        is_matrix = ".attn_1." in spelled and tensor.dim() == 2
        converted[prefix + spelled] = tensor[:, :, None, None] if is_matrix else tensor
    return converted


def test_the_names_of_the_original_code() -> None:
    expected = {
        "decoder.up_blocks.0.resnets.1.conv_shortcut.weight": "decoder.up.3.block.1.nin_shortcut.weight",
        "decoder.up_blocks.2.upsamplers.0.conv.bias": "decoder.up.1.upsample.conv.bias",
        "encoder.down_blocks.1.downsamplers.0.conv.bias": "encoder.down.1.downsample.conv.bias",
        "encoder.mid_block.resnets.1.norm1.bias": "encoder.mid.block_2.norm1.bias",
        "decoder.mid_block.attentions.0.group_norm.weight": "decoder.mid.attn_1.norm.weight",
        "decoder.mid_block.attentions.0.to_out.0.bias": "decoder.mid.attn_1.proj_out.bias",
        "decoder.conv_norm_out.bias": "decoder.norm_out.bias",
        "post_quant_conv.weight": "post_quant_conv.weight",
    }
    assert {name: latent_diffusion(name, 4) for name in expected} == expected


def test_weights_are_recognised_in_every_dress(learned: Learned, tmp_path: Path) -> None:
    tensors = learned.tensors(0)
    unet = {"model.diffusion_model.time_embed.0.weight": torch.ones(8, 8)}
    dressed = to_latent_diffusion(tensors, "first_stage_model.")
    assert "first_stage_model.decoder.up.2.block.0.norm1.weight" in dressed
    saved({**dressed, **unet}, tmp_path / "sd.safetensors")
    torch.save({"state_dict": {**dressed, **unet}, "epoch": 3}, tmp_path / "sd.ckpt")
    torch.save({"g": {}, "g_ema": tensors, "args": None}, tmp_path / "ema.pt")
    torch.save(tensors, tmp_path / "legacy.bin", _use_new_zipfile_serialization=False)
    saved({f"module.vae.{n}": t for n, t in tensors.items()}, tmp_path / "prefixed.safetensors")
    decoder = {n.removeprefix("decoder."): t for n, t in tensors.items() if n.startswith("decoder.")}
    saved(decoder, tmp_path / "decoder.safetensors")
    older = {re.sub(r"to_out\.0", "proj_attn", n).replace("to_q", "query"): t for n, t in tensors.items()}
    older = {n.replace("to_k", "key").replace("to_v", "value"): t for n, t in older.items()}
    saved(older, tmp_path / "older.safetensors")
    saved({f"p{i}": t for i, t in enumerate(tensors.values())}, tmp_path / "renamed.safetensors")
    shutil.copyfile(tmp_path / "prefixed.safetensors", tmp_path / "no-suffix")
    files = sorted(path for path in tmp_path.iterdir())
    assert len(files) == 9
    for path in files:
        found = trace(learned.home, path)
        assert names(found) == {learned.ids[0]}, path


def test_shards_are_one_model(learned: Learned, tmp_path: Path) -> None:
    tensors = learned.tensors(0)
    for i, part in enumerate(np.array_split(sorted(tensors), 3), 1):
        saved({str(n): tensors[str(n)] for n in part}, tmp_path / f"model-{i:05}-of-00003.safetensors")
    found = trace(learned.home, tmp_path)
    assert names(found) == {learned.ids[0]}
    assert found.models[0].tensors_missing == 0


def test_a_part_of_the_tensors_is_enough_and_said(learned: Learned, tmp_path: Path) -> None:
    tensors = learned.tensors(0)
    few = {name: tensors[name] for name in sorted(tensors)[::2]}
    found = trace(learned.home, saved(few, tmp_path / "half.safetensors"))
    assert names(found) == {learned.ids[0]}
    assert found.models[0].tensors_missing > 10


def test_swapped_names_are_seen_through(learned: Learned, tmp_path: Path) -> None:
    tensors = learned.tensors(0)
    order = sorted(tensors)
    same = [[n for n in order if tensors[n].shape == shape] for shape in {t.shape for t in tensors.values()}]
    swapped = {n: tensors[m] for group in same for n, m in zip(group, group[::-1], strict=True)}
    assert names(trace(learned.home, saved(swapped, tmp_path / "swapped.safetensors"))) == {learned.ids[0]}


def replaced_certificate(learned: Learned, path: Path, edit: Callable[[str], str]) -> Path:
    """Weights of copy 0 with the metadata of copy 1, edited."""
    from safetensors import safe_open

    with safe_open(learned.copies[1] / STAGE, "pt") as file:
        metadata = file.metadata()
    metadata["hallmark.certificate"] = edit(metadata["hallmark.certificate"])
    save_file(learned.tensors(0), path, metadata)
    return path


def test_a_swapped_certificate_disagrees_with_the_weights(learned: Learned, tmp_path: Path) -> None:
    found = trace(learned.home, replaced_certificate(learned, tmp_path / "a.safetensors", lambda text: text))
    assert names(found) == {learned.ids[0]}
    (statement,) = found.certificates
    assert (statement.copy_id, statement.signature, statement.agrees) == (learned.ids[1], True, False)
    assert any("DISAGREES with the weights" in row.plain() for row in rows(found))


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda text: json.dumps({**json.loads(text), "redraws": 7}), "its signature does not hold"),
        (lambda text: json.dumps({**json.loads(text), "registry": "other"}), "another registry"),
        (lambda text: "{", "cannot be read"),
        (lambda text: "[]", "cannot be read"),
    ],
)
def test_a_certificate_that_does_not_hold_is_named(
    learned: Learned, tmp_path: Path, edit: Callable[[str], str], problem: str
) -> None:
    found = trace(learned.home, replaced_certificate(learned, tmp_path / "a.safetensors", edit))
    assert names(found) == {learned.ids[0]}
    (statement,) = found.certificates
    assert not statement.signature
    assert problem in (statement.problem or "")


def test_a_folder_that_is_no_longer_as_it_was_issued_is_named(learned: Learned, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(learned.copies[0], tmp_path / "copy"))
    (copy / "extra.txt").write_text("hello")
    found = trace(learned.home, copy)
    assert names(found) == {learned.ids[0]}
    statement = next(s for s in found.certificates if s.source == "hallmark.json")
    assert (statement.signature, statement.agrees) == (True, True)
    assert "extra.txt" in (statement.problem or "")


def text_file(path: Path) -> None:
    path.write_text("These are no weights, but a letter of some length.")


def truncated(path: Path) -> None:
    save_file({"decoder.conv_in.bias": torch.zeros(8)}, path)
    path.write_bytes(path.read_bytes()[:-9])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def half_a_checkpoint(path: Path) -> None:
    torch.save({"a": torch.zeros(500)}, path)
    path.write_bytes(path.read_bytes()[:700])


def code(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)


def bare_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"G_ema": Path("x")}))


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("a.safetensors", text_file, "not a sound safetensors file"),
        ("a.txt", text_file, "neither safetensors nor a PyTorch checkpoint"),
        ("a.safetensors", truncated, "not a sound safetensors file"),
        ("a.safetensors", empty, "not a sound safetensors file"),
        ("a.pt", half_a_checkpoint, "not a sound PyTorch checkpoint"),
        ("a.pt", code, "pickled code"),
        ("a.pkl", bare_pickle, "pickled code"),
    ],
)
def test_files_that_are_no_weights_are_refused(
    learned: Learned, tmp_path: Path, name: str, write: Callable[[Path], None], reason: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(InputError, match=reason) as caught:
        trace(learned.home, tmp_path / name)
    assert name in str(caught.value)
    assert caught.value.hint


def test_a_value_that_is_no_number_is_named(learned: Learned, tmp_path: Path) -> None:
    tensors = learned.tensors(0)
    tensors["decoder.conv_in.bias"][3] = float("nan")
    with pytest.raises(InputError, match=r"decoder\.conv_in\.bias holds NaN"):
        trace(learned.home, saved(tensors, tmp_path / "nan.safetensors"))


def test_requests_that_make_no_sense_are_refused(learned: Learned, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        trace(learned.home, tmp_path / "none")
    with pytest.raises(InputError, match="no weight files"):
        trace(learned.home, tmp_path)
    with pytest.raises(InputError, match="no model other"):
        trace(learned.home, learned.copies[0], model="other")
    with pytest.raises(InputError, match="--alpha"):
        trace(learned.home, learned.copies[0], alpha=0)


def test_weights_of_another_architecture_are_nobodys_copy(learned: Learned, tmp_path: Path) -> None:
    found = trace(learned.home, saved({"layer.weight": torch.randn(5, 7)}, tmp_path / "other.safetensors"))
    assert (names(found), found.models) == (set(), [])
    assert found.notes == ["No registered model has tensors of these names and shapes."]


# The PCA scheme on a latent carries its keys in one tensor of its own.


@pytest.fixture
def delivered(sqlite_ready: Home, tmp_path: Path) -> tuple[Home, Path, str]:
    (document,) = Issuer.open(sqlite_ready, MODEL, RECIPIENT).issue(1)
    service.download(sqlite_ready, document["copy_id"], tmp_path / "copy")
    return sqlite_ready, tmp_path / "copy", str(document["copy_id"])


def test_a_copy_with_a_carrier_is_named_while_it_has_it(
    delivered: tuple[Home, Path, str], tmp_path: Path
) -> None:
    home, copy, copy_id = delivered
    assert names(trace(home, copy)) == {copy_id}
    tensors = dict(load_file(copy / STAGE))
    carrier = tensors.pop("fingerprint")
    renamed = saved({**tensors, "noise_offset": carrier.half()}, tmp_path / "renamed.safetensors")
    assert names(trace(home, renamed)) == {copy_id}

    found = trace(home, saved(tensors, tmp_path / "stripped.safetensors"))
    assert (names(found), found.models[0].state) == (set(), "stripped")
    assert "they were stripped" in found.notes[0]
    blank = saved({**tensors, "fingerprint": torch.zeros_like(carrier)}, tmp_path / "blank.safetensors")
    assert trace(home, blank).models[0].state == "unmarked"


def test_a_revoked_copy_is_named_as_such(delivered: tuple[Home, Path, str]) -> None:
    home, copy, copy_id = delivered
    revoke(home, copy_id, "leaked")
    found = trace(home, copy)
    assert [entry.revoked for entry in found.copies] == [True]
    assert any("revoked" in row.plain() for row in rows(found))


def test_without_keys_nobody_is_named(sqlite_ready: Home, tiny: TinyModel, tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    tensors = {**load_file(tiny.weights / STAGE), "fingerprint": torch.randn((4, 4, 4), generator=rng)}
    found = trace(sqlite_ready, saved(tensors, tmp_path / "made.safetensors"))
    assert (names(found), found.models[0].state, found.evidence.hypotheses) == (set(), "no-keys", 0)
    assert found.notes == ["No key of tiny@1 was ever issued."]


def test_without_a_basis_nothing_can_be_traced(sqlite_home: Home, tiny: TinyModel) -> None:
    with pytest.raises(StateError, match="no model has a fingerprint basis"):
        trace(sqlite_home, tiny.weights)
    generators.add_model(sqlite_home, MODEL, "latent-diffusion", str(tiny.weights))
    with pytest.raises(StateError, match="has no fingerprint basis yet"):
        trace(sqlite_home, tiny.weights, model=MODEL)


def test_every_model_that_fits_is_tried_and_all_their_keys_are_paid_for(
    delivered: tuple[Home, Path, str], tiny: TinyModel, tmp_path: Path
) -> None:
    home, copy, copy_id = delivered
    torch.manual_seed(4)
    shutil.copytree(tiny.weights, tmp_path / "other")
    new_autoencoder(SIDE, (8, 8, 8)).save_pretrained(tmp_path / "other" / "vqvae")
    other = generators.add_model(home, "other", "latent-diffusion", str(tmp_path / "other"))
    basis = many_tensors(tmp_path / "other", other.digest_text)
    basis.save(tmp_path / "basis.safetensors")
    write_network(tmp_path / "network", basis.digest, np.ones((2, BITS), np.int16))
    with home.database.write() as session:
        generators.install_basis(session, home.storage, other, tmp_path / "basis.safetensors")
        generators.install_network(session, home.storage, other, tmp_path / "network")
    issued = Issuer.open(home, "other", RECIPIENT).issue(9)
    service.download(home, issued[0]["copy_id"], tmp_path / "second")

    found = trace(home, copy)
    assert names(found) == {copy_id}
    assert [entry.name for entry in found.models] == [MODEL, "other"]
    assert found.models[0].distance < found.models[1].distance
    assert found.evidence.hypotheses == 10
    assert trace(home, copy, model=MODEL).evidence.hypotheses == 1
    found = trace(home, tmp_path / "second")
    assert names(found) == {issued[0]["copy_id"]}
    assert (found.model is not None and found.model.name) == "other"
    assert names(trace(home, copy, model="other")) == set()


def test_parts_of_a_checkpoint_are_told_apart(learned: Learned, tmp_path: Path) -> None:
    """The averaged weights, not the optimiser's or the discriminator's tensors of the same names."""
    tensors = learned.tensors(0)
    noise = {name: torch.randn_like(tensor) for name, tensor in tensors.items()}
    torch.save({"d": {"conv.weight": torch.ones(3)}, "g_ema": tensors, "step": 1}, tmp_path / "a.pt")
    parts = {part.label: part for part in Suspect.open(tmp_path / "a.pt").parts}
    assert set(parts) == {"a.pt:d", "a.pt:g_ema"}
    match = Suspect.open(tmp_path / "a.pt").match(weight_file(learned.base / STAGE))
    assert match is not None
    assert match.part.label == "a.pt:g_ema"
    torch.save({"exp_avg": noise, "g_ema": tensors}, tmp_path / "b.pt")
    assert names(trace(learned.home, tmp_path / "b.pt")) == {learned.ids[0]}


@pytest.fixture
def command(
    learned: Learned, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv(HOME_VARIABLE, str(learned.home.settings.home))

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.run(["trace", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_the_command_names_the_copy(learned: Learned, command: Any) -> None:
    code, out, _ = command(learned.copies[2])
    assert code == 0
    assert out.splitlines()[0] == f"{learned.copies[2]}: ATTRIBUTED"
    assert f"these weights depend on the key of {learned.ids[2]}" in out
    assert f"{STAGE}: {learned.ids[2]}, signature holds, agrees with the weights" in out
    code, out, _ = command(learned.copies[2] / STAGE, "--model", MODEL, "--json")
    document = json.loads(out)
    assert (code, document["schema"], document["verdict"]) == (0, "hallmark/trace/1", "attributed")
    assert [copy["id"] for copy in document["copies"]] == [learned.ids[2]]
    assert document["copies"][0]["model"]["name"] == MODEL


def test_the_command_ends_with_the_documented_codes(learned: Learned, command: Any, tmp_path: Path) -> None:
    code, out, err = command(learned.base)
    assert (code, "registry: " in err) == (1, False)
    assert "not attributed" in out
    assert "carry no key" in out
    (tmp_path / "a.txt").write_text("no weights at all, only words")
    code, out, err = command(tmp_path / "a.txt")
    assert (code, out) == (2, "")
    assert err.startswith("registry: ")
    assert err.count("\n") == 1
    code, _, err = command(learned.base, "--alpha", "2")
    assert (code, "--alpha" in err) == (2, True)
