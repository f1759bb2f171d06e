"""Types and base classes of requests and responses.

A body is strict: unknown fields, numbers in strings and control characters are refused. What comes in a URL
is text and is converted.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

LARGEST = 2**53 - 1
"""Integers beyond this do not survive JSON in a browser."""


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 1.0 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Described(BaseModel):
    """A model whose schema is made once: flask-openapi3 asks for it with every request."""

    @classmethod
    @cache
    def model_json_schema(cls, *arguments: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """See pydantic; the result is shared and must not be changed."""
        return super().model_json_schema(*arguments, **options)


class Body(BaseModel):
    """Base class of JSON bodies."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Query(Described):
    """Base class of query parameters."""

    model_config = ConfigDict(extra="forbid")


class Path(BaseModel):
    """Base class of path parameters."""


class Reply(BaseModel):
    """Base class of JSON responses."""


WHOLE = BeforeValidator(_whole)
"""For integers in bodies: ``Annotated[int, Field(ge=1, le=9), WHOLE]``; last, to keep limits documented."""

Integer = Annotated[int, Field(ge=-LARGEST, le=LARGEST), WHOLE]
Text = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""One line of text."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Email = Annotated[
    str, StringConstraints(min_length=3, max_length=254, pattern=r"^[!-?A-~]+@[A-Za-z0-9.-]+\.[A-Za-z0-9-]+$")
]
KeyId = Annotated[str, StringConstraints(pattern=r"^(copy-)?[0-9a-f]{24}$")]
ModelLabel = Annotated[
    str, StringConstraints(max_length=80, pattern=r"^[a-z0-9][a-z0-9._-]*(@[1-9][0-9]{0,8})?$")
]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Base64Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{43}=$")]
"""32 bytes, base64."""
