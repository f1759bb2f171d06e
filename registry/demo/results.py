"""What the demonstration found: one result per check, totals, and whether the run counts as a success.

totals = tally(results)
failures(results)      # sentences; empty when every goal is met
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Outcome = Literal["right", "wrong", "none"]

CLEAN_GOAL = 0.99
ATTACK_GOAL = 0.90
SET_GOAL = 0.99


@dataclass(frozen=True)
class Truth:
    """Who really made an image. All ``None`` where no copy of this registry did."""

    recipient: str | None = None
    copy: str | None = None


@dataclass(frozen=True)
class Result:
    """One finding of the verifier beside the truth. ``images`` are paths relative to the report.

    ``recipient``, ``copies`` and ``log10_p_family`` are empty where nothing was attributed.
    """

    images: tuple[str, ...]
    attack: str
    truth: Truth
    verdict: str
    recipient: str | None
    copies: tuple[str, ...]
    log10_p_family: float | None

    @property
    def outcome(self) -> Outcome:
        """``right`` only if exactly the true copy was named, ``wrong`` if any other one was."""
        if self.verdict != "attributed":
            return "none"
        return "right" if self.copies == (self.truth.copy,) else "wrong"

    def record(self) -> dict[str, Any]:
        """The entry in ``report.json``: ``image`` for a single image, ``images`` for a set."""
        which = {"image": self.images[0]} if len(self.images) == 1 else {"images": list(self.images)}
        return {
            **which,
            "attack": self.attack,
            "true_recipient": self.truth.recipient,
            "verdict": self.verdict,
            "recipient": self.recipient,
            "log10_p_family": self.log10_p_family,
        }


@dataclass
class Tally:
    """How many findings named the right copy, a wrong one, or none."""

    right: int = 0
    wrong: int = 0
    none: int = 0

    @property
    def total(self) -> int:
        """All findings counted."""
        return self.right + self.wrong + self.none

    @property
    def rate(self) -> float:
        """The share that named the right copy."""
        return self.right / self.total if self.total else 0.0

    def record(self) -> dict[str, int]:
        """The entry in ``report.json``."""
        return asdict(self)


def tally(results: Iterable[Result]) -> Tally:
    """Count outcomes."""
    counted = Tally()
    for result in results:
        setattr(counted, result.outcome, getattr(counted, result.outcome) + 1)
    return counted


@dataclass(frozen=True)
class Report:
    """All results of a run: single images and sets of the copies' images, and foreign ones alike."""

    singles: list[Result]
    sets: list[Result]
    foreign: list[Result]
    foreign_sets: list[Result]

    def attacks(self) -> list[str]:
        """The attacks in the order they were applied."""
        return list(dict.fromkeys(result.attack for result in self.singles))

    def sources(self) -> list[str]:
        """Where the foreign images come from."""
        return list(dict.fromkeys(result.attack for result in self.foreign))

    def failures(self) -> list[str]:
        """One sentence for every goal missed."""
        missed = []
        everything = self.singles + self.sets + self.foreign + self.foreign_sets
        if wrong := tally(everything).wrong:
            missed.append(f"{wrong} findings name a copy that did not make the images")
        for attack in self.attacks():
            goal = CLEAN_GOAL if attack == "clean" else ATTACK_GOAL
            rate = tally(r for r in self.singles if r.attack == attack).rate
            if rate < goal:
                missed.append(f"{attack}: {rate:.1%} of single images attributed, {goal:.0%} wanted")
        if (rate := tally(self.sets).rate) < SET_GOAL:
            missed.append(f"{rate:.1%} of sets attributed, {SET_GOAL:.0%} wanted")
        return missed

    def record(self) -> dict[str, Any]:
        """The content of ``report.json``."""
        return {
            "schema": "hallmark/demo/1",
            "results": [result.record() for result in self.singles + self.foreign],
            "sets": [result.record() for result in self.sets + self.foreign_sets],
            "totals": {
                "images": tally(self.singles).record(),
                "sets": tally(self.sets).record(),
                "foreign": tally(self.foreign).record(),
                "foreign_sets": tally(self.foreign_sets).record(),
                "attacks": {
                    attack: {
                        "images": tally(r for r in self.singles if r.attack == attack).record(),
                        "sets": tally(r for r in self.sets if r.attack == attack).record(),
                    }
                    for attack in self.attacks()
                },
            },
            "failures": self.failures(),
        }
