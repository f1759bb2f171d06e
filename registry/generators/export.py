"""`registry model export`: the attribution network with a card that says what it is and is not.

    export_model(home, "flowers", Path("flowers-network"))

Neither the model's weights nor its basis nor any key is exported.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from registry.generators import service as generators
from registry.generators.models import Model
from registry.home import Home
from registry.storage import atomic_folder

EXPORTED = ("network.onnx", "network.json")
CARD_NAME = "README.md"

_CARD = """\
# Attribution network of {label}

Reads the fingerprint of copies of the model `{label}` off an image: `network.onnx` maps pixels (uint8,
n x {size} x {size} x 3, RGB) to {bits} calibrated logits, the natural-log odds of each key bit being 1.
`network.json` holds the constants of pre-processing and pose search.

| | |
| --- | --- |
| model | {label}, adapter {adapter} |
| base weights | `{digest}` |
| fingerprint basis | `{basis}`, {bits} bits, strength {strength} |
| network version | {version} |
{evidence}
## What it can and cannot say

- The network alone identifies nobody. Whose copy made an image is decided by `verifier check`, which
  compares the logits with the issued keys and bounds the probability of a false accusation.
- Logits on images that no copy made are neither zero nor random; the bound does not assume that they are.
- A fingerprint that is carried as a tensor of its own (the PCA scheme on latents) can be stripped by
  whoever edits the copy's weights. Its absence proves nothing.
- Licences of single training photographs are not recorded here.
"""


def export_model(home: Home, reference: str, out: Path, organisation: int | None = None) -> Path:
    """Write the newest network of an organisation's model and its card into the new folder ``out``.

    :class:`StateError` where the model has no network, :class:`InputError` where ``out`` exists.
    """
    with home.database.read() as session:
        model = generators.get_model(session, reference, organisation)
        network = generators.newest_network(session, model)
    with atomic_folder(out) as folder, home.storage.local(generators.network_name(network)) as package:
        for name in EXPORTED:
            shutil.copyfile(package / name, folder / name)
        constants = json.loads((package / "network.json").read_text(encoding="utf-8"))
        (folder / CARD_NAME).write_text(_card(model, network.version, constants), encoding="utf-8")
    return out


def _card(model: Model, version: int, constants: dict[str, Any]) -> str:
    assert model.basis is not None, "a network is only ever installed for a basis"
    return _CARD.format(
        label=model.label,
        size=constants["size"],
        bits=model.basis_bits,
        adapter=model.adapter,
        digest=model.digest_text,
        basis=model.basis.hex(),
        strength=model.basis_strength,
        version=version,
        evidence=_evidence(constants.get("evidence", {})),
    )


def _evidence(figures: dict[str, Any]) -> str:
    """The table of attacks that the training measured; empty for a network that carries none."""
    attacks = figures.get("attacks", {})
    if not attacks:
        return ""
    rows = "".join(
        f"| {name} | {seen['bits_right']:.3f} | {seen['evidence_5']:.1f} | {seen['evidence_50']:.1f} |\n"
        for name, seen in attacks.items()
    )
    return (
        "\n## Evidence of one image\n\nMeasured after training on rendered images that it did not see: "
        "bits read right, and -log10 p at the 5th percentile and the median.\n\n"
        f"| attack | bits right | 5th percentile | median |\n| --- | --- | --- | --- |\n{rows}"
    )
