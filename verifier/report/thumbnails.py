"""Small pictures of the images a report is about: to be recognised, never to be checked."""

from __future__ import annotations

import base64
import io

from PIL import Image

SIDE = 240
"""Longer side in pixels."""

_QUALITY = 80
_LARGEST = 1 << 17  # base64 characters; SIDE x SIDE of noise stays below


def thumbnail(image: Image.Image) -> str:
    """A JPEG (base64) of an RGB ``image``, its longer side SIDE pixels at most."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=_QUALITY, optimize=True)
    return base64.b64encode(content.getvalue()).decode()


def decoded(text: str) -> bytes:
    """The JPEG in a report; ``ValueError`` where it is none of the kind that :func:`thumbnail` makes."""
    if len(text) > _LARGEST:
        raise ValueError("a thumbnail is too large")
    content = base64.b64decode(text, validate=True)
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as picture:
            sound = max(picture.size) <= SIDE and picture.mode == "RGB"
            if sound:
                picture.load()
    except Exception as error:  # noqa: BLE001 - decoders raise what they like
        raise ValueError(f"a thumbnail is no JPEG: {error}") from None
    if not sound:
        raise ValueError(f"a thumbnail is larger than {SIDE} pixels")
    return content
