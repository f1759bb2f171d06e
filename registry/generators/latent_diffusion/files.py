"""What lies where in a diffusers folder: components, weight files and what their headers say.

stage = first_stage(folder)                            # "vae", "vqvae", or "" for a bare first stage
weights = find_weights(folder / stage)                 # one file or shards, of which variant
weights.tensors()["decoder.conv_in.bias"].shape        # read off the header
geometry(folder).latent_shape                          # (4, 64, 64)
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, VQModel
from safetensors import SafetensorError, safe_open

from registry.errors import InputError
from registry.generators.adapters import PICKLES
from registry.generators.hallmark_vae import FingerprintedAutoencoderKL, FingerprintedVQModel

FIRST_STAGES = ("vqvae", "vae", "movq")
DENOISERS = ("unet", "transformer", "prior")
PIPELINE = "model_index.json"
CONFIG = "config.json"
STEM = "diffusion_pytorch_model"
TRANSFORMERS_STEM = "model"
WEIGHTS = f"{STEM}.safetensors"
CONVERT = 'Convert with diffusers: DiffusionPipeline.from_pretrained("old").save_pretrained("new").'
DEFAULT_SIZE = 256
"""Side in pixels of a bare first stage's images where its configuration names none."""

KINDS: dict[str, type] = {
    kind.__name__: kind for kind in (AutoencoderKL, VQModel, FingerprintedAutoencoderKL, FingerprintedVQModel)
}
"""Classes of first stages by the name that a ``config.json`` gives."""

# Attention blocks of first stages that were saved before diffusers 0.15 use other names.
_OLD_ATTENTION = re.compile(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)$")
_NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class Entry:
    """One tensor as a header describes it; ``name`` as it stands in ``file``."""

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Weights:
    """The safetensors files of one component that diffusers loads, and the index that lists shards."""

    folder: Path
    files: tuple[str, ...]
    variant: str | None = None
    index: str | None = None

    def tensors(self) -> dict[str, Entry]:
        """Every tensor by the name of its parameter; :class:`InputError` for an unsound file."""
        entries = {}
        for file in self.files:
            with opened(self.folder / file) as tensors:
                for name in tensors.keys():
                    part = tensors.get_slice(name)
                    shape = tuple(part.get_shape())
                    entries[parameter_name(name)] = Entry(file, name, part.get_dtype(), shape)
        return entries

    def values(self) -> Iterator[tuple[Path, str, torch.Tensor]]:
        """Every tensor with its file, one after the other."""
        for file in self.files:
            with opened(self.folder / file) as tensors:
                for name in tensors.keys():
                    yield self.folder / file, name, tensors.get_tensor(name)


