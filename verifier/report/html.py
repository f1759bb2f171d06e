"""A report as one HTML page that loads nothing and runs nothing.

    page = render_html(envelope)                          # bytes, the same for the same envelope

Its policy forbids scripts, fonts and requests of any kind; thumbnails are part of the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch
from html import escape
from importlib import resources

from verifier.display import printable
from verifier.dsse import Envelope
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
from verifier.report.container import SCRIPT_ID, serialised
from verifier.report.figures import Figure, bit_figure
from verifier.report.signatures import signature_block
from verifier.report.statement import Report, decode

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render_html(envelope: Envelope) -> bytes:
    """The page of a report; :class:`InputError` where the envelope holds none."""
    report, blocks = decode(envelope.content)
    return "\n".join(_page(report, [*blocks, *signature_block(envelope, report)], envelope)).encode()


def _page(report: Report, blocks: list[Block], envelope: Envelope) -> Iterator[str]:
    style = resources.files("verifier.report").joinpath("report.css").read_text("utf-8")
    yield "<!doctype html>"
    yield '<html lang="en">'
    yield "<head>"
    yield '<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="generator" content="Hallmark">'
    yield f"<title>{_text(report.title)}</title>"
    yield f"<style>\n{style}</style>"
    yield "</head>"
    yield "<body>"
    yield "<main>"
    if not envelope.signatures:
        yield '<p class="draft">Draft: nobody signed this report.</p>'
    for block in blocks:
        yield from _html(block, report)
    yield "</main>"
    yield f'<script type="application/json" id="{SCRIPT_ID}">{serialised(envelope).decode()}</script>'
    yield "</body>"
    yield "</html>\n"


@singledispatch
def _html(block: Block, report: Report) -> Iterator[str]:  # noqa: ARG001
    raise TypeError(f"no layout for {type(block).__name__}")


@_html.register
def _(block: Heading, report: Report) -> Iterator[str]:  # noqa: ARG001
    yield f"<h{block.level}>{_text(block.text)}</h{block.level}>"


@_html.register
def _(block: Paragraph, report: Report) -> Iterator[str]:  # noqa: ARG001
    yield f"<p>{_text(block.text)}</p>"


@_html.register
def _(block: Verdict, report: Report) -> Iterator[str]:  # noqa: ARG001
    yield f'<section class="verdict {block.tone}">'
    yield f'<p class="label">{_text(block.label)}</p>'
    yield f'<p class="said">{_text(block.text)}</p>'
    yield f"<p>{_text(block.detail)}</p>"
    yield "</section>"


@_html.register
def _(block: Note, report: Report) -> Iterator[str]:  # noqa: ARG001
    yield f'<p class="note {block.tone}">{_text(block.text)}</p>'


@_html.register
def _(block: Facts, report: Report) -> Iterator[str]:  # noqa: ARG001
    yield from _facts(block.rows)


@_html.register
def _(block: Bullets, report: Report) -> Iterator[str]:  # noqa: ARG001
    yield "<ul>" if not block.code else '<ul class="commands">'
    for item in block.items:
        yield f"<li>{f'<code>{_text(item)}</code>' if block.code else _text(item)}</li>"
    yield "</ul>"


@_html.register
def _(block: Gallery, report: Report) -> Iterator[str]:
    yield '<div class="gallery">'
    for picture in block.pictures:
        yield "<figure>"
        if (content := shown(picture, report)) is not None:
            yield f'<img src="data:image/jpeg;base64,{escape(content)}" alt="{_text(picture.caption)}">'
        else:
            yield '<div class="missing">no picture</div>'
        yield f"<figcaption>{_text(picture.caption)}</figcaption>"
        yield from _facts(picture.facts)
        yield "</figure>"
    yield "</div>"


@_html.register
def _(block: Bits, report: Report) -> Iterator[str]:  # noqa: ARG001
    yield '<figure class="bits">'
    yield from _svg(bit_figure(block), block.caption)
    yield f"<figcaption>{_text(block.caption)}</figcaption>"
    yield "</figure>"


def shown(picture: Picture, report: Report) -> str | None:
    """The thumbnail (base64) that a picture shows, if the report has it."""
    exhibits = report.exhibits
    if not 0 <= picture.exhibit < len(exhibits):
        return None
    thumbnails = exhibits[picture.exhibit].thumbnails
    return thumbnails[picture.image] if 0 <= picture.image < len(thumbnails) else None


def _facts(rows: list[Fact]) -> Iterator[str]:
    yield "<dl>"
    for row in rows:
        value = f"<code>{_text(row.value)}</code>" if row.code else _text(row.value)
        yield f"<div><dt>{_text(row.label)}</dt><dd>{value}</dd></div>"
    yield "</dl>"


def _svg(figure: Figure, caption: str) -> Iterator[str]:
    yield (
        f'<svg viewBox="0 0 {figure.width:g} {figure.height:g}" role="img" '
        f'aria-label="{_text(caption)}" preserveAspectRatio="none">'
    )
    for y in figure.lines:
        yield f'<line class="axis" x1="0" x2="{figure.width:g}" y1="{y:g}" y2="{y:g}"/>'
    for bar in figure.bars:
        name = "agrees" if bar.agrees else "differs"
        place = f'x="{bar.x:g}" y="{bar.y:g}" width="{bar.width:g}" height="{bar.height:g}"'
        yield f'<rect class="{name}" {place}/>'
    yield "</svg>"


def _text(text: str) -> str:
    return escape(printable(text))
