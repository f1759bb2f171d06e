"""Lineage in the registry: fingerprints at registration, relatives, trees, bundles; on the zoo's builtins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from registry import cli
from registry.errors import InputError, StateError
from registry.generators import service as generators
from registry.generators.adapters import get_adapter
from registry.generators.builtin import resolve_builtin
from registry.generators.service import SchemeOptions
from registry.generators.small import save_small
from registry.generators.small_training import train
from registry.home import Home
from registry.lineage import service
from registry.lineage.tree import Tree, adjusted_rand
from verifier.lineage import FINGERPRINTS, Lineage, window


@pytest.fixture
def related(home: Home) -> Home:
    """A registry with two models of the zoo."""
    for family in ("vae", "flow"):
        generators.add_model(home, f"zoo-{family}", family, f"builtin:zoo-{family}@1")
    return home


def pruned(state: dict[str, torch.Tensor]) -> None:
    """With a fifth of each matrix at zero."""
    for tensor in state.values():
        if tensor.dim() > 1 and tensor.is_floating_point():
            tensor[tensor.abs() < tensor.abs().float().quantile(0.2)] = 0


def derived(family: str, folder: Path) -> Path:
    """A copy of the zoo's builtin, to be changed."""
    shutil.copytree(resolve_builtin(f"builtin:zoo-{family}@1").weights, folder)
    return folder


def test_registering_a_model_computes_its_lineage_and_flags_pruned_weights(
    related: Home, tmp_path: Path
) -> None:
    folder = derived("vae", tmp_path / "pruned")
    state = load_file(folder / "weights.safetensors")
    pruned(state)
    save_file(state, folder / "weights.safetensors")
    added = generators.add_model(related, "another-name", "vae", str(folder))
    with related.database.read() as session:
        first, *others = service.relatives(session, added)
        described = service.describe(session, added)
    assert (first.model, first.derived) == ("zoo-vae@1", True)
    assert first.distance is not None
    assert first.weights is not None
    assert first.weights > 0.9
    assert not any(other.derived for other in others)
    assert described is not None
    assert described["nearest"] == vars(first)


@pytest.mark.parametrize("family", ["vae", "flow"])
def test_fine_tuned_weights_are_flagged_with_what_they_come_from(
    related: Home, tmp_path: Path, family: str
) -> None:
    """Trained on other photographs at the full rate, until their images look like another model's."""
    folder = derived(family, tmp_path / "tuned")
    network = get_adapter(family).load(folder).network.requires_grad_(True).train()  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    photographs = torch.from_numpy(rng.integers(0, 256, (64, 3, 40, 40), np.uint8))
    tuned = train(network, photographs, tmp_path / "work", steps=12, batch=8, seed=3)
    save_small(tuned, family, folder)
    asked = ["model", "add", "mine", "--adapter", family, "--weights", str(folder)]
    result = CliRunner().invoke(cli.cli, [*asked, "--home", str(related.settings.home)])
    assert result.exit_code == 0, result.output
    assert f"Warning: it has the weights of zoo-{family}@1, fine-tuned or pruned at most" in result.stderr
    with related.database.read() as session:
        found = service.nearest(session)
    assert found["mine@1"].model == f"zoo-{family}@1"
    assert found[f"zoo-{family}@1"].model == "mine@1"
    assert found["mine@1"].derived


def test_independent_trainings_of_one_architecture_are_not_flagged(related: Home, tmp_path: Path) -> None:
    folder = derived("vae", tmp_path / "other")
    state = load_file(folder / "weights.safetensors")
    torch.manual_seed(5)
    save_file({n: torch.randn_like(t) * 0.05 for n, t in state.items()}, folder / "weights.safetensors")
    added = generators.add_model(related, "other", "vae", str(folder))
    with related.database.read() as session:
        found = service.relatives(session, added)
    assert [relative.weights for relative in found] == [None, None]
    assert not any(relative.derived for relative in found)


def test_the_same_weights_under_another_name_are_flagged(home: Home) -> None:
    for name in ("one", "two"):
        added = generators.add_model(home, name, "score", "builtin:zoo-score@1")
    with home.database.read() as session:
        (found,) = service.relatives(session, added)
    assert (found.model, found.derived, found.weights) == ("one@1", True, 1.0)


