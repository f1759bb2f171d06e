"""StyleGAN2 checkpoints: our folder of one safetensors file, and the ``.pt`` files it is made from.

    state = read_checkpoint(Path("550000.pt"))       # rosinality's: tensors by name, complete
    save_model(state, folder)                        # folder/generator.safetensors
    check_model(folder)                              # InputError names the tensor that is wrong
    network = load_model(folder)

``generator.safetensors`` holds the generator's ``state_dict`` under rosinality's names and nothing else, so
``Generator(size, 512, 8).load_state_dict(load_file("generator.safetensors"))`` works in that code too. An
optional ``config.json`` next to it may say ``{"truncation": 0.7}``.
"""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from registry.errors import InputError
from registry.generators.stylegan2.network import Layout, Synthesis, Upsample
from verifier.inspect import CERTIFICATE_METADATA

WEIGHTS = "generator.safetensors"
CONFIG = "config.json"
SMALLEST, LARGEST = 32, 1024
"""Sides of the images in pixels that are known to work."""
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types that weights may be stored in, by their names in safetensors files."""
AVERAGED = "g_ema"
"""Where rosinality's training and conversion scripts keep the averaged generator."""

CONVERT = (
    "On a machine where you trust the file, convert it to plain tensors: NVIDIA's .pkl with rosinality's "
    "convert_weight.py (python convert_weight.py --repo stylegan2 --gen FILE.pkl), any other with "
    'torch.save({"g_ema": torch.load(FILE, "cpu", weights_only=False)["g_ema"]}, "generator.pt").'
)
_KNOWN = "Give a checkpoint of rosinality's stylegan2-pytorch (.pt, key g_ema) or its tensors as safetensors."


def save_model(state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write the new model folder ``folder``."""
    folder.mkdir(parents=True)
    write_weights(state, folder / WEIGHTS)


def write_weights(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a state dict as safetensors, the same bytes for the same tensors."""
    # Clones, since tensors that share memory are refused; one entry of metadata: several have no order.
    layout = torch.contiguous_format
    save_file(
        {name: t.detach().clone(memory_format=layout) for name, t in state.items()}, path, {"format": "pt"}
    )


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The generator's state dict in a ``.pt``, ``.pth`` or ``.safetensors`` file, complete.

    Discriminator, optimisers and arguments beside it are left out, as is ``latent_avg``: the mean latent is
    computed afresh. :class:`InputError` for files that are anything else or need more than
    ``weights_only=True``.
    """
    if path.suffix.lower() == ".safetensors":
        refuse_copy(path)
        try:
            return _completed(load_file(path), str(path))
        except SafetensorError as error:
            raise _unsound(path, error) from error
    if path.suffix.lower() not in (".pt", ".pth"):
        raise InputError(f"{path}: pickled weights may hold code and are refused.", CONVERT)
    found = _unpickled(path)
    state = found.get(AVERAGED, found) if isinstance(found, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path}: no state dict under the key {AVERAGED}.", _KNOWN)
    return _completed(dict(state), str(path))


def refuse_copy(path: Path) -> None:
    """:class:`InputError` where the safetensors file ``path`` carries a certificate."""
    try:
        with safe_open(path, "pt") as file:
            marked = CERTIFICATE_METADATA in (file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise _unsound(path, error) from error
    if marked:
        raise InputError(f"{path}: this is a copy (it carries a certificate), not a base model.")


def check_model(folder: Path) -> None:
    """:class:`InputError`, naming file and tensor, unless ``folder`` is a whole sound generator."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise InputError(f"{path}: missing.", _KNOWN)
    read_truncation(folder)
    stored = dict(_described(path))
    with safe_open(path, "pt") as file:
        _check_tensors(stored, file.get_tensor, str(path))


def load_model(folder: Path) -> Synthesis:
    """The network of a checked folder in float32, in memory of its own."""
    state = load_file(folder / WEIGHTS)
    with torch.device("meta"):
        network = Synthesis(Layout.of(state))
    network.load_state_dict({n: t.to(torch.float32, copy=True) for n, t in state.items()}, assign=True)
    return network.eval().requires_grad_(False)


def read_truncation(folder: Path) -> float:
    """psi of the truncation trick, from ``config.json``: 1 (none) where it does not say."""
    path = folder / CONFIG
    if not path.exists():
        return 1.0
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        psi = float(config.get("truncation", 1.0))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not readable ({error}).", 'Expected e.g. {"truncation": 0.7}.') from error
    if not 0 < psi <= 1:
        raise InputError(f"{path}: truncation {psi:g}.", "Give a number above 0 and at most 1 (none).")
    return psi


def _unpickled(path: Path) -> object:
    try:
        # Training checkpoints keep their arguments beside the weights: a namespace holds data, no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: not plain tensors, so it may hold code, and is refused.", CONVERT
        ) from error
    except Exception as error:  # bytes that are no pickle at all end anywhere in torch's reader
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: not a sound checkpoint ({reason}).") from error


