"""Suspect weights: any file or folder that may be a copy, its tensors found under whatever names.

    suspect = Suspect.open(Path("leak.ckpt"))               # or a folder; safetensors, .pt, .ckpt, .bin
    found = suspect.match(weight_file(template_path))       # which of its parts is the template's file
    found.read("decoder.conv_in.bias")                      # float64, by the template's name

A suspect is a list of parts: one for each weight file, all shards of one model together, and one for each
dictionary of tensors inside a checkpoint (``g_ema``, ``state_dict`` ...). The template's names are looked
up in each part as they are, with a prefix more or less, in the names of the original latent-diffusion
code (``first_stage_model.decoder.up.3.block.0 ...``) and of older diffusers. Tensors whose
names tell nothing are assigned by shape and closeness. All of this looks at weights alone.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from registry.errors import InputError
from registry.storage import folder_files

Floats = NDArray[np.float64]
Shape = tuple[int, ...]

SAFETENSORS = ".safetensors"
CHECKPOINTS = frozenset({".bin", ".ckpt", ".pt", ".pth"})
CONVERT = (
    "Load it where you trust it and save its tensors: safetensors.torch.save_file(model.state_dict(), path)."
)

FAR = 0.5
"""Distance from which on names are doubted: that of a copy is some hundredths, of fine-tuned weights less
than this, of other weights near 1."""

_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.[a-z]+$)")
_PREFIXES_TRIED = 4
_DEPTH = 6  # of dictionaries within dictionaries


@dataclass(frozen=True)
class Part:
    """Tensors by name that belong together; ``label`` names the file for people."""

    label: str
    shapes: Mapping[str, Shape]
    load: Callable[[str], torch.Tensor]

    def read(self, name: str) -> Floats:
        """A tensor in double precision; :class:`InputError` where it holds NaN or infinite values."""
        tensor = self.load(name).detach().to(torch.float64)
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{self.label}: tensor {name} holds NaN or infinite values.",
                "No generator works with such weights; look for an undamaged copy of the file.",
            )
        return np.asarray(tensor.contiguous().numpy())


@dataclass(frozen=True)
class Match:
    """A part of the suspect as one file of a template: its ``names`` by the template's."""

    part: Part
    template: Part
    names: Mapping[str, str]

    def read(self, name: str) -> Floats:
        """The suspect's tensor in the place of the template's ``name``, in the template's shape."""
        return self.part.read(self.names[name]).reshape(self.template.shapes[name])

    @cached_property
    def distance(self) -> float:
        """Sine of the angle between the tensors found and the template's: 0 alike, 1 strangers.

        What all tensors were multiplied by does not count.
        """
        product = own = other = 0.0
        for name in self.names:
            found, base = self.read(name).ravel(), self.template.read(name).ravel()
            product += float(found @ base)
            own += float(found @ found)
            other += float(base @ base)
        cosine = product / math.sqrt(own * other) if own and other else 0.0
        return math.sqrt(max(0.0, 1 - min(cosine, 1.0) ** 2)) if cosine > 0 else 1.0


class Suspect:
    """The parts of a suspect file or folder."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts

    @classmethod
    def open(cls, path: Path) -> Suspect:
        """:class:`InputError` where ``path`` holds no weights, damaged ones, or pickled code."""
        if not path.exists():
            raise InputError(f"{path}: no such file or folder.", "Give the suspect weights.")
        if path.is_file():
            return cls(list(_parts(path, path.name)))
        files = [
            name for name in folder_files(path) if Path(name).suffix.lower() in {SAFETENSORS, *CHECKPOINTS}
        ]
        if not files:
            kinds = ", ".join(sorted({SAFETENSORS, *CHECKPOINTS}))
            raise InputError(
                f"{path}: no weight files in this folder ({kinds}).", "Give the suspect weights."
            )
        return cls(_join_shards([(name, part) for name in files for part in _parts(path / name, name)]))

    def match(self, template: Part) -> Match | None:
        """The part that most likely is the file ``template``, by the share of tensors found; else None."""
        best: tuple[float, bool, Match] | None = None
        for part in self.parts:
            match = Match(part, template, _by_name(template.shapes, part.shapes))
            match = replace(match, names={**match.names, **_by_content(match)})
            if match.names and match.distance > FAR:
                # Names may have been swapped, or belong to another model: whichever is closer.
                renamed = replace(match, names=_by_content(replace(match, names={})))
                match = renamed if renamed.distance < match.distance else match
            # Of equals the one that is called like the template's file, then the first.
            rank = (len(match.names) / len(template.shapes), part.label.endswith(template.label))
            if match.names and (best is None or rank > best[:2]):
                best = (*rank, match)
        return None if best is None else best[2]


def _parts(path: Path, label: str) -> Iterator[Part]:
    with path.open("rb") as file:
        head = file.read(16)
    if path.suffix.lower() == SAFETENSORS or _is_safetensors(head):
        yield weight_file(path, label)
    elif head.startswith((b"PK\x03\x04", b"\x80")):
        yield from _checkpoint(path, label)
    else:
        raise InputError(
            f"{path}: neither safetensors nor a PyTorch checkpoint.", "Give the suspect weights themselves."
        )


def _is_safetensors(head: bytes) -> bool:
    """The header's length, then a JSON object."""
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 1 << 27


