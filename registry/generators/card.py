"""A model's card: what its network reads after which attack, and how many images a verdict needs.

    card = describe_card(home, model, recipients=10**6, alpha=1e-6)
    card["attacks"]["jpeg"]["images"], card["attacks"]["jpeg"]["images_careful"]

The figures of single images are measured at the end of a training, on images that it has not seen, and travel
in the network's package. **The rule for several images** is an extrapolation: scores of images of one copy
are added, and so, nearly, are their decades. n images give n times the middle image's decades in half of all
cases, and ``n m - sqrt(n) (m - w)`` in 19 of 20, with m the middle image's decades and w those of the weakest
5 %: as sums of independent numbers scatter. What it leaves out: images of one copy err in the same bits more
often than chance has it, and no number of images can say more than the key's length allows, ``k log10 2``
decades (less for collusion-resistant keys). So next to that ceiling more images are needed than it says, and
no number is given where a verdict lies beyond it.
"""

from __future__ import annotations

import json
import math
from typing import Any

from sqlalchemy.orm import Session

from registry.errors import InputError
from registry.generators import service
from registry.generators.models import Model
from registry.home import Home
from verifier.phi import BIASES

ALPHA = 1e-6
RECIPIENTS = 1_000_000
LEAST_DECADES = 0.01
"""Of the middle image: below, nothing is read."""


def describe_card(
    home: Home, session: Session, model: Model, *, recipients: int | None = None, alpha: float = ALPHA
) -> dict[str, Any]:
    """The card of a model's newest network, for a verdict among ``recipients`` keys.

    ``recipients`` are by default a million, or as many as have keys. :class:`StateError` where the model has
    no network, :class:`InputError` for numbers that cannot be meant.
    """
    from registry.keys import service as keys

    if not 0 < alpha < 1:
        raise InputError(f"--alpha {alpha}: give a number between 0 and 1.")
    if recipients is not None and recipients < 1:
        raise InputError(f"--recipients {recipients}: give a number from 1.")
    network = service.newest_network(session, model)
    constants = json.loads(home.storage.read(f"{service.network_name(network)}/network.json"))
    measured = constants.get("evidence", {})
    screening = keys.screening_account(session, model)
    among = recipients or max(RECIPIENTS, screening["keys_issued"])
    needed = decades_needed(among, alpha, screening["acceptance"])
    ceiling = ceiling_decades(constants["bits"], collusion_resistant=model.collusion_resistant)
    return {
        "schema": "hallmark/model-card/1",
        "model": model.label,
        "digest": model.digest_text,
        "adapter": model.adapter,
        "bits": constants["bits"],
        "collusion_resistant": model.collusion_resistant,
        "network": {"version": network.version, "digest": network.digest.hex()},
        "verdict": {
            "recipients": among,
            "alpha": alpha,
            "decades_needed": round(needed, 2),
            "decades_at_most": round(ceiling, 2),
        },
        "attacks": {
            name: {
                **seen,
                "images": images_needed(needed, seen["evidence_50"], seen["evidence_50"], ceiling),
                "images_careful": images_needed(needed, seen["evidence_50"], seen["evidence_5"], ceiling),
            }
            for name, seen in measured.get("attacks", {}).items()
        },
        "reliability": measured.get("reliability"),
        "screening": screening,
    }


def decades_needed(recipients: int, alpha: float, acceptance: float = 1.0) -> float:
    """Decades of evidence for a verdict at ``alpha`` among so many keys that passed the screening."""
    return math.log10(recipients) - math.log10(alpha) - math.log10(acceptance)


def ceiling_decades(bits: int, *, collusion_resistant: bool = False) -> float:
    """The most that a reading can say about a key: of biased ones, one with as many rare bits as usual."""
    if not collusion_resistant:
        return bits * math.log10(2)
    shares = [bias / 65536 for bias in BIASES]
    return -bits * sum(share * math.log10(share) for share in shares)


def images_needed(needed: float, middle: float, weak: float, ceiling: float = math.inf) -> int | None:
    """Images of one copy for a verdict of ``needed`` decades by the module's rule; ``None``: no number does.

    ``middle`` and ``weak`` are decades of one image; with both alike it is the number that does in half of
    all cases.
    """
    if middle < LEAST_DECADES or needed > ceiling:
        return None
    spread = max(0.0, middle - weak)
    root = (spread + math.sqrt(spread**2 + 4 * middle * needed)) / (2 * middle)
    return max(1, math.ceil(root**2 - 1e-9))


def as_text(card: dict[str, Any]) -> str:
    """The card for a terminal."""
    verdict, screening = card["verdict"], card["screening"]
    guarded = ", collusion-resistant" if card["collusion_resistant"] else ""
    lines = [
        f"{card['model']}, {card['bits']} bits{guarded}; network {card['network']['version']}",
        f"A verdict among {verdict['recipients']:,} recipients at {verdict['alpha']:g} takes "
        f"{verdict['decades_needed']:.1f} decades of evidence; "
        f"a key can give {verdict['decades_at_most']:.1f}.",
        "",
    ]
    if card["attacks"]:
        titles = ("bits right", "weakest 5 %", "middle", "usually", "safely")
        lines.append(f"{'images':<14}" + "".join(f"{title:>13}" for title in titles))
        lines += [
            f"{name:<14}{seen['bits_right']:>13.3f}{seen['evidence_5']:>13.1f}{seen['evidence_50']:>13.1f}"
            f"{seen['images'] or '-':>13}{seen['images_careful'] or '-':>13}"
            for name, seen in card["attacks"].items()
        ]
        lines += [
            "",
            "Decades of one image after an attack, then the images of one copy that a verdict needs,",
            "in half of all cases and in 19 of 20. It is an extrapolation: decades are added, as of",
            "independent images. Images of one copy that err in the same bits, and verdicts near the",
            "most that a key can give, need more.",
        ]
    else:
        lines.append("The network carries no measurements of its own; `registry model train` makes them.")
    lines += [
        "",
        f"Keys are screened against {screening['foreign_images']:,} foreign images "
        f"(q = {screening['q']}): of {screening['keys_issued']:,} keys issued "
        f"{screening['keys_redrawn']:,} were drawn again, {screening['candidates_redrawn']:,} times in all.",
    ]
    return "\n".join(lines)
