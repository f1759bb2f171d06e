"""The plots of a study's report, as inline SVG: no library, no script.

panel(study, measures(study)[0], ROWS[0])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from registry.attribution.study.results import CLEAN, MIX, NEEDED, Result, Study, pareto_front

COLOURS = 8
SHAPES = ("circle", "square", "triangle", "diamond")
USED = "used"
WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 26, 38
TICKS = 5
LINE = 10
"""Least distance of two labels, one above the other."""


@dataclass(frozen=True)
class Measure:
    """A measure of quality; ``less`` says that smaller values are better, which turns its axis round."""

    name: str
    title: str
    less: bool = False

    def of(self, result: Result) -> float:
        """The figure of one point."""
        return float(result.quality[self.name])


@dataclass(frozen=True)
class Row:
    """A figure of accuracy or evidence; ``upper`` is drawn as the end of a line above the mark."""

    name: str
    title: str
    share: bool = True
    upper: str | None = None


ROWS = (
    Row("every_bit", "attribution accuracy (every bit right)"),
    Row("bits_right", "bit accuracy"),
    Row("identified", "named among a million keys"),
    Row("evidence_5", "evidence, decades: 5th percentile to median", share=False, upper="evidence_50"),
)


def measures(study: Study) -> list[Measure]:
    """The measures that this study has."""
    structure = "ms_ssim" if "ms_ssim" in study.results[0].quality else "ssim"
    return [
        Measure("psnr_db", "PSNR, dB"),
        Measure(structure, "MS-SSIM" if structure == "ms_ssim" else "SSIM"),
        Measure("perceptual", "perceptual distance (less is better)", less=True),
        Measure("frechet", "Frechet distance to the base's images (less is better)", less=True),
    ]


def overview(study: Study) -> str:
    """The large plot: evidence after the attacks against PSNR, points numbered."""
    row = Row("evidence_5", "evidence after the attacks, 5th percentile, decades", share=False)
    return _plot(study, measures(study)[0], row, (MIX,), width=920, height=400, numbered=True)


def panel(study: Study, measure: Measure, row: Row) -> str:
    """One of the small plots: before and after the attacks."""
    return _plot(study, measure, row, (CLEAN, MIX))


def legend(study: Study) -> str:
    """What colours and shapes mean."""
    entries = [
        (_mark(SHAPES[0], 8, 8, f"var(--s{i % COLOURS})", True), name)
        for i, name in enumerate(_series(study))
    ]
    entries += [
        (_mark(SHAPES[i % len(SHAPES)], 8, 8, "var(--soft)", True), f"k = {k}")
        for i, k in enumerate(_lengths(study))
    ]
    if any(result.registered for result in study.results):
        entries.append((_mark(USED, 8, 8, "var(--soft)", True), "basis and network in use"))
    spans = "".join(
        f'<span><svg viewBox="0 0 16 16">{mark}</svg>{escape(words)}</span>' for mark, words in entries
    )
    return f'<div class="legend">{spans}</div>'


def _series(study: Study) -> list[str]:
    """What colours stand for: every choice of directions."""
    points = {r.point.directions: r.point for r in study.results if not r.registered}
    return sorted(points, key=lambda name: (points[name].scheme, points[name].shift))


def _lengths(study: Study) -> list[int]:
    return sorted({result.point.bits for result in study.results if not result.registered})


@dataclass(frozen=True)
class _Scale:
    """Maps values of [low, high] to pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """About TICKS round values."""
        raw = (self.high - self.low) / TICKS
        power = 10 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _span(values: Sequence[float], margin: float = 0.08) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * margin or abs(high) * margin or 1.0
    return low - room, high + room


def _plot(
    study: Study,
    measure: Measure,
    row: Row,
    conditions: Sequence[str],
    width: int = WIDTH,
    height: int = HEIGHT,
    numbered: bool = False,
) -> str:
    low, high = _span([measure.of(result) for result in study.results])
    ends = (width - RIGHT, LEFT) if measure.less else (LEFT, width - RIGHT)
    x = _Scale(low, high, *ends)
    y = _Scale(*_vertical(study, row, conditions), height - BOTTOM, TOP)
    parts = [_frame(x, y, measure, row, width, height)]
    if not row.share and y.low < NEEDED < y.high:
        line = y(NEEDED)
        parts.append(f'<path class="needed" d="M{LEFT} {line:.1f}H{width - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{line + 4:.1f}" text-anchor="end">{NEEDED:.0f}</text>')
    parts.append(_front_line(study, measure, row, x, y))
    for index, result in enumerate(study.results):
        for condition in conditions:
            parts.append(_point(study, index, result, condition, measure, row, x, y))
        if numbered:
            parts.append(
                _number(study, index, result, x(measure.of(result)), y(_value(result, MIX, row.name)))
            )
    label = f"{row.title} against {measure.title}"
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _value(result: Result, condition: str, name: str) -> float:
    return float(result.attacks[condition][name])


