"""`registry sample`: images from a copy or base model, as its recipient would make them.

    paths = sample_to_folder(Path("ada"), 16, seed=1, out=Path("images"))

It needs the copy's folder alone: no registry, no key.
"""

from __future__ import annotations

import json
from pathlib import Path

from registry.errors import InputError
from registry.storage import atomic_folder
from verifier.inspect import MANIFEST

ADAPTER_MARKS = {"model_index.json": "latent-diffusion", "generator.safetensors": "stylegan2"}
"""Files by which the adapter of a folder without ``hallmark.json`` is known."""
ZOO_MARK = "zoo.json"
"""The description of a small generator, which names its adapter (:mod:`registry.generators.small`)."""
FIRST_STAGES = ("AutoencoderKL", "VQModel")
"""Classes by whose ``config.json`` a bare first stage is known; its own library is not loaded for that."""


def sample_to_folder(copy: Path, count: int, seed: int, out: Path) -> list[Path]:
    """Write ``count`` PNG files into the new folder ``out``; :class:`InputError` for an unusable copy."""
    from registry.generators.adapters import get_adapter

    adapter = get_adapter(adapter_of(copy))
    adapter.check(copy)
    with atomic_folder(out) as folder:
        images = adapter.load(copy).sample(count, seed)
        names = [f"{number:04d}.png" for number in range(len(images))]
        for name, image in zip(names, images, strict=True):
            image.save(folder / name)
    return [out / name for name in names]


def adapter_of(folder: Path) -> str:
    """The adapter's name, from the copy's own statement or from the files of a base model."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder.", "Give the folder that `registry download` wrote.")
    statement = folder / MANIFEST
    if statement.is_file():
        try:
            return str(json.loads(statement.read_text(encoding="utf-8"))["adapter"])
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{statement}: unreadable.", "Download the copy again.") from None
    for mark, adapter in ADAPTER_MARKS.items():
        if (folder / mark).is_file():
            return adapter
    if (folder / ZOO_MARK).is_file():
        return _zoo_family(folder / ZOO_MARK)
    if _is_first_stage(folder / "config.json"):
        return "latent-diffusion"
    raise InputError(
        f"{folder}: neither a copy ({MANIFEST}) nor a known model folder ({', '.join(ADAPTER_MARKS)})."
    )


def _zoo_family(description: Path) -> str:
    try:
        return str(json.loads(description.read_text(encoding="utf-8"))["family"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{description}: unreadable.", "Train or fetch the model again.") from None


def _is_first_stage(config: Path) -> bool:
    """Whether a bare autoencoder lies beside ``config``, which then names its class."""
    try:
        kind = json.loads(config.read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return kind in FIRST_STAGES
