"""A report as a PDF (the extra `report`): the same blocks as the page, on A4, the signed payload attached.

    content = render_pdf(envelope)                        # InputError without fpdf2

Fonts are DejaVu's, reduced to Latin, Greek and Cyrillic (``fonts/``); other characters are written as
escapes, so that nothing of a name is lost. The same envelope gives the same file under the same version of
fpdf2.
"""

from __future__ import annotations

import io
import warnings
from datetime import datetime
from functools import singledispatch
from importlib import resources
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from verifier.display import printable
from verifier.dsse import Envelope
from verifier.errors import InputError
from verifier.report.blocks import (
    Bits,
    Block,
    Bullets,
    Fact,
    Facts,
    Gallery,
    Heading,
    Note,
    Paragraph,
    Picture,
    Verdict,
)
from verifier.report.container import ATTACHMENT, serialised
from verifier.report.figures import bit_figure
from verifier.report.html import shown
from verifier.report.signatures import signature_block
from verifier.report.statement import Report, decode
from verifier.report.thumbnails import decoded

if TYPE_CHECKING:
    from fpdf import FPDF

_FONTS = {"": "DejaVuSansCondensed.ttf", "B": "DejaVuSansCondensed-Bold.ttf"}
_MONO = "DejaVuSansMono.ttf"
_MARGIN, _FOOT = 18.0, 20.0  # mm
_LABEL = 32.0  # width of the column of labels
_PICTURE = 42.0  # side of the square that holds a thumbnail
_INK, _SOFT, _LINE, _ACCENT, _WARN = (27, 36, 48), (85, 96, 110), (213, 219, 227), (31, 58, 104), (138, 90, 0)
_AGREES, _DIFFERS = (31, 58, 104), (194, 87, 26)
_FILLS = {"plain": (248, 249, 251), "strong": (241, 245, 251), "warning": (255, 248, 232)}
_EDGES = {"plain": (119, 130, 143), "strong": _ACCENT, "warning": _WARN}


def render_pdf(envelope: Envelope) -> bytes:
    """The PDF of a report; :class:`InputError` where the envelope holds none, or fpdf2 is not installed."""
    if find_spec("fpdf") is None:
        raise InputError(
            "a PDF needs fpdf2.", "Run `pip install 'hallmark[report]'`, or name an .html file with --out."
        )
    report, blocks = decode(envelope.content)
    sheet = _Sheet(report, signed=bool(envelope.signatures))
    for block in [*blocks, *signature_block(envelope, report)]:
        _draw(block, sheet)
    return sheet.finish(serialised(envelope))