def _vertical(study: Study, row: Row, conditions: Sequence[str]) -> tuple[float, float]:
    if row.share:
        return (0.45, 1.03) if row.name == "bits_right" else (-0.04, 1.05)
    names = [row.name, *([row.upper] if row.upper else [])]
    values = [_value(result, c, name) for result in study.results for c in conditions for name in names]
    return _span([0.0, *values], 0.05)


def _frame(x: _Scale, y: _Scale, measure: Measure, row: Row, width: int, height: int) -> str:
    floor, right = height - BOTTOM, width - RIGHT
    parts = [f'<text x="{LEFT - 40}" y="14">{escape(row.title)}</text>']
    parts.append(
        f'<text x="{(LEFT + right) / 2}" y="{height - 6}" text-anchor="middle">{escape(measure.title)}</text>'
    )
    for value in y.ticks():
        at = y(value)
        if not row.share and value != NEEDED and abs(at - y(NEEDED)) < LINE:
            continue  # the label of the line that one image has to reach stands there
        text = f"{value:.0%}" if row.share else f"{value:g}"
        parts.append(f'<path class="tick" d="M{LEFT} {at:.1f}H{right}"/>')
        parts.append(f'<text class="soft" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
    for value in x.ticks():
        at, text = x(value), f"{round(value, 9):g}"
        parts.append(f'<path class="tick" d="M{at:.1f} {floor}v4"/>')
        parts.append(f'<text class="soft" x="{at:.1f}" y="{floor + 16}" text-anchor="middle">{text}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {floor}H{right}"/>')
    return "".join(parts)


def _front_line(study: Study, measure: Measure, row: Row, x: _Scale, y: _Scale) -> str:
    swept = [result for result in study.results if not result.registered]
    sign = -1 if measure.less else 1
    values = [(sign * measure.of(result), _value(result, MIX, row.name)) for result in swept]
    corners = sorted({values[i] for i in pareto_front(values)})
    if len(corners) < 2:
        return ""
    # From corner to corner: down at the left one's place, as everything to its left is beaten by it.
    path = f"M{x(sign * corners[0][0]):.1f} {y(corners[0][1]):.1f}"
    path += "".join(f"V{y(b):.1f}H{x(sign * a):.1f}" for a, b in corners[1:])
    return f'<path class="front" d="{path}"/>'


def _point(
    study: Study,
    index: int,
    result: Result,
    condition: str,
    measure: Measure,
    row: Row,
    x: _Scale,
    y: _Scale,
) -> str:
    at, value = x(measure.of(result)), _value(result, condition, row.name)
    colour, shape = _look(study, result)
    when = "before the attacks" if condition == CLEAN else "after the attacks"
    shown = f"{value:.1%}" if row.share else f"{value:.1f}"
    name = "in use" if result.registered else f"point {index + 1}"
    title = f"{name}: {result}; {shown} {when}, {measure.title.partition(' (')[0]} {measure.of(result):.4g}"
    line = ""
    if row.upper is not None:
        top = y(_value(result, condition, row.upper))
        dash = ' stroke-dasharray="2 2"' if condition == CLEAN else ""
        line = f'<path d="M{at:.1f} {y(value):.1f}V{top:.1f}" stroke="{colour}"{dash}/>'
    mark = _mark(shape, at, y(value), colour, filled=condition == MIX)
    return f'<g data-point="{index + 1}"><title>{escape(title)}</title>{line}{mark}</g>'


def _look(study: Study, result: Result) -> tuple[str, str]:
    if result.registered:
        return "var(--soft)", USED
    series = _series(study).index(result.point.directions)
    length = _lengths(study).index(result.point.bits)
    return f"var(--s{series % COLOURS})", SHAPES[length % len(SHAPES)]


def _number(study: Study, index: int, result: Result, at: float, height: float) -> str:
    if result.registered:
        return f'<text class="soft" x="{at + 8:.1f}" y="{height + 4:.1f}">in use</text>'
    ring = (
        f'<circle class="taken" cx="{at:.1f}" cy="{height:.1f}" r="10"/>'
        if index == study.recommendation.index
        else ""
    )
    shift = 13 if ring else 8
    return f'{ring}<text class="number" x="{at + shift:.1f}" y="{height + 4:.1f}">{index + 1}</text>'


def _mark(shape: str, x: float, y: float, colour: str, filled: bool) -> str:
    look = f'fill="{colour if filled else "var(--card)"}" stroke="{colour}" stroke-width="1.6"'
    drawn: dict[str, Callable[[], str]] = {
        "circle": lambda: f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.4" {look}/>',
        "square": lambda: f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" {look}/>',
        "triangle": lambda: f'<path d="M{x:.1f} {y - 5.2:.1f}l5 8.8h-10z" {look}/>',
        "diamond": lambda: f'<path d="M{x:.1f} {y - 5.6:.1f}l5.6 5.6l-5.6 5.6l-5.6-5.6z" {look}/>',
        USED: lambda: f'<path d="M{x:.1f} {y + 5.2:.1f}l5-8.8h-10z" {look}/>',
    }
    return drawn[shape]()
