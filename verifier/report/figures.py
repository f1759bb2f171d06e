"""The bit-agreement plot as rectangles, which both layouts draw."""

from __future__ import annotations

from dataclasses import dataclass

from verifier.report.blocks import Bits

_PER_ROW = 64
_STEP, _BAR = 10.0, 7.0
_HALF = 24.0  # height of a row above and below its axis
_GAP = 10.0
_LEAST = 1.0  # a bit that was hardly read is still seen


@dataclass(frozen=True)
class Bar:
    """One bit: above its axis if it agrees with the key, below if not."""

    x: float
    y: float
    width: float
    height: float
    agrees: bool


@dataclass(frozen=True)
class Figure:
    """Bars and the axes (y) of their rows, in units of which the figure is ``width`` x ``height``."""

    width: float
    height: float
    bars: list[Bar]
    lines: list[float]


def bit_figure(bits: Bits) -> Figure:
    """Rows of 64 bits, in the key's order."""
    rows = -(-len(bits.agrees) // _PER_ROW)
    lines = [row * (2 * _HALF + _GAP) + _HALF for row in range(rows)]
    bars = []
    for number, (strength, agrees) in enumerate(zip(bits.strengths, bits.agrees, strict=True)):
        row, column = divmod(number, _PER_ROW)
        height = round(max(_LEAST, strength * _HALF), 2)
        top = lines[row] - height if agrees else lines[row]
        bars.append(Bar(column * _STEP, round(top, 2), _BAR, height, bool(agrees)))
    return Figure(_PER_ROW * _STEP - (_STEP - _BAR), rows * (2 * _HALF + _GAP) - _GAP, bars, lines)