class opened:  # noqa: N801  (a context manager, used like `open`)
    """``safe_open`` whose errors name the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Any:
        try:
            self._file = safe_open(self._path, "pt")
        except (SafetensorError, OSError) as error:
            raise InputError(f"{self._path}: not a sound safetensors file ({error}).", CONVERT) from error
        return self._file.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self._file.__exit__(*raised)


def parameter_name(tensor: str) -> str:
    """The parameter that diffusers fills from the tensor of this name."""
    return _OLD_ATTENTION.sub(lambda old: f"{old[1]}.{_NEW_ATTENTION[old[2]]}.{old[3]}", tensor)


def find_weights(folder: Path, stem: str = STEM) -> Weights:
    """The weight files of the component in ``folder``: full precision where there are several variants.

    :class:`InputError` names what is missing.
    """
    for variant in (None, *_variants(folder, stem)):
        for index in _index_names(stem, variant):
            if (folder / index).is_file():
                return Weights(folder, _shards(folder / index), variant, index)
        name = f"{stem}.safetensors" if variant is None else f"{stem}.{variant}.safetensors"
        if (folder / name).is_file():
            return Weights(folder, (name,), variant)
    missing = f"{folder / f'{stem}.safetensors'}: missing"
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix.lower() in PICKLES)
    if pickles:
        raise InputError(f"{missing}; {pickles[0]} is pickled, may hold code and is refused.", CONVERT)
    raise InputError(f"{missing}.", f"Weights must be safetensors. {CONVERT}")


def _index_names(stem: str, variant: str | None) -> tuple[str, ...]:
    if variant is None:
        return (f"{stem}.safetensors.index.json",)
    # The second form is what diffusers wrote before it agreed with transformers on the first.
    return f"{stem}.safetensors.index.{variant}.json", f"{stem}.safetensors.{variant}.index.json"


def _variants(folder: Path, stem: str) -> list[str]:
    pattern = re.compile(
        rf"{stem}\.(?:safetensors\.index\.)?(?!safetensors)(\w+?)(?:-\d+-of-\d+)?"
        r"(?:\.safetensors|\.json)|" + rf"{stem}\.safetensors\.(?!index)(\w+)\.index\.json"
    )
    found = (pattern.fullmatch(path.name) for path in folder.glob(f"{stem}.*"))
    return sorted({match[1] or match[2] for match in found if match} - {"index"})


def _shards(index: Path) -> tuple[str, ...]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise InputError(f"{index}: no weight_map.")
    shards = sorted({str(name) for name in names.values()})
    for shard in shards:
        if Path(shard).name != shard:
            raise InputError(f"{index}: {shard} is no file beside it.")
        if not (index.parent / shard).is_file():
            raise InputError(f"{index.parent / shard}: missing, though {index.name} lists it.")
    return tuple(shards)


def first_stage(folder: Path) -> str:
    """The subfolder of the first stage, empty where ``folder`` itself is one; :class:`InputError` if none."""
    for name in (*FIRST_STAGES, ""):
        if (folder / name / CONFIG).is_file():
            kind = read_json(folder / name / CONFIG).get("_class_name")
            if kind not in KINDS:
                raise InputError(
                    f"{folder / name}: a first stage of class {kind}; AutoencoderKL or VQModel is needed."
                )
            return name
    raise InputError(
        f"{folder}: no first stage found (vqvae/config.json, vae/config.json or config.json).",
        "Give a diffusers folder.",
    )


def denoiser(folder: Path) -> str | None:
    """The subfolder of the diffusion model, if ``folder`` has one."""
    if first_stage(folder) == "":
        return None
    return next((name for name in DENOISERS if (folder / name / CONFIG).is_file()), None)


def components(folder: Path) -> list[str]:
    """Subfolders that the pipeline is made of, first stage and diffusion model included."""
    named: set[str] = set()
    if (folder / PIPELINE).is_file():
        for name, entry in read_json(folder / PIPELINE).items():
            if isinstance(entry, list) and entry and entry[0] is not None:
                named.add(name)
    named |= {name for name in (first_stage(folder), denoiser(folder)) if name}
    return sorted(name for name in named if (folder / name).is_dir())


@dataclass(frozen=True)
class Geometry:
    """How latents and images of a model correspond."""

    channels: int
    factor: int
    side: int
    """Side of the latent."""

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.side * self.factor

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of one latent."""
        return self.channels, self.side, self.side


def geometry(folder: Path) -> Geometry:
    """Latent and image size of the model in ``folder``; :class:`InputError` names a figure that cannot be.

    The diffusion model's ``sample_size`` (in latent units) decides; where there is none, the first
    stage's own (in pixels), which many folders leave at a value that nobody ever used.
    """
    path = folder / first_stage(folder) / CONFIG
    config = settings(path)
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    channels = config.get("vq_embed_dim") or config["latent_channels"]
    name = denoiser(folder)
    side = _side(folder / name / CONFIG) if name is not None else None
    if side is None:
        size = _side(path) or DEFAULT_SIZE
        if size % factor:
            raise InputError(f"{path}: sample_size {size} is no multiple of the model's factor {factor}.")
        side = size // factor
    return Geometry(channels, factor, side)


def _side(path: Path) -> int | None:
    value = read_json(path).get("sample_size")
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{path}: sample_size {value!r}; one side of a square is needed.")
    return value


def settings(path: Path) -> dict[str, Any]:
    """A first stage's ``config.json`` with the defaults of its class filled in."""
    config = read_json(path)
    parameters = inspect.signature(vars(KINDS[config["_class_name"]])["__init__"]).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    return {**defaults, **config}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; :class:`InputError` where it is missing or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: missing.", "Give a whole diffusers folder.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}).") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object.")
    return value


def first_line(error: Exception) -> str:
    """The first line of what a library says of its failure."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def at(stage: str, name: str) -> str:
    """POSIX path of a file of a component within the model folder."""
    return f"{stage}/{name}" if stage else name