def weight_file(path: Path, label: str | None = None) -> Part:
    """The safetensors file at ``path``; :class:`InputError` where it is damaged."""
    try:
        file: Any = safe_open(path, "pt")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a sound safetensors file ({error}).", "Get the whole file.") from None

    def load(name: str) -> torch.Tensor:
        tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    return Part(label or path.name, shapes, load)


def _checkpoint(path: Path, label: str) -> Iterator[Part]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"{path}: holds pickled code, or is damaged; it is not opened.", CONVERT) from None
    except Exception as error:  # bytes that are no pickle at all end anywhere in torch's reader
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path}: not a sound PyTorch checkpoint ({reason}).", "Get the whole file."
        ) from error
    yield from _dictionaries(content, label, 0)


def _dictionaries(value: Any, label: str, depth: int) -> Iterator[Part]:
    """A part for every dictionary of tensors within ``value``."""
    if not isinstance(value, Mapping) or depth > _DEPTH:
        return
    tensors = {str(name): entry for name, entry in value.items() if isinstance(entry, torch.Tensor)}
    if tensors:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        yield Part(label, shapes, tensors.__getitem__)
    for name, entry in value.items():
        yield from _dictionaries(entry, f"{label}:{name}", depth + 1)


def _join_shards(named: Sequence[tuple[str, Part]]) -> list[Part]:
    """Parts of a folder, those of the numbered shards of one model as one."""
    joined: dict[str, list[Part]] = {}
    for name, part in named:
        whole = _SHARD.sub("", name)
        joined.setdefault(f"{whole}{part.label.removeprefix(name)}", []).append(part)
    return [parts[0] if len(parts) == 1 else _join(label, parts) for label, parts in joined.items()]


def _join(label: str, parts: Sequence[Part]) -> Part:
    place = {name: part for part in parts for name in part.shapes}
    shapes = {name: part.shapes[name] for name, part in place.items()}
    return Part(label, shapes, lambda name: place[name].load(name))


def _by_name(shapes: Mapping[str, Shape], found: Mapping[str, Shape]) -> dict[str, str]:
    """The suspect's names by the template's: the spelling under which most tensors have their shapes."""
    best: dict[str, str] = {}
    for spell in _spellings(shapes, found):
        names = {
            name: spelled
            for name, shape in shapes.items()
            if (spelled := spell(name)) in found and _same(shape, found[spelled])
        }
        if len(names) > len(best):
            best = names
    return best


def _spellings(shapes: Mapping[str, Shape], found: Mapping[str, Shape]) -> Iterator[Callable[[str], str]]:
    """Ways in which the template's names may have been written."""
    blocks = _decoder_blocks(shapes)
    for rename in (str, older_diffusers, lambda name: latent_diffusion(name, blocks)):
        for prefix in ("", *_prefixes([rename(name) for name in shapes], found)):
            yield lambda name, rename=rename, prefix=prefix: prefix + rename(name)  # type: ignore[misc]
    for prefix in _prefixes(list(found), shapes):  # a part of the model alone: its prefix is missing
        yield lambda name, prefix=prefix: name.removeprefix(prefix) if name.startswith(prefix) else ""  # type: ignore[misc]


