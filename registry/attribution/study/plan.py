"""What a study is to measure: points of the design space, read from the command line's options.

    points = Sweep(shifts="0,448", bits="64", psnrs="32,36").plan(offer)

Everything that cannot be meant is refused here, before anything is drawn or trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from registry.errors import InputError
from registry.fingerprints.basis import SCHEMES
from verifier.evidence import BITS_LIMIT

STEPS, IMAGES = 300, 200
BITS = (64, 256)
PSNRS = (32.0, 36.0)
"""Quality targets of a study that names neither strengths nor targets, in dB."""
SHIFTS = "first,middle,last"
LEARNED = "learned"
USUAL = ("pca", LEARNED)
"""Schemes of a study that names none, where the model allows them."""


@dataclass(frozen=True)
class Offer:
    """What a model's weights allow: ``schemes`` of the adapter, principal components of the latent
    (``dimensions``), and numbers in the weights that learned directions can touch (``learnable``)."""

    adapter: str
    schemes: Sequence[str]
    dimensions: int
    learnable: int = 0


@dataclass(frozen=True)
class Point:
    """One choice of the design variables; of ``strength`` and ``psnr`` exactly one is given.

    ``psnr`` is the target in dB between copy and base from which the strength is found. Learned directions
    have no shift, which is then 0.
    """

    scheme: str
    shift: int
    bits: int
    strength: float | None = None
    psnr: float | None = None

    def __str__(self) -> str:
        sigma = f"sigma {self.strength:g}" if self.strength is not None else f"{self.psnr:g} dB"
        return f"{self.directions}, k {self.bits}, {sigma}"

    @property
    def learned(self) -> bool:
        """Whether the directions are learned, not principal components."""
        return self.scheme == LEARNED

    @property
    def directions(self) -> str:
        """Scheme and shift."""
        return self.scheme if self.learned else f"{self.scheme}, shift {self.shift}"


@dataclass(frozen=True)
class Sweep:
    """What a study is asked for, as typed: lists are separated by commas.

    ``shifts`` are numbers or first, middle, last, and concern principal components only; ``points`` are
    single points SCHEME:SHIFT:K:SIGMA or learned:K:SIGMA (or a target such as 34dB for SIGMA), which then
    stand in place of the grid. Empty means the default.
    """

    schemes: str = ""
    shifts: str = ""
    bits: str = ""
    strengths: str = ""
    psnrs: str = ""
    points: Sequence[str] = ()
    steps: int = STEPS
    images: int = IMAGES

    def plan(self, offer: Offer) -> list[Point]:
        """All points, each once; :class:`InputError` naming the option that cannot be met."""
        grid = {
            "--schemes": self.schemes,
            "--shifts": self.shifts,
            "--bits": self.bits,
            "--strengths": self.strengths,
            "--psnrs": self.psnrs,
        }
        if self.points:
            named = [option for option, text in grid.items() if text]
            if named:
                raise InputError(f"--points and {named[0]} exclude each other.", "Give one of them.")
            points = [_parse_point(text, offer.dimensions) for text in self.points]
        else:
            points = self._grid(offer)
        for point in points:
            _check(point, offer, "--points" if self.points else "")
        return list(dict.fromkeys(points))

    def _grid(self, offer: Offer) -> list[Point]:
        if self.strengths and self.psnrs:
            raise InputError("--strengths and --psnrs exclude each other.", "Give one of them.")
        schemes = _split("--schemes", self.schemes) if self.schemes else _usual(offer)
        if self.shifts and set(schemes) == {LEARNED}:
            raise InputError("--shifts has no meaning with --schemes learned.", "Leave one of them out.")
        strengths = _numbers("--strengths", self.strengths, float) if self.strengths else []
        psnrs = _numbers("--psnrs", self.psnrs, float) if self.psnrs else list(PSNRS)
        levels: list[dict[str, float]] = [{"strength": s} for s in strengths] or [{"psnr": p} for p in psnrs]
        return [
            Point(scheme, shift, k, **level)
            for scheme in schemes
            for k in self._lengths(scheme, offer)
            for shift in self._shifts(scheme, k, offer.dimensions)
            for level in levels
        ]

    def _lengths(self, scheme: str, offer: Offer) -> list[int]:
        if self.bits:
            return _numbers("--bits", self.bits, int)
        room = offer.learnable if scheme == LEARNED else offer.dimensions
        return [k for k in default_bits(offer.dimensions) if k <= room]

    def _shifts(self, scheme: str, bits: int, dimensions: int) -> list[int]:
        if scheme == LEARNED:
            return [0]
        shifts = _split("--shifts", self.shifts or SHIFTS)
        return [_shift("--shifts", shift, bits, dimensions) for shift in shifts]


def _usual(offer: Offer) -> list[str]:
    """Schemes of a study that names none."""
    return [scheme for scheme in USUAL if scheme in offer.schemes]


def default_bits(dimensions: int) -> list[int]:
    """The paper's 64 and our 256 where they leave half of the latent to the content, else that half."""
    fitting = [k for k in BITS if 2 * k <= dimensions]
    return fitting or [max(8, dimensions // 16 * 8)]


def _check(point: Point, offer: Offer, option: str) -> None:
    dimensions = offer.dimensions
    if point.scheme not in offer.schemes:
        known = point.scheme in SCHEMES
        reason = f"the weights of this {offer.adapter} model do not allow it" if known else "no such scheme"
        raise InputError(
            f"{option or '--schemes'} {point.scheme}: {reason}.", f"Possible: {', '.join(offer.schemes)}."
        )
    if point.bits % 8 or not 8 <= point.bits <= BITS_LIMIT:
        raise InputError(f"{option or '--bits'} {point.bits}: give multiples of 8 from 8 to {BITS_LIMIT}.")
    if point.learned and point.bits > offer.learnable:
        raise InputError(
            f"{option or '--bits'} {point.bits}: the weights have {offer.learnable} numbers only that "
            "learned directions can touch.",
            f"Give at most {offer.learnable // 8 * 8}.",
        )
    if not point.learned and point.bits > dimensions:
        raise InputError(
            f"{option or '--bits'} {point.bits}: the latent has {dimensions} dimensions only.",
            f"Give at most {dimensions // 8 * 8}.",
        )
    if not point.learned and not 0 <= point.shift <= dimensions - point.bits:
        raise InputError(
            f"{option or '--shifts'} {point.shift}: with {point.bits} bits it leaves the latent's "
            f"{dimensions} dimensions.",
            f"The last {point.bits} components begin at {dimensions - point.bits}, which `last` stands for.",
        )
    if point.strength is not None and not 0 < point.strength < 1e6:
        raise InputError(f"{option or '--strengths'} {point.strength:g}: give positive numbers.")
    if point.psnr is not None and not 10 <= point.psnr <= 80:
        raise InputError(f"{option or '--psnrs'} {point.psnr:g}: give targets from 10 to 80 dB.")


def _split(option: str, text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise InputError(f"{option} {text!r}: give values separated by commas.")
    return parts


def _numbers(option: str, text: str, kind: type) -> list[Any]:
    return [_number(option, part, kind) for part in _split(option, text)]


def _number(option: str, text: str, kind: type) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{option} {text}: not a number.", "Give numbers separated by commas.")
    return value


def _shift(option: str, text: str, bits: int, dimensions: int) -> int:
    last = dimensions - bits
    words = {"first": 0, "middle": last // 2, "last": last}
    return max(words[text], 0) if text in words else int(_number(option, text, int))


def _parse_point(text: str, dimensions: int) -> Point:
    parts = text.split(":")
    if len(parts) != (3 if parts[0] == LEARNED else 4):
        raise InputError(
            f"--points {text}: expected SCHEME:SHIFT:K:SIGMA, or learned:K:SIGMA.",
            "For example pca:448:64:0.5 or learned:64:34dB.",
        )
    scheme, *shift, length, level = parts
    bits = int(_number("--points", length, int))
    number = level.removesuffix("dB")
    value = float(_number("--points", number, float))
    given = {"strength": value} if number == level else {"psnr": value}
    return Point(scheme, _shift("--points", shift[0], bits, dimensions) if shift else 0, bits, **given)