def _completed(state: dict[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """With what the first versions of rosinality's code did not store: noise maps and blur kernels.

    That code draws the maps anew where a checkpoint has none; here once and for all, by a fixed seed.
    """
    wanted = _expected(_checked_layout(state, where))
    if not any(name.startswith("noises.") for name in state):
        rng = torch.Generator().manual_seed(0)
        maps = {n: torch.randn(t.shape, generator=rng) for n, t in wanted.items() if n.startswith("noises.")}
        state = {**state, **maps}
    kernels = {name for name in wanted if name.endswith(".kernel")} - state.keys()
    whole = {**state, **{name: Upsample().kernel for name in sorted(kernels)}}
    _check_tensors(whole, whole.__getitem__, where)
    return whole


def _check_tensors(
    stored: Mapping[str, torch.Tensor], values_of: Callable[[str], torch.Tensor], where: str
) -> None:
    """:class:`InputError` unless these are a generator's tensors, all finite; ``stored`` needs no values."""
    wanted = _expected(_checked_layout(stored, where))
    for name in sorted(wanted.keys() - stored.keys()):
        raise InputError(f"{where}: tensor {name} is missing.", _KNOWN)
    for name in sorted(stored.keys() - wanted.keys()):
        raise InputError(f"{where}: tensor {name} belongs to no StyleGAN2 generator of this layout.", _KNOWN)
    for name, tensor in wanted.items():
        if stored[name].shape != tensor.shape:
            found = tuple(stored[name].shape)
            raise InputError(f"{where}: tensor {name} has the shape {found}, not {tuple(tensor.shape)}.")
    kernel = Upsample().kernel
    for name in stored:
        values = values_of(name)
        if not bool(torch.isfinite(values).all()):
            raise InputError(f"{where}: tensor {name} holds NaN or infinite values.")
        if name.endswith(".kernel") and not torch.allclose(values.float(), kernel, atol=1e-3):
            raise InputError(f"{where}: tensor {name} is no [1, 3, 3, 1] blur: no other is known.")


def _checked_layout(state: Mapping[str, torch.Tensor], where: str) -> Layout:
    layout = Layout.of(state, where)
    if not SMALLEST <= layout.size <= LARGEST:
        raise InputError(
            f"{where}: images of {layout.size} pixels.", f"Sizes from {SMALLEST} to {LARGEST} are supported."
        )
    return layout


def _expected(layout: Layout) -> dict[str, torch.Tensor]:
    """Every tensor of the layout by name, without values."""
    with torch.device("meta"):
        return dict(Synthesis(layout).state_dict())


def _described(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors without values of a safetensors file, read off its header."""
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():
                entry = file.get_slice(name)
                kind = entry.get_dtype()
                if kind not in FLOATS:
                    raise InputError(f"{path}: tensor {name} is of type {kind}, not floating point.")
                yield name, torch.empty(entry.get_shape(), dtype=FLOATS[kind], device="meta")
    except (OSError, SafetensorError) as error:
        raise _unsound(path, error) from error


def _unsound(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: not a sound safetensors file ({error}).")
