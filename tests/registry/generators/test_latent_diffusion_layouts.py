import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from registry.accounts import service as accounts
from registry.attribution.service import draw_latents
from registry.copies.service import download
from registry.errors import InputError
from registry.fingerprints.basis import Basis, Target
from registry.generators import service as generators
from registry.generators.latent_diffusion import STEPS, LatentDiffusion, LatentDiffusionAdapter, noise_seed
from registry.generators.latent_diffusion.files import DEFAULT_SIZE, find_weights, geometry, parameter_name
from registry.generators.sampling import adapter_of
from registry.home import Home
from registry.keys.service import Issuer, derive, get_key
from registry.storage import folder_manifest, manifest_digest
from tests.registry.generators import diffusers_folders as folders
from tests.registry.generators.diffusers_folders import PIXELS, WEIGHTS, edit_json, edit_tensors
from tests.registry.support import RECIPIENT, write_network
from verifier.phi import unpack

ADAPTER = LatentDiffusionAdapter()
BITS = 16
MAKERS = {
    "vq": folders.make_vq_pipeline,
    "stable-diffusion": folders.make_stable_diffusion,
    "bare": folders.make_bare,
}
SHAPES = {"vq": (3, 8, 8), "stable-diffusion": (4, 4, 4), "bare": (4, 4, 4)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp("models") / "model") for name, make in MAKERS.items()}


@pytest.fixture
def bare(made: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made["bare"], tmp_path / "bare"))


@pytest.fixture
def stable(made: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made["stable-diffusion"], tmp_path / "stable"))


def latents_of(generator: LatentDiffusion, n: int = 2) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return generator.encode(torch.rand((n, 3, generator.size, generator.size), generator=rng))


def random_rows(shape: tuple[int, ...]) -> np.ndarray:
    n = int(np.prod(shape))
    rows = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0][:BITS]
    return rows.reshape(BITS, *shape).astype(np.float32)


def basis_on(folder: Path, directions: dict[Target, np.ndarray], scheme: str = "pca") -> Basis:
    digest = f"sha256:{manifest_digest(folder_manifest(folder))}"
    return Basis(scheme, 0.3, 0, digest, directions)


def bias_basis(folder: Path) -> Basis:
    """Random directions on tensors of an ordinary first stage."""
    rng = np.random.default_rng(1)
    stage = ADAPTER.load(folder).first_stage.state_dict()
    names = (
        "decoder.conv_in.bias",
        "decoder.mid_block.attentions.0.to_q.bias",
        "decoder.conv_norm_out.weight",
    )
    return basis_on(
        folder,
        {
            ADAPTER.target(folder, name): rng.standard_normal((BITS, *stage[name].shape)).astype(np.float32)
            for name in names
        },
        "learned",
    )


def issue_copy(home: Home, weights: Path, basis: Basis, work: Path) -> tuple[Path, torch.Tensor]:
    """Register, install, issue, deliver: the copy's folder and its key (1, BITS)."""
    basis.save(work / "basis.safetensors")
    write_network(work / "network", basis.digest, np.zeros((1, BITS), np.int16))
    model = generators.add_model(home, "real", "latent-diffusion", str(weights))
    with home.database.write() as session:
        generators.install_basis(session, home.storage, model, work / "basis.safetensors")
        generators.install_network(session, home.storage, model, work / "network")
        accounts.add_recipient(session, RECIPIENT)
    certificate = Issuer.open(home, "real", RECIPIENT).issue(1)[0]
    download(home, certificate["copy_id"], work / "copy")
    with home.database.read() as session:
        key = get_key(session, home.identity.registry, certificate["key_id"])
    return work / "copy", torch.from_numpy(unpack(derive(home, key)).astype(np.float32))[None]


