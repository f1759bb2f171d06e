"""Long lists in pages: a cursor says where the next page begins, whatever is added meanwhile.

    rows, more = page(session, select(UserKey).where(...), UserKey.id, query)
    return {"items": [...], "next": more}

A cursor is opaque to clients; inside is the last row's number, which rows of another organisation never
reach, since the query itself is restricted to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, StringConstraints
from sqlalchemy import ColumnElement, Select, select, union
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry.api.schemas import Query

LARGEST_PAGE = 200

Cursor = Annotated[str, StringConstraints(pattern=r"^[0-7][0-9a-f]{15}$")]


class PageQuery(Query):
    """Which page of a list."""

    limit: Annotated[int, Field(ge=1, le=LARGEST_PAGE, description="Items in a page.")] = 50
    after: Annotated[Cursor | None, Field(description="The cursor `next` of the page before this one.")] = (
        None
    )


def page(
    session: Session,
    query: Select[Any],
    number: InstrumentedAttribute[int],
    wanted: PageQuery,
    *,
    newest_first: bool = True,
    either: Sequence[ColumnElement[bool]] = (),
) -> tuple[Sequence[Any], str | None]:
    """The rows of one page and the cursor of the next (``None`` at the end), ordered by ``number``.

    ``number`` is a unique integer column; the first column of ``query`` must be its entity or row. Of
    ``either`` one condition must hold: each is read for itself, so that an index on its column and ``number``
    gives it a page, where the database would read the table for the one and the other.
    """

    def cut(selected: Select[Any]) -> Select[Any]:
        if wanted.after is not None:
            last = int(wanted.after, 16)
            selected = selected.where(number < last if newest_first else number > last)
        return selected.order_by(number.desc() if newest_first else number.asc()).limit(wanted.limit + 1)

    if either:
        pages = (cut(select(number).where(condition)).subquery() for condition in either)
        query = query.where(number.in_(union(*(select(found.c[0]) for found in pages))))
    rows = session.execute(cut(query).add_columns(number.label("page_number"))).all()
    shown = rows[: wanted.limit]
    more = encode(shown[-1].page_number) if len(rows) > wanted.limit else None
    return [row[0] if len(row) == 2 else row for row in shown], more


def encode(number: int) -> str:
    """The cursor after the row ``number``; every text of its form is one."""
    return f"{number:016x}"
