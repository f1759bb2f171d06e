import argparse
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from registry.errors import InputError
from registry.fingerprints.basis import Basis
from registry.generators.adapters import get_adapter
from registry.generators.stylegan2.adapter import StyleGAN2
from registry.generators.stylegan2.checkpoints import WEIGHTS, save_model
from registry.generators.stylegan2.network import Layout, Synthesis
from tests.registry.generators.stylegan2.support import (
    LAYOUT,
    STYLE_DIM,
    make_model,
    make_state,
    orthonormal_rows,
)

ADAPTER = get_adapter("stylegan2")
BITS = 16
STRENGTH = 0.3


def load(folder: Path) -> StyleGAN2:
    generator = ADAPTER.load(folder)
    assert isinstance(generator, StyleGAN2)
    return generator


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("stylegan2") / "model")


@pytest.fixture(scope="module")
def generator(model: Path) -> StyleGAN2:
    return load(model)


def make_basis(model: Path, generator: StyleGAN2, scheme: str) -> tuple[Basis, np.ndarray, np.ndarray]:
    rows = orthonormal_rows(BITS)
    mean = generator.sample_latents(500, seed=9).mean(0).numpy()
    replaced = ADAPTER.project(model, rows, mean) if scheme == "pca-projected" else {}
    basis = Basis(scheme, STRENGTH, 0, "sha256:0", ADAPTER.fold(model, rows), replaced=replaced)
    return basis, rows, mean


def edited(
    w: torch.Tensor, rows: np.ndarray, mean: np.ndarray, signs: np.ndarray, scheme: str
) -> torch.Tensor:
    """The paper's edit of latents: w + sigma V'phi, with the content along V taken out where projected."""
    V, mu = torch.from_numpy(rows), torch.from_numpy(mean)
    content = w - (w - mu) @ V.T @ V if scheme == "pca-projected" else w
    return content + STRENGTH * torch.from_numpy(signs.astype(np.float32)) @ V


def random_keys(n: int) -> np.ndarray:
    return np.random.default_rng(5).choice(np.array([-1, 1], np.int8), (n, BITS))


# Folding


@pytest.mark.parametrize("scheme", ["pca", "pca-projected"])
def test_editing_the_latent_is_the_same_as_folded_weights_loaded_as_an_ordinary_checkpoint(
    model: Path, generator: StyleGAN2, scheme: str, tmp_path: Path
) -> None:
    basis, rows, mean = make_basis(model, generator, scheme)
    ADAPTER.prepare(model, tmp_path / "template", basis)
    w = generator.sample_latents(4, seed=1)
    for signs in random_keys(5):
        state = load_file(tmp_path / "template" / WEIGHTS)
        for (_, name), delta in basis.deltas(signs).items():
            state[name] = (state[name].double() + torch.from_numpy(delta)).float()
        ordinary = Synthesis(LAYOUT)
        ordinary.load_state_dict(state, strict=True)
        with torch.no_grad():
            theirs = generator.network(edited(w, rows, mean, signs, scheme))
            torch.testing.assert_close(ordinary(w), theirs, atol=2e-5, rtol=1e-4)
            assert float((ordinary(w) - generator.network(w)).abs().max()) > 0.01, (
                "a key that changes nothing"
            )


@pytest.mark.parametrize("scheme", ["pca", "pca-projected"])
def test_a_batch_with_a_key_for_each_image_is_the_same_as_the_edited_latents(
    model: Path, generator: StyleGAN2, scheme: str, tmp_path: Path
) -> None:
    basis, rows, mean = make_basis(model, generator, scheme)
    ADAPTER.prepare(model, tmp_path / "template", basis)
    w, signs = generator.sample_latents(6, seed=2), random_keys(6)
    offsets = basis.offsets(torch.from_numpy(signs))
    ours = load(tmp_path / "template").render(w, offsets)
    torch.testing.assert_close(
        ours, generator.render(edited(w, rows, mean, signs, scheme)), atol=2e-5, rtol=1e-4
    )