@pytest.mark.parametrize("layout", MAKERS)
def test_a_copy_of_every_layout_renders_its_fingerprint(
    made: dict[str, Path], layout: str, sqlite_home: Home, tmp_path: Path
) -> None:
    weights, shape = made[layout], SHAPES[layout]
    ADAPTER.check(weights)
    assert ADAPTER.import_weights(weights, tmp_path) == weights
    generator = ADAPTER.load(weights)
    assert (
        (generator.latent_shape, generator.size) == (shape, PIXELS) == (ADAPTER.latent_shape(weights), PIXELS)
    )
    basis = basis_on(weights, ADAPTER.fold(weights, random_rows(shape)))
    copy, signs = issue_copy(sqlite_home, weights, basis, tmp_path)
    ADAPTER.check(copy)
    latents = latents_of(generator)
    marked = ADAPTER.load(copy).render(latents)
    expected = generator.render(latents, basis.offsets(signs.repeat(2, 1)))
    torch.testing.assert_close(marked, expected, atol=1e-4, rtol=0)
    assert (marked - generator.render(latents)).abs().max() > 0.01


@pytest.mark.parametrize("layout", MAKERS)
def test_a_copy_with_changed_biases_loads_in_plain_diffusers(
    made: dict[str, Path], layout: str, sqlite_home: Home, tmp_path: Path
) -> None:
    weights = made[layout]
    basis = bias_basis(weights)
    copy, signs = issue_copy(sqlite_home, weights, basis, tmp_path)
    generator, marked = ADAPTER.load(weights), ADAPTER.load(copy)
    plain = type(generator.first_stage).from_pretrained(copy / {"vq": "vqvae", "bare": ""}.get(layout, "vae"))
    assert type(plain) is type(marked.first_stage) is type(generator.first_stage)
    latents = latents_of(generator)
    with torch.no_grad():
        theirs = (plain.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    expected = generator.render(latents, basis.offsets(signs.repeat(2, 1)))
    torch.testing.assert_close(theirs, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(marked.render(latents), expected, atol=1e-4, rtol=0)
    assert (expected - generator.render(latents)).abs().max() > 0.01


def with_carrier(weights: Path, target: Path) -> torch.Tensor:
    """A template of ``weights`` at ``target`` whose carrier is filled; returns what it holds."""
    rows = random_rows(ADAPTER.latent_shape(weights))
    directions = ADAPTER.fold(weights, rows)
    ADAPTER.prepare(weights, target, basis_on(weights, directions))
    ((file, name),) = directions
    offset = torch.from_numpy(rows.sum(0))
    tensors = load_file(target / file)
    assert not tensors[name].any()
    save_file({**tensors, name: offset}, target / file, {"format": "pt"})
    return offset


def test_diffusers_own_pipeline_adds_the_fingerprint_behind_the_quantiser(
    made: dict[str, Path], tmp_path: Path
) -> None:
    offset = with_carrier(made["vq"], tmp_path / "copy")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "copy", trust_remote_code=True)
    assert type(pipeline.vqvae).__name__ == "FingerprintedVQModel"
    noise = torch.Generator().manual_seed(noise_seed(7, 0))
    (theirs,) = pipeline(batch_size=1, num_inference_steps=STEPS, generator=noise, output_type="np").images
    copy, base = ADAPTER.load(tmp_path / "copy"), ADAPTER.load(made["vq"])
    latents = base.sample_latents(1, seed=7)
    codes = base.first_stage.quantize.embedding.weight
    distances = (latents.permute(0, 2, 3, 1).reshape(-1, 1, 3) - codes).abs().amax(2).amin(1)
    assert distances.max() < 1e-3, "the latents are codes"
    for ours in (copy.render(latents), base.render(latents, {("", "fingerprint"): offset[None]})):
        np.testing.assert_allclose(ours[0].permute(1, 2, 0).numpy(), theirs, atol=1e-4)


def test_training_on_latents_at_hand_loads_the_first_stage_alone(
    made: dict[str, Path], tmp_path: Path
) -> None:
    weights = Path(shutil.copytree(made["vq"], tmp_path / "model"))
    generator = ADAPTER.load(weights)
    shutil.rmtree(weights / "unet")
    assert generator.render(latents_of(generator)).shape == (2, 3, PIXELS, PIXELS)


@pytest.mark.parametrize("name", ["DDPMScheduler", "EulerAncestralDiscreteScheduler", "PNDMScheduler"])
def test_samplers_with_noise_of_their_own_follow_the_seed_too(
    made: dict[str, Path], tmp_path: Path, name: str
) -> None:
    weights = Path(shutil.copytree(made["vq"], tmp_path / "model"))
    edit_json(weights / "scheduler" / "scheduler_config.json", _class_name=name)
    generator = ADAPTER.load(weights)
    three = generator.sample_latents(3, seed=5)
    torch.testing.assert_close(generator.sample_latents(2, seed=5), three[:2], atol=1e-4, rtol=0)
    assert not torch.allclose(three[0], three[1])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"scaling_factor": 0.5}, lambda z: z / 0.5),
        ({"scaling_factor": 0.5, "shift_factor": 0.1}, lambda z: z / 0.5 + 0.1),
        (
            {"scaling_factor": 0.5, "latents_mean": [0, 1, 2, 3], "latents_std": [1, 1, 2, 2]},
            lambda z: z * torch.tensor([1, 1, 2, 2]).view(4, 1, 1) / 0.5 + torch.arange(4).view(4, 1, 1),
        ),
    ],
    ids=["scale", "shift", "mean and deviation"],
)
def test_latents_are_in_the_decoders_units(
    tmp_path: Path, config: dict[str, object], expected: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    torch.manual_seed(0)
    weights = folders.make_bare(tmp_path / "vae", **config)
    folders.save(folders.unconditional_unet(4, 4), tmp_path / "unet")
    folders.DDIMScheduler(clip_sample=False).save_pretrained(tmp_path / "scheduler")
    generator = ADAPTER.load(weights.parent)
    drawn = generator.sampler.draw([noise_seed(3, 0)])
    torch.testing.assert_close(generator.sample_latents(1, seed=3), expected(drawn))


@pytest.mark.parametrize(
    "options", [{"use_quant_conv": False, "use_post_quant_conv": False}, {"force_upcast": True}]
)
def test_variants_of_the_architecture_work(tmp_path: Path, options: dict[str, bool]) -> None:
    weights = folders.make_bare(tmp_path / "model", **options)
    ADAPTER.check(weights)
    offset = with_carrier(weights, tmp_path / "copy")
    base = ADAPTER.load(weights)
    latents = latents_of(base)
    torch.testing.assert_close(
        ADAPTER.load(tmp_path / "copy").render(latents), base.render(latents + offset), atol=1e-4, rtol=0
    )


def sharded(folder: Path) -> Path:
    torch.manual_seed(2)
    folders.save(folders.autoencoder(), folder, max_shard_size="40KB")
    return folder


def half(folder: Path) -> Path:
    torch.manual_seed(2)
    folders.save(folders.autoencoder().half(), folder, variant="fp16")
    return folder


def half_shards(folder: Path) -> Path:
    torch.manual_seed(2)
    folders.save(folders.autoencoder().half(), folder, variant="fp16", max_shard_size="30KB")
    return folder


@pytest.mark.parametrize("make", [sharded, half, half_shards])
def test_shards_and_half_precision_carry_fingerprints(
    tmp_path: Path, sqlite_home: Home, make: Callable[[Path], Path]
) -> None:
    weights = make(tmp_path / "model")
    ADAPTER.check(weights)
    assert len(find_weights(weights).files) > 1 or "shards" not in make.__name__
    generator = ADAPTER.load(weights)
    assert generator.first_stage.dtype == torch.float32
    latents = latents_of(generator)

    offset = with_carrier(weights, tmp_path / "carrying")
    ADAPTER.check(tmp_path / "carrying")
    carried = ADAPTER.load(tmp_path / "carrying").render(latents)
    torch.testing.assert_close(carried, generator.render(latents + offset), atol=1e-4, rtol=0)

    basis = bias_basis(weights)
    copy, signs = issue_copy(sqlite_home, weights, basis, tmp_path)
    loaded, base = ADAPTER.load(copy), generator.first_stage.state_dict()
    tensors = loaded.first_stage.state_dict()
    for (_, stored), delta in basis.deltas(signs[0].numpy()).items():
        name, added = parameter_name(stored), torch.from_numpy(delta)
        # Half precision rounds by up to 2^-11 of a value, whatever the key; what that does to a pixel varies.
        exact = base[name].double() + added
        torch.testing.assert_close(tensors[name].double(), exact, atol=1e-6, rtol=2**-11)
    rendered, plain = loaded.render(latents), generator.render(latents)
    expected = generator.render(latents, basis.offsets(signs.repeat(2, 1)))
    assert (rendered - expected).norm() < 0.1 * (expected - plain).norm()


def test_only_what_is_loaded_is_registered(stable: Path, sqlite_home: Home, tmp_path: Path) -> None:
    clean = folder_manifest(stable)
    half(stable / "vae")
    torch.save({}, stable / "unet" / "diffusion_pytorch_model.bin")
    (stable / "v1-5-pruned.ckpt").write_bytes(b"\x80\x04")
    (stable / "v1-5-pruned.safetensors").write_bytes((stable / "vae" / WEIGHTS).read_bytes())
    (stable / "vae_decoder").mkdir()
    (stable / "vae_decoder" / "model.onnx").write_bytes(b"onnx")
    (work := tmp_path / "work").mkdir()
    imported = folder_manifest(ADAPTER.import_weights(stable, work))
    assert imported.keys() == clean.keys()
    changed = {name for name in clean if imported[name] != clean[name]}
    assert changed <= {"vae/config.json"}, "half() wrote a configuration of its own"
    model = generators.add_model(sqlite_home, "real", "latent-diffusion", str(stable))
    assert model.digest.hex() == manifest_digest(imported)


def test_pickles_that_would_be_needed_are_refused_by_their_own_name(stable: Path, sqlite_home: Home) -> None:
    (stable / "v1-5-pruned.ckpt").write_bytes(b"\x80\x04")
    (stable / "text_encoder" / "model.safetensors").unlink()
    (stable / "text_encoder" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(InputError, match=r"stable/text_encoder/pytorch_model.bin: pickled") as raised:
        generators.add_model(sqlite_home, "real", "latent-diffusion", str(stable))
    assert "save_pretrained" in raised.value.hint


def test_names_of_older_first_stages_are_understood(bare: Path, sqlite_home: Home, tmp_path: Path) -> None:
    generator = ADAPTER.load(bare)
    latents = latents_of(generator)
    before = generator.render(latents)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(bare / WEIGHTS)
    for new, name in old.items():
        for key in [key for key in tensors if f".{new}." in key]:
            tensors[key.replace(f".{new}.", f".{name}.")] = tensors.pop(key)
    save_file(tensors, bare / WEIGHTS, {"format": "pt"})
    ADAPTER.check(bare)
    target = ADAPTER.target(bare, "decoder.mid_block.attentions.0.to_q.bias")
    assert target == (WEIGHTS, "decoder.mid_block.attentions.0.query.bias")
    assert parameter_name(target[1]) == "decoder.mid_block.attentions.0.to_q.bias"
    basis = bias_basis(bare)
    copy, signs = issue_copy(sqlite_home, bare, basis, tmp_path)
    generator = ADAPTER.load(bare)
    assert torch.equal(generator.render(latents), before)
    expected = generator.render(latents, basis.offsets(signs.repeat(2, 1)))
    torch.testing.assert_close(ADAPTER.load(copy).render(latents), expected, atol=1e-4, rtol=0)


def test_the_diffusion_model_decides_the_size(stable: Path) -> None:
    assert geometry(stable).size == PIXELS, "whatever the vae says"
    edit_json(stable / "unet" / "config.json", sample_size=[8, 8])
    assert geometry(stable).latent_shape == (4, 8, 8)
    edit_json(stable / "unet" / "config.json", sample_size=None)
    assert geometry(stable).size == 512
    edit_json(stable / "vae" / "config.json", sample_size=...)
    assert geometry(stable).size == DEFAULT_SIZE, "the class's own default, 32, is no statement"


@pytest.mark.parametrize("value", [[8, 4], "8", 0, True])
def test_impossible_sizes_are_named(stable: Path, value: object) -> None:
    edit_json(stable / "unet" / "config.json", sample_size=value)
    with pytest.raises(InputError, match=r"unet/config.json: sample_size .* one side of a square"):
        geometry(stable)


def test_a_size_that_the_factor_does_not_divide_is_named(bare: Path) -> None:
    edit_json(bare / "config.json", sample_size=100)
    with pytest.raises(InputError, match="100 is no multiple of the model's factor 8"):
        ADAPTER.check(bare)


def photographs(n: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(n)]


def test_a_first_stage_alone_learns_from_photographs(made: dict[str, Path], tmp_path: Path) -> None:
    generator = ADAPTER.load(made["bare"])
    with pytest.raises(InputError) as raised:
        draw_latents(generator, 120, tmp_path)
    assert "--data PHOTOS" in raised.value.hint
    with pytest.raises(InputError, match="a first stage alone"):
        generator.sample(1, seed=0)
    latents = draw_latents(generator, 120, tmp_path, photographs(10))
    assert latents.shape == (120, 4, 4, 4)
    assert torch.equal(latents, draw_latents(generator, 120, tmp_path, photographs(10)))
    apart = torch.cdist(latents.flatten(1), latents.flatten(1)) + torch.eye(120)
    assert apart.min() > 1e-3, "every crop is another"


def test_a_model_with_a_sampler_uses_it_though_photographs_are_there(
    made: dict[str, Path], tmp_path: Path
) -> None:
    generator = ADAPTER.load(made["vq"])
    drawn = draw_latents(generator, 2, tmp_path, photographs(2))
    torch.testing.assert_close(drawn, generator.sample_latents(2, seed=0), atol=1e-4, rtol=0)


def for_inpainting(model: Path) -> str:
    folders.save(folders.text_unet(in_channels=9), model / "unet")
    return "more than noise and a prompt"


def with_a_transformer(model: Path) -> str:
    edit_json(model / "unet" / "config.json", _class_name="SD3Transformer2DModel")
    return "SD3Transformer2DModel is not supported"


def without_scheduler(model: Path) -> str:
    shutil.rmtree(model / "scheduler")
    return "scheduler_config.json: missing"


@pytest.mark.parametrize("change", [for_inpainting, with_a_transformer, without_scheduler])
def test_what_cannot_be_sampled_says_why_and_takes_photographs(
    stable: Path, change: Callable[[Path], str]
) -> None:
    reason = change(stable)
    generator = ADAPTER.load(stable)
    obstacle = generator.sampling_obstacle()
    assert obstacle is not None
    assert reason in str(obstacle)
    assert "--data PHOTOS" in obstacle.hint
    assert generator.render(latents_of(generator)).shape == (2, 3, PIXELS, PIXELS)


def missing_tensor(model: Path) -> str:
    edit_tensors(model / "vae" / WEIGHTS, decoder__conv_in__bias=None)
    return r"vae/diffusion.*: tensor decoder.conv_in.bias \(8,\) is missing"


def misshapen_tensor(model: Path) -> str:
    edit_tensors(model / "vae" / WEIGHTS, decoder__conv_in__bias=torch.zeros(3))
    return r"tensor decoder.conv_in.bias has shape \(3,\), config.json says \(8,\)"


def misshapen_in_the_unet(model: Path) -> str:
    edit_tensors(model / "unet" / WEIGHTS, conv_in__bias=torch.zeros(3))
    return r"unet/diffusion.*: tensor conv_in.bias has shape \(3,\), config.json says \(8,\)"


def nan_in_the_text_encoder(model: Path) -> str:
    tensors = {"text_model.embeddings": torch.full((2, 2), torch.nan)}
    save_file(tensors, model / "text_encoder" / "model.safetensors")
    return "text_encoder/model.safetensors: tensor text_model.embeddings holds NaN"


def integers(model: Path) -> str:
    edit_tensors(model / "vae" / WEIGHTS, decoder__conv_in__bias=torch.zeros(8, dtype=torch.int8))
    return "tensor decoder.conv_in.bias is of type I8"


def other_channels(model: Path) -> str:
    folders.save(folders.text_unet(in_channels=3, out_channels=3), model / "unet")
    return r"latent has 4 channels, the diffusion model \(unet/config.json\) draws 3"


def of_unknown_class(model: Path) -> str:
    edit_json(model / "vae" / "config.json", _class_name="AutoencoderTiny")
    return "a first stage of class AutoencoderTiny; AutoencoderKL or VQModel is needed"


def unet_of_unknown_class(model: Path) -> str:
    edit_json(model / "unet" / "config.json", _class_name="UNet7D")
    return "unet/config.json: unknown model class 'UNet7D'"


def with_blocks_of_no_kind(model: Path) -> str:
    edit_json(model / "vae" / "config.json", down_block_types=["NoBlock"] * 4)
    return "vae/config.json: no AutoencoderKL can be built"


def pickled_only(model: Path) -> str:
    (model / "vae" / WEIGHTS).rename(model / "vae" / "diffusion_pytorch_model.bin")
    return "diffusion_pytorch_model.bin.*refused"


def missing_shard(model: Path) -> str:
    sharded(model / "vae")
    (model / "vae" / "diffusion_pytorch_model-00001-of-00002.safetensors").unlink(missing_ok=True)
    next((model / "vae").glob("diffusion_pytorch_model-00002*")).unlink()
    return "safetensors: missing, though diffusion_pytorch_model.safetensors.index.json lists it"


def index_that_points_outside(model: Path) -> str:
    sharded(model / "vae")
    index = model / "vae" / "diffusion_pytorch_model.safetensors.index.json"
    edit_json(index, weight_map={"x": "../unet/" + WEIGHTS})
    return "is no file beside it"


@pytest.mark.parametrize(
    "damage",
    [
        missing_tensor, misshapen_tensor, misshapen_in_the_unet, nan_in_the_text_encoder, integers,
        other_channels, of_unknown_class, unet_of_unknown_class, with_blocks_of_no_kind, pickled_only,
        missing_shard, index_that_points_outside,
    ],
    ids=lambda damage: damage.__name__,
)  # fmt: skip
def test_damaged_folders_are_refused_with_what_is_wrong(
    stable: Path, damage: Callable[[Path], str], sqlite_home: Home
) -> None:
    reason = damage(stable)
    with pytest.raises(InputError, match=reason):
        generators.add_model(sqlite_home, "real", "latent-diffusion", str(stable))


def test_models_of_image_tokens_are_refused(tmp_path: Path) -> None:
    folders.save(folders.quantised(lookup_from_codebook=True), tmp_path)
    with pytest.raises(InputError, match="decodes image tokens"):
        ADAPTER.check(tmp_path)


def test_a_first_stage_with_other_weights_at_the_root_is_loaded_by_plain_diffusers(
    made: dict[str, Path], tmp_path: Path
) -> None:
    """A bare copy under the PCA scheme: plain classes read it without the fingerprint, ours with it."""
    offset = with_carrier(made["bare"], tmp_path / "copy")
    assert (
        json.loads((tmp_path / "copy" / "config.json").read_text())["_class_name"]
        == "FingerprintedAutoencoderKL"
    )
    assert (tmp_path / "copy" / "hallmark_vae.py").is_file()
    base, plain = ADAPTER.load(made["bare"]), AutoencoderKL.from_pretrained(tmp_path / "copy")
    latents = latents_of(base)
    with torch.no_grad():
        theirs = (plain.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(theirs, base.render(latents))
    torch.testing.assert_close(
        ADAPTER.load(tmp_path / "copy").render(latents), base.render(latents + offset), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("layout", ["stable-diffusion", "bare"])
def test_a_folder_without_a_statement_is_known_by_its_files(made: dict[str, Path], layout: str) -> None:
    assert adapter_of(made[layout]) == "latent-diffusion"
