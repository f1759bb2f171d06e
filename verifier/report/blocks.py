"""The blocks of a report's page: what both layouts show, in this order and with these words.

blocks = [Heading("What was found"), Paragraph("..."), Facts([Fact("copy", "copy-5f0c...", code=True)])]
parse_blocks([block.document() for block in blocks]) == blocks
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from verifier.typed import load

Tone = Literal["plain", "strong", "warning"]


class Block:
    """One of the kinds below; ``kind`` is its name in JSON."""

    kind: ClassVar[str]

    def document(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class Heading(Block):
    """A heading: level 1 is the title, 2 a part, 3 within it."""

    text: str
    level: Literal[1, 2, 3] = 2
    kind: ClassVar[str] = "heading"


@dataclass(frozen=True)
class Paragraph(Block):
    """Running text."""

    text: str
    kind: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Verdict(Block):
    """What was found, set apart: the sentence, and the sentence on its probability."""

    label: str
    text: str
    detail: str
    tone: Tone = "plain"
    kind: ClassVar[str] = "verdict"


@dataclass(frozen=True)
class Note(Block):
    """A remark set apart."""

    text: str
    tone: Tone = "plain"
    kind: ClassVar[str] = "note"


@dataclass(frozen=True)
class Fact:
    """A label and its value; ``code`` for digests and ids."""

    label: str
    value: str
    code: bool = False


@dataclass(frozen=True)
class Facts(Block):
    """Labels and values."""

    rows: list[Fact]
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Bullets(Block):
    """A list; ``code`` for commands."""

    items: list[str]
    code: bool = False
    kind: ClassVar[str] = "bullets"


@dataclass(frozen=True)
class Picture:
    """An image of an exhibit (both counted from 0): its caption, facts below it."""

    exhibit: int
    image: int
    caption: str
    facts: list[Fact] = field(default_factory=list)


@dataclass(frozen=True)
class Gallery(Block):
    """Thumbnails side by side."""

    pictures: list[Picture]
    kind: ClassVar[str] = "gallery"


@dataclass(frozen=True)
class Bits(Block):
    """Bit by bit: how strongly each was read (0 to 1), and whether it is the key's (1) or not (0)."""

    caption: str
    strengths: list[float]
    agrees: list[Literal[0, 1]]
    kind: ClassVar[str] = "bits"


_KINDS: dict[str, type[Block]] = {
    kind.kind: kind for kind in (Heading, Paragraph, Verdict, Note, Facts, Bullets, Gallery, Bits)
}


def parse_blocks(value: Any) -> list[Block]:
    """Blocks from JSON; ``ValueError`` for anything else."""
    if not isinstance(value, list):
        raise ValueError("its page is not a list")
    return [_parse(item, f"block {number}") for number, item in enumerate(value, 1)]


def _parse(value: Any, where: str) -> Block:
    kind = _KINDS.get(str(value.get("kind"))) if isinstance(value, dict) else None
    if kind is None:
        raise ValueError(f"{where} is of no kind that is known here")
    block = load(kind, {name: item for name, item in value.items() if name != "kind"}, where)
    if isinstance(block, Bits):
        if len(block.strengths) != len(block.agrees) or not block.agrees:
            raise ValueError(f"{where} has not as many strengths as bits")
        if not all(0 <= strength <= 1 for strength in block.strengths):
            raise ValueError(f"{where} has a strength that is not between 0 and 1")
    return block