def test_projected_weights_have_forgotten_the_latent_along_the_rows(
    model: Path, generator: StyleGAN2, tmp_path: Path
) -> None:
    basis, rows, _ = make_basis(model, generator, "pca-projected")
    ADAPTER.prepare(model, tmp_path / "template", basis)
    template, w = load(tmp_path / "template"), generator.sample_latents(2, seed=3)
    moved = w + torch.from_numpy(rows[:4].sum(0))
    torch.testing.assert_close(template.render(moved), template.render(w), atol=2e-5, rtol=1e-4)
    assert not torch.allclose(generator.render(moved), generator.render(w), atol=1e-2)


def test_only_style_layers_are_touched(model: Path, generator: StyleGAN2) -> None:
    basis, _, _ = make_basis(model, generator, "pca-projected")
    layers = 3 * len(LAYOUT.channels) - 1
    state = load_file(model / WEIGHTS)
    biases = {name for name in state if name.endswith("modulation.bias")}
    assert set(basis.directions) == {(WEIGHTS, name) for name in biases}
    assert len(biases) == layers
    weights = {name for name in state if name.endswith("modulation.weight")}
    assert {name for _, name in basis.replaced} == biases | weights


def test_a_template_without_replaced_tensors_is_the_base(
    model: Path, generator: StyleGAN2, tmp_path: Path
) -> None:
    ADAPTER.prepare(model, tmp_path / "template", make_basis(model, generator, "pca")[0])
    assert (tmp_path / "template" / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_template_keeps_the_type_of_its_tensors(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", dtype)
    ADAPTER.check(folder)
    generator = load(folder)
    basis, _, _ = make_basis(folder, generator, "pca-projected")
    ADAPTER.prepare(folder, tmp_path / "template", basis)
    assert {tensor.dtype for tensor in load_file(tmp_path / "template" / WEIGHTS).values()} == {dtype}
    ADAPTER.check(tmp_path / "template")
    assert generator.render(generator.sample_latents(1, 0)).dtype == torch.float32


def test_a_basis_that_changes_other_tensors_is_refused(model: Path, tmp_path: Path) -> None:
    rows = orthonormal_rows(8)
    directions = ADAPTER.fold(model, rows)
    strange = {(WEIGHTS, "conv9.conv.modulation.bias"): np.zeros((8, 4), np.float32)}
    with pytest.raises(InputError, match=r"conv9\.conv\.modulation\.bias"):
        ADAPTER.prepare(model, tmp_path / "t", Basis("pca", 1.0, 0, "sha256:0", {**directions, **strange}))
    misshapen = {(WEIGHTS, "conv1.conv.modulation.bias"): np.zeros((8, 4), np.float32)}
    with pytest.raises(InputError, match=r"conv1\.conv\.modulation\.bias of shape \(4,\)"):
        ADAPTER.prepare(model, tmp_path / "t", Basis("pca", 1.0, 0, "sha256:0", {**directions, **misshapen}))
    assert not (tmp_path / "t").exists()


# Latents and images


def test_sampling_is_determined_by_the_seed_and_not_by_how_many(generator: StyleGAN2) -> None:
    three, two = generator.sample_latents(3, seed=5), generator.sample_latents(2, seed=5)
    assert three.shape == (3, STYLE_DIM)
    torch.testing.assert_close(three[:2], two)
    assert not torch.allclose(three[:2], generator.sample_latents(2, seed=6))
    assert [image.size for image in generator.sample(2, seed=5)] == [(32, 32)] * 2


def test_truncation_pulls_latents_to_their_mean(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    (folder / "config.json").write_text('{"truncation": 0.5}')
    ADAPTER.check(folder)
    plain, truncated = load(model).sample_latents(400, seed=3), load(folder).sample_latents(400, seed=3)
    torch.testing.assert_close(truncated.var(0), 0.25 * plain.var(0))
    centre = 2 * (truncated - 0.5 * plain)[0]
    torch.testing.assert_close(truncated, centre / 2 + 0.5 * plain)
    assert float((centre - plain.mean(0)).abs().max()) < 5 * float(plain.std(0).max()) / np.sqrt(400)


def test_images_do_not_depend_on_the_batch_they_are_rendered_in(
    model: Path, generator: StyleGAN2, monkeypatch: pytest.MonkeyPatch
) -> None:
    basis, _, _ = make_basis(model, generator, "pca")
    w, offsets = generator.sample_latents(5, seed=1), basis.offsets(torch.from_numpy(random_keys(5)))
    together = generator.render(w, offsets)
    monkeypatch.setattr(generator, "batch", 2)
    torch.testing.assert_close(generator.render(w, offsets), together, atol=1e-5, rtol=1e-4)
    assert float(together.min()) >= 0
    assert float(together.max()) <= 1


def test_training_renders_nearly_the_same_in_half_precision(model: Path, generator: StyleGAN2) -> None:
    basis, _, _ = make_basis(model, generator, "pca")
    w, offsets = generator.sample_latents(4, seed=1), basis.offsets(torch.from_numpy(random_keys(4)))
    exact = generator.render(w, offsets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = generator.render(w, offsets)
    assert rounded.dtype == torch.float32
    effect = float((exact - generator.render(w)).square().mean().sqrt())
    assert float((rounded - exact).square().mean().sqrt()) < 0.2 * effect


def test_batches_shrink_as_images_grow() -> None:
    def batch(layout: Layout) -> int:
        with torch.device("meta"):
            network = Synthesis(layout)
        return StyleGAN2(network).batch

    assert [batch(Layout.config_f(size)) for size in (1024, 512, 256, 128)] == [1, 2, 4, 8]


def test_rendering_is_differentiable_in_latents_and_keys(model: Path, generator: StyleGAN2) -> None:
    basis, _, _ = make_basis(model, generator, "pca")
    w = generator.sample_latents(2, seed=1).requires_grad_()
    signs = torch.ones(2, BITS, requires_grad=True)
    generator.render(w, basis.offsets(signs)).square().sum().backward()
    for gradient in (w.grad, signs.grad):
        assert gradient is not None
        assert bool(gradient.abs().sum(1).gt(0).all())


# Import


def test_neither_adapter_loads_the_libraries_of_the_other() -> None:
    script = (
        "import sys; from registry.generators.adapters import get_adapter; get_adapter('{}'); "
        "print([m for m in ('diffusers', 'registry.generators.stylegan2.adapter') if m in sys.modules])"
    )
    for name, loaded in [
        ("stylegan2", "registry.generators.stylegan2.adapter"),
        ("latent-diffusion", "diffusers"),
    ]:
        command = [sys.executable, "-c", script.format(name)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str([loaded])


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def as_trained(path: Path) -> Path:
    state = make_state()
    discriminator = {"convs.0.0.weight": torch.ones(1)}
    arguments = argparse.Namespace(size=32, iter=800_000)
    beside = {"g": make_state(seed=1), "d": discriminator, "args": arguments, "ada_aug_p": 0.0}
    return saved({"g_ema": state, **beside}, path / "000100.pt")


def as_converted(path: Path) -> Path:
    return saved({"g_ema": make_state(), "latent_avg": torch.zeros(STYLE_DIM)}, path / "ffhq.pth")


def as_bare_state(path: Path) -> Path:
    return saved(make_state(), path / "generator.pt")


def as_legacy_file(path: Path) -> Path:
    torch.save({"g_ema": make_state()}, path / "old.pt", _use_new_zipfile_serialization=False)
    return path / "old.pt"


def as_safetensors(path: Path) -> Path:
    save_file(make_state(), path / "weights.safetensors")
    return path / "weights.safetensors"


@pytest.mark.parametrize(
    "source",
    [as_trained, as_converted, as_bare_state, as_legacy_file, as_safetensors],
    ids=lambda source: source.__name__,
)
def test_checkpoint_files_are_converted_to_the_same_folder(
    model: Path, source: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = ADAPTER.import_weights(source(tmp_path), tmp_path / "work")
    ADAPTER.check(folder)
    assert [path.name for path in folder.iterdir()] == [WEIGHTS]
    assert (folder / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()


def test_a_folder_is_taken_as_it_is(model: Path, tmp_path: Path) -> None:
    assert ADAPTER.import_weights(model, tmp_path) == model
    assert not any(tmp_path.iterdir())


def test_checkpoints_from_before_noise_maps_were_stored_get_them(tmp_path: Path) -> None:
    state = {
        n: t for n, t in make_state().items() if not n.startswith("noises.") and not n.endswith("kernel")
    }
    source = saved({"g_ema": state}, tmp_path / "550000.pt")
    first, second = (ADAPTER.import_weights(source, tmp_path / name) for name in ("a", "b"))
    ADAPTER.check(first)
    assert (first / WEIGHTS).read_bytes() == (second / WEIGHTS).read_bytes()
    made = load_file(first / WEIGHTS)
    for name, tensor in make_state().items():
        if name in state or name.endswith("kernel"):
            torch.testing.assert_close(made[name], tensor)
    assert 0.9 < float(made["noises.noise_6"].std()) < 1.1


def test_tensors_that_share_memory_or_are_not_contiguous_are_converted(tmp_path: Path) -> None:
    state = make_state()
    state["style.1.weight"] = state["style.2.weight"].T
    folder = ADAPTER.import_weights(saved({"g_ema": state}, tmp_path / "shared.pt"), tmp_path)
    ADAPTER.check(folder)
    made = load_file(folder / WEIGHTS)
    torch.testing.assert_close(made["style.1.weight"], made["style.2.weight"].T)


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('this code ran')",))


def nvidia_pickle(path: Path) -> Path:
    (path / "ffhq.pkl").write_bytes(pickle.dumps(Malicious()))
    return path / "ffhq.pkl"


def pickle_with_code(path: Path) -> Path:
    return saved({"g_ema": make_state(), "extra": Malicious()}, path / "code.pt")


@pytest.mark.parametrize("source", [nvidia_pickle, pickle_with_code], ids=lambda source: source.__name__)
def test_pickles_that_may_hold_code_are_refused_with_a_way_to_convert(
    source: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = source(tmp_path)
    with pytest.raises(InputError, match="may hold code") as raised:
        ADAPTER.import_weights(path, tmp_path)
    assert path.name in str(raised.value)
    assert "convert_weight.py" in raised.value.hint
    assert "torch.save" in raised.value.hint


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"g_ema": None}, "no state dict"),
        ({"g_ema": {"conv1.conv.weight": "text"}}, "no state dict"),
        ([1, 2], "no state dict"),
        ({"generator": {}}, "no state dict"),
        ({}, "conv1.conv.weight is missing"),
        ({"synthesis.b4.const": torch.zeros(512, 4, 4)}, "conv1.conv.weight is missing"),
        ({"g_ema": {"conv1.conv.weight": torch.zeros(3)}}, "conv1.conv.weight is missing or misshapen"),
    ],
)
def test_checkpoints_of_other_layouts_are_refused(content: object, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        ADAPTER.import_weights(saved(content, tmp_path / "other.pt"), tmp_path)


@pytest.mark.parametrize("name", ["broken.pt", "broken.safetensors"])
def test_a_broken_file_is_named(name: str, tmp_path: Path) -> None:
    whole = as_safetensors(tmp_path) if name.endswith("safetensors") else as_converted(tmp_path)
    content = whole.read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=name):
        ADAPTER.import_weights(tmp_path / name, tmp_path)


def test_bytes_that_are_no_checkpoint_are_named(tmp_path: Path) -> None:
    (tmp_path / "garbage.pt").write_bytes(b"abc")
    with pytest.raises(InputError, match=r"garbage\.pt: not a sound checkpoint"):
        ADAPTER.import_weights(tmp_path / "garbage.pt", tmp_path)


def test_a_tensor_of_a_checkpoint_is_named_with_the_file_that_was_given(tmp_path: Path) -> None:
    state = dict(load_file(as_safetensors(tmp_path)))
    state["to_rgb1.bias"][:] = torch.inf
    with pytest.raises(InputError, match=r"given\.pt: tensor to_rgb1\.bias holds NaN or infinite"):
        ADAPTER.import_weights(saved({"g_ema": state}, tmp_path / "given.pt"), tmp_path)


def test_sizes_that_were_never_tried_are_refused(tmp_path: Path) -> None:
    state = make_state(Layout(8, 1, (4, 4, 4)))
    with pytest.raises(InputError, match="images of 16 pixels"):
        ADAPTER.import_weights(saved({"g_ema": state}, tmp_path / "small.pt"), tmp_path)


# Checks of a folder


@pytest.fixture
def copied(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "model"))


def change(model: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(model / WEIGHTS)
    edit(state)
    shutil.rmtree(model)
    save_model(state, model)


def without_weights(model: Path) -> str:
    (model / WEIGHTS).unlink()
    return f"{WEIGHTS}: missing"


def truncated_file(model: Path) -> str:
    content = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(content[: len(content) // 2])
    return "not a sound safetensors file"


def without_a_tensor(model: Path) -> str:
    change(model, lambda state: state.pop("convs.3.noise.weight"))
    return r"convs\.3\.noise\.weight is missing"


def without_a_layer(model: Path) -> str:
    change(model, lambda state: state.pop("convs.2.conv.weight"))
    return r"convs\.2\.conv\.weight is missing or misshapen"


def with_an_extra_tensor(model: Path) -> str:
    change(model, lambda state: state.update(latent_avg=torch.zeros(3)))
    return "latent_avg belongs to no StyleGAN2"


def misshapen(model: Path) -> str:
    change(model, lambda state: state.update({"to_rgbs.1.bias": torch.zeros(1, 4, 1, 1)}))
    return r"to_rgbs\.1\.bias has the shape \(1, 4, 1, 1\), not \(1, 3, 1, 1\)"


def with_nan(model: Path) -> str:
    change(model, lambda state: state["input.input"][0, 3, 1].fill_(float("nan")))
    return r"input\.input holds NaN"


def with_integers(model: Path) -> str:
    change(model, lambda state: state.update({"to_rgb1.bias": torch.zeros(1, 3, 1, 1, dtype=torch.int32)}))
    return r"to_rgb1\.bias is of type I32, not floating point"


def with_another_blur(model: Path) -> str:
    change(model, lambda state: state["convs.0.conv.blur.kernel"].fill_(0.25))
    return r"convs\.0\.conv\.blur\.kernel is no \[1, 3, 3, 1\] blur"


def with_a_pickle(model: Path) -> str:
    (model / "ffhq.pkl").write_bytes(b"\x80\x04")
    return r"ffhq\.pkl.*refused"


def with_broken_config(model: Path) -> str:
    (model / "config.json").write_text("[1]")
    return r"config\.json: not readable"


def with_impossible_truncation(model: Path) -> str:
    (model / "config.json").write_text(json.dumps({"truncation": 7}))
    return r"config\.json: truncation 7"


@pytest.mark.parametrize(
    "damage",
    [
        without_weights, truncated_file, without_a_tensor, without_a_layer, with_an_extra_tensor, misshapen,
        with_nan, with_integers, with_another_blur, with_a_pickle, with_broken_config,
        with_impossible_truncation,
    ],
    ids=lambda damage: damage.__name__,
)  # fmt: skip
def test_damaged_weights_are_refused_with_what_is_wrong(copied: Path, damage: Callable[[Path], str]) -> None:
    ADAPTER.check(copied)
    reason = damage(copied)
    with pytest.raises(InputError, match=reason):
        ADAPTER.check(copied)


def test_a_file_is_no_model(copied: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        ADAPTER.check(copied / WEIGHTS)