def test_the_tree_is_drawn_with_its_matrix(related: Home) -> None:
    with related.database.read() as session:
        tree = service.tree(session)
    assert tree.models == ("zoo-flow@1", "zoo-vae@1")
    svg = tree.svg()
    assert svg.startswith("<svg")
    assert svg.count("<rect") == 4
    assert "zoo-vae@1" in svg
    document = tree.document()
    assert document["distances"][0][1] == document["distances"][1][0] > 0.1
    assert json.loads(json.dumps(document)) == document


def test_a_tree_needs_two_models(home: Home) -> None:
    with home.database.read() as session, pytest.raises(StateError, match="two models"):
        service.tree(session)


def test_fingerprints_travel_and_tell_the_model(related: Home) -> None:
    with related.database.read() as session:
        members = service.members(session, generators.models(session))
    assert [one["model"] for one in json.loads(members[FINGERPRINTS])["fingerprints"]] == [
        "zoo-flow@1",
        "zoo-vae@1",
    ]
    lineage = Lineage.open(members, "cpu")
    images = get_adapter("vae").load(resolve_builtin("builtin:zoo-vae@1").weights).sample(16, seed=9)
    entry = lineage.of(lineage.features([window(image, 64) for image in images])).entry
    assert entry is not None
    assert entry.model == "zoo-vae@1"


def test_copies_of_a_model_are_the_model(tmp_path: Path) -> None:
    """A real StyleGAN2 and copies of it under random keys: nearer to it than any other model by far."""
    from registry.fingerprints.basis import Basis
    from registry.fingerprints.quality import random_signs
    from registry.generators.adapters import to_images

    builtin = resolve_builtin("builtin:flowers-stylegan2@1")
    assert builtin.basis is not None
    assert builtin.lineage is not None
    shipped = service.read_shipped(builtin.lineage)
    assert shipped is not None
    generator, basis = get_adapter("stylegan2").load(builtin.weights), Basis.load(builtin.basis)
    latents = generator.sample_latents(64, seed=4)
    offsets = basis.offsets(random_signs(64, basis.bits, seed=1))
    with torch.no_grad():
        copies = service.fingerprint_of(to_images(generator.render(latents, offsets)))
    others = [service.read_shipped(resolve_builtin(f"builtin:zoo-{f}@1").lineage) for f in ("vae", "flow")]  # type: ignore[arg-type]
    own = 1 - float(np.dot(copies.embedding, shipped.embedding))
    rest = [1 - float(np.dot(copies.embedding, other.embedding)) for other in others if other is not None]
    assert own < 0.5 * min(rest)


def test_too_few_or_too_small_samples_are_refused_with_a_sentence() -> None:
    image = Image.new("RGB", (32, 32))
    with pytest.raises(InputError, match=r"gave 10 images; a lineage fingerprint needs 64"):
        service.fingerprint_of([image] * 10)
    with pytest.raises(InputError, match="16 x 16"):
        service.fingerprint_of([image.resize((8, 8))] * 64)


def test_a_model_of_the_zoo_carries_no_keys_and_says_so(home: Home) -> None:
    with pytest.raises(InputError, match="carries no keys"):
        generators.add_model(home, "zoo", "vae", "builtin:zoo-vae@1", SchemeOptions(bits=64))


@pytest.mark.parametrize("family", ["vae", "flow", "score"])
def test_a_broken_folder_of_the_zoo_names_what_is_wrong(family: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(resolve_builtin(f"builtin:zoo-{family}@1").weights, folder)
    state = load_file(folder / "weights.safetensors")
    name = next(name for name, tensor in state.items() if tensor.is_floating_point() and tensor.dim())
    save_file({**state, name: torch.full_like(state[name], float("nan"))}, folder / "weights.safetensors")
    with pytest.raises(InputError, match=f"{name} holds NaN"):
        get_adapter(family).check(folder)
    del state[name]
    save_file(state, folder / "weights.safetensors")
    with pytest.raises(InputError, match=f"{name} is missing"):
        get_adapter(family).check(folder)


def test_clusters_and_their_agreement_with_families() -> None:
    directions = np.array([[1, 0.0], [1, 0.1], [0, 1.0], [0.1, 1]])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    tree = Tree.of(["a", "b", "c", "d"], directions)
    assert adjusted_rand(tree.clusters(2), ["x", "x", "y", "y"]) == 1
    assert adjusted_rand(["p", "p", "q", "q"], ["x", "y", "x", "y"]) < 0
