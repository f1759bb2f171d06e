"""What a study is to measure: points of the design space, read from the command line's options.

    points = Sweep(shifts="0,448", bits="64", psnrs="32,36").plan(adapter, components(generator.latent_shape))

Everything that cannot be meant is refused here, before anything is drawn or trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from registry.errors import InputError
from registry.fingerprints.basis import SCHEMES
from registry.generators.adapters import Adapter
from verifier.evidence import BITS_LIMIT

STEPS, IMAGES = 300, 200
BITS = (64, 256)
PSNRS = (32.0, 36.0)
"""Quality targets of a study that names neither strengths nor targets, in dB."""
SHIFTS = "first,middle,last"


@dataclass(frozen=True)
class Point:
    """One choice of the design variables; of ``strength`` and ``psnr`` exactly one is given.

    ``psnr`` is the target in dB between copy and base from which the strength is found.
    """

    scheme: str
    shift: int
    bits: int
    strength: float | None = None
    psnr: float | None = None

    def __str__(self) -> str:
        sigma = f"sigma {self.strength:g}" if self.strength is not None else f"{self.psnr:g} dB"
        return f"{self.scheme}, shift {self.shift}, k {self.bits}, {sigma}"


@dataclass(frozen=True)
class Sweep:
    """What a study is asked for, as typed: lists are separated by commas.

    ``shifts`` are numbers or first, middle, last; ``points`` are single points SCHEME:SHIFT:K:SIGMA (or a
    target such as 34dB for SIGMA), which then stand in place of the grid. Empty means the default.
    """

    schemes: str = ""
    shifts: str = ""
    bits: str = ""
    strengths: str = ""
    psnrs: str = ""
    points: Sequence[str] = ()
    steps: int = STEPS
    images: int = IMAGES

    def plan(self, adapter: Adapter, dimensions: int) -> list[Point]:
        """All points, each once; :class:`InputError` naming the option that cannot be met.

        ``dimensions`` is the number of principal components of the latent.
        """
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
            points = [_parse_point(text, dimensions) for text in self.points]
        else:
            points = self._grid(dimensions)
        for point in points:
            _check(point, adapter, dimensions, "--points" if self.points else "")
        return list(dict.fromkeys(points))

    def _grid(self, dimensions: int) -> list[Point]:
        if self.strengths and self.psnrs:
            raise InputError("--strengths and --psnrs exclude each other.", "Give one of them.")
        bits = _numbers("--bits", self.bits, int) if self.bits else default_bits(dimensions)
        strengths = _numbers("--strengths", self.strengths, float) if self.strengths else []
        psnrs = _numbers("--psnrs", self.psnrs, float) if self.psnrs else list(PSNRS)
        levels: list[dict[str, float]] = [{"strength": s} for s in strengths] or [{"psnr": p} for p in psnrs]
        return [
            Point(scheme, _shift("--shifts", shift, k, dimensions), k, **level)
            for scheme in _split("--schemes", self.schemes or "pca")
            for k in bits
            for shift in _split("--shifts", self.shifts or SHIFTS)
            for level in levels
        ]


def default_bits(dimensions: int) -> list[int]:
    """The paper's 64 and our 256 where they leave half of the latent to the content, else that half."""
    fitting = [k for k in BITS if 2 * k <= dimensions]
    return fitting or [max(8, dimensions // 16 * 8)]


TRAINABLE = ("pca", "pca-projected")
"""Schemes for which a study can make a basis of its own, where the adapter's weights allow them."""


def _schemes(adapter: Adapter) -> list[str]:
    return [scheme for scheme in adapter.schemes if scheme in TRAINABLE]


def _check(point: Point, adapter: Adapter, dimensions: int, option: str) -> None:
    if point.scheme not in _schemes(adapter):
        raise InputError(
            f"{option or '--schemes'} {point.scheme}: {_why_not(point.scheme, adapter)}.",
            f"For {adapter.name}: {', '.join(_schemes(adapter))}.",
        )
    if point.bits % 8 or not 8 <= point.bits <= BITS_LIMIT:
        raise InputError(f"{option or '--bits'} {point.bits}: give multiples of 8 from 8 to {BITS_LIMIT}.")
    if point.bits > dimensions:
        raise InputError(
            f"{option or '--bits'} {point.bits}: the latent has {dimensions} dimensions only.",
            f"Give at most {dimensions // 8 * 8}.",
        )
    if not 0 <= point.shift <= dimensions - point.bits:
        raise InputError(
            f"{option or '--shifts'} {point.shift}: with {point.bits} bits it leaves the latent's "
            f"{dimensions} dimensions.",
            f"The last {point.bits} components begin at {dimensions - point.bits}, which `last` stands for.",
        )
    if point.strength is not None and not 0 < point.strength < 1e6:
        raise InputError(f"{option or '--strengths'} {point.strength:g}: give positive numbers.")
    if point.psnr is not None and not 10 <= point.psnr <= 80:
        raise InputError(f"{option or '--psnrs'} {point.psnr:g}: give targets from 10 to 80 dB.")


def _why_not(scheme: str, adapter: Adapter) -> str:
    if scheme not in SCHEMES:
        return "no such scheme"
    if scheme not in adapter.schemes:
        return f"the weights of {adapter.name} do not allow it"
    return "a study cannot train it; an installed basis is measured beside the points as it is"


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
    scheme, *rest = text.split(":")
    if len(rest) != 3:
        raise InputError(f"--points {text}: expected SCHEME:SHIFT:K:SIGMA.", "For example pca:448:64:0.5.")
    bits = int(_number("--points", rest[1], int))
    level = rest[2].removesuffix("dB")
    value = float(_number("--points", level, float))
    given = {"strength": value} if level == rest[2] else {"psnr": value}
    return Point(scheme, _shift("--points", rest[0], bits, dimensions), bits, **given)