class _Sheet:
    """The PDF being written; lengths in millimetres."""

    def __init__(self, report: Report, signed: bool) -> None:
        from fpdf import FPDF

        foot = f"{report.title}, {report.created_at}" if signed else f"DRAFT, not signed: {report.title}"
        write = self._write_foot

        class Document(FPDF):
            def footer(self) -> None:
                write(self, foot)

        self.report = report
        pdf = self.pdf = Document(format="A4")
        pdf.set_creation_date(_time(report.created_at))
        pdf.set_lang("en")
        pdf.set_title(printable(report.title))
        pdf.set_creator("Hallmark")
        pdf.set_margins(_MARGIN, _MARGIN)
        pdf.set_auto_page_break(True, _FOOT)
        fonts = resources.files("verifier.report").joinpath("fonts")
        with resources.as_file(fonts) as folder:
            for style, name in _FONTS.items():
                pdf.add_font("text", style, folder / name)
            pdf.add_font("mono", "", folder / _MONO)
        fonts_by_name = {"text": pdf.fonts["text"], "mono": pdf.fonts["mono"]}
        self._known = {name: set(getattr(font, "cmap", ())) for name, font in fonts_by_name.items()}

        pdf.add_page()

    @property
    def width(self) -> float:
        return float(self.pdf.epw)

    def _write_foot(self, pdf: FPDF, text: str) -> None:
        pdf.set_y(-14)
        self.font(8, color=_SOFT)
        pdf.cell(self.width - 20, 5, self.plain(text)[:110])
        pdf.cell(20, 5, f"{pdf.page_no()} / {{nb}}", align="R")

    def font(self, size: float, *, bold: bool = False, mono: bool = False, color: Any = _INK) -> None:
        self.pdf.set_font("mono" if mono else "text", "B" if bold else "", size)
        self.pdf.set_text_color(*color)

    def plain(self, text: str) -> str:
        """The text in characters that the present font has; others as escapes."""
        known = self._known[self.pdf.font_family]
        return "".join(c if ord(c) in known else c.encode("unicode_escape").decode() for c in printable(text))

    def text(self, text: str, *, width: float = 0, line: float = 5.2, anywhere: bool = False) -> None:
        """A paragraph at the present place; ``anywhere`` breaks it between any two characters."""
        from fpdf.enums import WrapMode

        self.pdf.multi_cell(
            width or self.pdf.epw,
            line,
            self.plain(text),
            align="L",
            new_x="LEFT",
            new_y="NEXT",
            wrapmode=WrapMode.CHAR if anywhere else WrapMode.WORD,
        )

    def height(self, text: str, width: float, line: float, *, anywhere: bool = False) -> float:
        """What :meth:`text` would take."""
        from fpdf.enums import WrapMode

        lines: Any = self.pdf.multi_cell(
            width,
            line,
            self.plain(text),
            align="L",
            dry_run=True,
            output="LINES",
            wrapmode=WrapMode.CHAR if anywhere else WrapMode.WORD,
        )
        return line * float(len(lines))

    def room(self, height: float) -> None:
        """Start a page unless so much fits on this one."""
        if self.pdf.will_page_break(min(height, self.pdf.eph)):
            self.pdf.add_page()

    def space(self, height: float) -> None:
        """Go down, within the page."""
        self.pdf.set_y(self.pdf.get_y() + height)

    def fact(self, row: Fact, *, label: float = _LABEL, left: float = 0, width: float = 0) -> None:
        """A label and its value, with a line below."""
        pdf, left, width = self.pdf, left or self.pdf.l_margin, width or self.pdf.epw
        small = width < self.width
        size, line = (7.0, 3.6) if small else (9.0, 4.8)
        self.font(size - 0.6 if row.code else size, mono=row.code)
        self.room(self.height(row.value, width - label, line, anywhere=row.code) + 2)
        top = pdf.get_y()
        self.font(size, color=_SOFT)
        pdf.set_xy(left, top)
        self.text(row.label, width=label, line=line)
        below = pdf.get_y()
        pdf.set_xy(left + label, top)
        self.font(size - 0.6 if row.code else size, mono=row.code)
        self.text(row.value, width=width - label, line=line, anywhere=row.code)
        below = max(below, pdf.get_y()) + 0.6
        pdf.set_draw_color(*_LINE)
        pdf.set_line_width(0.1)
        pdf.line(left, below, left + width, below)
        pdf.set_xy(left, below + 0.6)

    def finish(self, payload: bytes) -> bytes:
        """The file, with the payload attached, uncompressed so that it is found without reading the file."""
        self.pdf.embed_file(
            bytes=payload,
            basename=ATTACHMENT,
            mime_type="application/json",
            modification_date=_time(self.report.created_at),
            compress=False,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bytes(self.pdf.output())


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"the report was made at {text!r}, which is no time.", "It is damaged.") from None


@singledispatch
def _draw(block: Block, sheet: _Sheet) -> None:  # noqa: ARG001
    raise TypeError(f"no layout for {type(block).__name__}")


@_draw.register
def _(block: Heading, sheet: _Sheet) -> None:
    size, before = {1: (19.0, 0.0), 2: (13.0, 7.0), 3: (10.5, 4.0)}[block.level]
    sheet.room(before + 26)
    sheet.space(before)
    sheet.font(size, bold=True, color=_ACCENT if block.level == 2 else _INK)
    sheet.text(block.text, line=size * 0.46)
    if block.level == 2:
        y = sheet.pdf.get_y() + 1
        sheet.pdf.set_draw_color(*_ACCENT)
        sheet.pdf.set_line_width(0.5)
        sheet.pdf.line(sheet.pdf.l_margin, y, sheet.pdf.l_margin + sheet.width, y)
    sheet.space(3.0 if block.level < 3 else 1.0)


@_draw.register
def _(block: Paragraph, sheet: _Sheet) -> None:
    sheet.font(10)
    sheet.text(block.text)
    sheet.space(2)


@_draw.register
def _(block: Verdict, sheet: _Sheet) -> None:
    parts = (
        (block.label.upper(), 8.0, True, 4.4),
        (block.text, 13.0, True, 6.2),
        (block.detail, 10.0, False, 5.2),
    )
    _box(sheet, block.tone, parts)


@_draw.register
def _(block: Note, sheet: _Sheet) -> None:
    _box(sheet, block.tone, ((block.text, 9.0, False, 4.8),))