def _prefixes(names: Sequence[str], longer: Mapping[str, Shape]) -> list[str]:
    """What stands before ``names`` in the names ``longer``, the commonest first."""
    known = set(names)
    counts: Counter[str] = Counter()
    for name in longer:
        for dot in (i + 1 for i, letter in enumerate(name) if letter == "."):
            if name[dot:] in known:
                counts[name[:dot]] += 1
    return [prefix for prefix, _ in counts.most_common(_PREFIXES_TRIED)]


def _same(shape: Shape, found: Shape) -> bool:
    """Whether both hold the same numbers: a linear layer may be stored as a 1 x 1 convolution."""
    return tuple(n for n in shape if n != 1) == tuple(n for n in found if n != 1)


_OLDER = (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn"))
_ORIGINAL = (
    (".conv_shortcut.", ".nin_shortcut."),
    ("mid_block.attentions.0.", "mid.attn_1."),
    ("mid_block.resnets.0.", "mid.block_1."),
    ("mid_block.resnets.1.", "mid.block_2."),
    (".downsamplers.0.", ".downsample."),
    (".upsamplers.0.", ".upsample."),
    (".resnets.", ".block."),
    (".conv_norm_out.", ".norm_out."),
)
_ORIGINAL_ATTENTION = (
    (".group_norm.", ".norm."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    (".to_out.0.", ".proj_out."),
)


def older_diffusers(name: str) -> str:
    """The name of an autoencoder's tensor as diffusers wrote it before version 0.18."""
    return _replaced(name, _OLDER)


def latent_diffusion(name: str, blocks: int) -> str:
    """The name of an autoencoder's tensor in CompVis's latent-diffusion code, whose decoder has so many
    blocks and counts them from the end."""
    name = _replaced(name, _ORIGINAL)
    if ".attn_1." in name:
        name = _replaced(name, _ORIGINAL_ATTENTION)
    name = re.sub(r"\bdown_blocks\.", "down.", name)
    return re.sub(r"\bup_blocks\.(\d+)", lambda found: f"up.{blocks - 1 - int(found[1])}", name)


def _replaced(name: str, table: Sequence[tuple[str, str]]) -> str:
    for old, new in table:
        name = name.replace(old, new)
    return name


def _decoder_blocks(names: Mapping[str, Shape]) -> int:
    found = (re.search(r"\bup_blocks\.(\d+)", name) for name in names)
    return 1 + max((int(match[1]) for match in found if match), default=0)


def _by_content(match: Match) -> dict[str, str]:
    """Names for the template's tensors that have none yet: each the closest unused tensor of its shape,
    the closest pair first. What is further from a tensor than twice its length is not taken for it."""
    template, part = match.template, match.part
    missing = [name for name in template.shapes if name not in match.names]
    unused = set(part.shapes) - set(match.names.values())
    pairs = []
    for shape in {template.shapes[name] for name in missing}:
        candidates = sorted(name for name in unused if _same(shape, part.shapes[name]))
        wanted = [name for name in missing if template.shapes[name] == shape]
        if not candidates:
            continue
        values = np.stack([_sketch(part.read(name)) for name in candidates])
        for name in wanted:
            base = _sketch(template.read(name))
            size = float(np.linalg.norm(base))
            if not size:  # the template's carrier holds zeros: only its shape can tell
                pairs += [(2.0, name, candidates[0])] if len(candidates) == len(wanted) == 1 else []
                continue
            distances = np.linalg.norm(values - base, axis=1) / size
            pairs += [
                (d, name, found) for d, found in zip(distances.tolist(), candidates, strict=True) if d < 2
            ]
    names: dict[str, str] = {}
    for _, name, candidate in sorted(pairs):
        if name not in names and candidate in unused:
            names[name] = candidate
            unused.remove(candidate)
    return names


_SKETCH = 4096


def _sketch(tensor: Floats) -> Floats:
    """Some thousand elements, the same of every tensor of a size: enough to tell tensors apart."""
    flat = tensor.reshape(-1)
    return np.asarray(flat[:: max(1, len(flat) // _SKETCH)])