def _box(sheet: _Sheet, tone: str, parts: tuple[tuple[str, float, bool, float], ...]) -> None:
    """Lines of text in a tinted box with a coloured edge; on one page where it fits on one."""
    pdf, pad, width = sheet.pdf, 4.0, sheet.width - 10.0
    height = 2 * pad - 1
    for text, size, bold, line in parts:
        sheet.font(size, bold=bold)
        height += sheet.height(text, width, line) + 1
    sheet.room(height + 3)
    top = pdf.get_y()
    if height < pdf.eph:
        pdf.set_fill_color(*_FILLS[tone])
        pdf.rect(pdf.l_margin, top, sheet.width, height, style="F")
        pdf.set_fill_color(*_EDGES[tone])
        pdf.rect(pdf.l_margin, top, 1.4, height, style="F")
    pdf.set_y(top + pad)
    for text, size, bold, line in parts:
        pdf.set_x(pdf.l_margin + 6)
        sheet.font(size, bold=bold, color=_SOFT if size < 9 else _INK)
        sheet.text(text, width=width, line=line)
        sheet.space(1)
    if height < pdf.eph:
        pdf.set_y(top + height)
    sheet.space(3)


@_draw.register
def _(block: Facts, sheet: _Sheet) -> None:
    for row in block.rows:
        sheet.fact(row)
    sheet.space(2)


@_draw.register
def _(block: Bullets, sheet: _Sheet) -> None:
    for item in block.items:
        sheet.font(8.5 if block.code else 10, mono=block.code)
        sheet.room(10)
        if not block.code:
            sheet.pdf.cell(5, 5.2, "•")
        sheet.text(item, width=sheet.width - (0 if block.code else 5))
        sheet.pdf.set_x(sheet.pdf.l_margin)
        sheet.space(1.4)


@_draw.register
def _(block: Gallery, sheet: _Sheet) -> None:
    for picture in block.pictures:
        _picture(picture, sheet)


def _picture(picture: Picture, sheet: _Sheet) -> None:
    """The thumbnail on the left, its caption and facts on the right."""
    pdf = sheet.pdf
    sheet.room(_PICTURE + 4)
    top, page, left = pdf.get_y(), pdf.page_no(), pdf.l_margin
    content = shown(picture, sheet.report)
    pdf.set_draw_color(*_LINE)
    pdf.set_line_width(0.2)
    if content is None:
        pdf.set_fill_color(*_FILLS["plain"])
        pdf.rect(left, top, _PICTURE, _PICTURE, style="DF")
        pdf.set_xy(left, top + _PICTURE / 2 - 2)
        sheet.font(8, color=_SOFT)
        pdf.cell(_PICTURE, 4, "no picture", align="C")
    else:
        pdf.image(
            io.BytesIO(decoded(content)),
            left,
            top,
            _PICTURE,
            _PICTURE,
            keep_aspect_ratio=True,
            alt_text=sheet.plain(picture.caption),
        )
    right, width = left + _PICTURE + 5, sheet.width - _PICTURE - 5
    pdf.set_xy(right, top)
    sheet.font(9.5, bold=True)
    sheet.text(picture.caption, width=width, line=4.8, anywhere=len(picture.caption) > 60)
    sheet.space(1)
    for row in picture.facts:
        sheet.fact(row, label=22, left=right, width=width)
    bottom = pdf.get_y() if pdf.page_no() > page else max(pdf.get_y(), top + _PICTURE)
    pdf.set_xy(left, bottom + 4)


@_draw.register
def _(block: Bits, sheet: _Sheet) -> None:
    pdf, figure = sheet.pdf, bit_figure(block)
    scale = sheet.width / figure.width
    sheet.font(8.5)
    sheet.room(figure.height * scale + sheet.height(block.caption, sheet.width, 4.4) + 6)
    left, top = pdf.l_margin, pdf.get_y() + 2
    pdf.set_draw_color(*_LINE)
    pdf.set_line_width(0.15)
    for y in figure.lines:
        pdf.line(left, top + y * scale, left + sheet.width, top + y * scale)
    for bar in figure.bars:
        pdf.set_fill_color(*(_AGREES if bar.agrees else _DIFFERS))
        pdf.rect(left + bar.x * scale, top + bar.y * scale, bar.width * scale, bar.height * scale, style="F")
    pdf.set_y(top + figure.height * scale + 2)
    sheet.font(8.5, color=_SOFT)
    sheet.text(block.caption, line=4.4)
    sheet.space(2)
