"""The one loader of untrusted images: what it returns is plain 8-bit RGB, or a sentence why not.

    loaded = load_image("suspect.jpg")                    # InputError where it cannot be used
    loaded.image, loaded.sha256, loaded.width, loaded.height

The format is told by content, never by the name; only FORMATS are decoded. What the picture looks like
to a person is what is read: EXIF orientation is applied, an embedded colour profile is converted to
sRGB, CMYK to RGB, transparency is laid on white (the page it would be shown on), 16-bit samples are
scaled to 8 (``round(x / 257)``), floating-point samples are taken as 0 to 1 (0 to 255 if they exceed 1),
and of an animation or several pages the first one counts. A damaged colour profile or orientation
is ignored, as viewers do; damaged pixels are an error.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from verifier.errors import InputError
from verifier.quiet import quiet_libraries

MAX_BYTES = 256 << 20
"""Largest file read into memory."""

MAX_PIXELS = 1 << 27
"""134 megapixels, some 400 MB decoded: more than cameras give, and less than fills a small machine."""

MIN_SIDE = 16
"""Shorter sides hold no readable fingerprint."""

_PLUGINS = {
    "JPEG": "JpegImagePlugin",
    "PNG": "PngImagePlugin",
    "WebP": "WebPImagePlugin",
    "BMP": "BmpImagePlugin",
    "TIFF": "TiffImagePlugin",
    "GIF": "GifImagePlugin",
    "AVIF": "AvifImagePlugin",
}

FORMATS = tuple(_PLUGINS)

_ORIENTATION_TAG = 0x0112  # EXIF 2.32, section 4.6.4
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Loaded:
    """A decoded image (mode RGB), the SHA-256 (hex) of its file, and its size in pixels as displayed."""

    image: Image.Image
    sha256: str
    width: int
    height: int


def load_image(path: Path | str) -> Loaded:
    """Read and decode the image at ``path``; :class:`InputError` says why it cannot be used."""
    data = read_bounded(Path(path))
    image = decode_image(data, str(path))
    return Loaded(image, hashlib.sha256(data).hexdigest(), *image.size)


def read_bounded(path: Path) -> bytes:
    """The file's bytes, at most MAX_BYTES of them; :class:`InputError` for anything but a readable file."""
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder.", "Give the images themselves.")
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not an ordinary file.")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"cannot read {path}: {reason}.") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} is larger than {MAX_BYTES >> 20} MiB.")
    if not data:
        raise InputError(f"{path} is empty.")
    return data


def decode_image(data: bytes, name: str = "the image", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode image bytes to mode RGB; :class:`InputError` (naming ``name``) where that is impossible."""
    opened = _open(data, name)
    width, height = opened.size
    if width * height > max_pixels:
        raise InputError(
            f"{name} has {width} x {height} pixels, more than the {max_pixels / 1e6:.0f} megapixels allowed.",
            "Scale it down first.",
        )
    if min(width, height) < MIN_SIDE:
        raise InputError(
            f"{name} has {width} x {height} pixels, too few to read: both sides need {MIN_SIDE} or more."
        )
    try:
        with _calm():
            opened.load()
            return _upright(_to_srgb(opened), opened)
    except MemoryError:
        raise InputError(f"{name}: there is not enough memory to decode it.") from None
    except Exception as error:  # noqa: BLE001 - decoders raise anything on hostile bytes
        raise InputError(f"{name} is damaged or truncated: {_short(error)}.") from None


@contextmanager
def _calm() -> Iterator[None]:
    """No warnings from Pillow and the libraries below it: what matters comes as an exception."""
    with warnings.catch_warnings(), quiet_libraries():
        warnings.simplefilter("ignore")
        yield


def _sniff(data: bytes) -> str | None:
    """The format that the first bytes announce (of FORMATS), or None."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith(b"BM"):
        return "BMP"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[4:12] in (b"ftypavif", b"ftypavis") or (data[4:8] == b"ftyp" and b"avif" in data[8:64]):
        return "AVIF"
    return None


def _open(data: bytes, name: str) -> Image.Image:
    """The image with its header read and its pixels not yet decoded."""
    kind = _sniff(data)
    if kind is None:
        raise InputError(f"{name} is no image of a known format ({', '.join(FORMATS)}).")
    try:
        # The plugin itself, not Image.open: that would import those of all common formats.
        importlib.import_module(f"PIL.{_PLUGINS[kind]}")
        factory, accept = Image.OPEN[kind.upper()]
    except (ImportError, KeyError):
        raise InputError(f"{name}: this installation of Pillow cannot read {kind}.") from None
    try:
        with _calm():
            accepted = accept(data[:16]) if accept else True
            if isinstance(accepted, str):
                raise InputError(f"{name}: {accepted}.")
            return factory(io.BytesIO(data), "")
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        raise InputError(f"{name} is a damaged {kind} file: {_short(error)}.") from None


def _upright(image: Image.Image, opened: Image.Image) -> Image.Image:
    try:
        orientation = opened.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - a damaged EXIF block says nothing
        orientation = 1
    transpose = _ORIENTATIONS.get(orientation) if isinstance(orientation, int) else None
    return image if transpose is None else image.transpose(transpose)


def _to_srgb(image: Image.Image) -> Image.Image:
    """The picture as 8-bit RGB in the sRGB colour space."""
    profile = image.info.get("icc_profile")
    if image.mode in ("I", "I;16", "I;16L", "I;16B", "I;16N", "F"):
        image = Image.fromarray(_to_8_bit(np.asarray(image)))
    if image.has_transparency_data or image.mode in ("RGBa", "La", "LA", "PA", "RGBA"):
        colours = image.convert("RGBA")
        image = Image.new("RGBA", image.size, "white")
        image.alpha_composite(colours)
        image = image.convert("RGB")
    if image.mode in ("1", "P"):
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "L", "CMYK"):
        image = _convert_profile(image, profile)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bit(samples: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey samples of 16 bits, 32 bits or floating point as 0 to 255."""
    values = np.nan_to_num(samples.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    largest = float(values.max())
    if np.issubdtype(samples.dtype, np.floating):
        scale = 255.0 if largest <= 1 else 1.0
    else:
        scale = 1 / 257 if largest <= 0xFFFF else 255 / 0xFFFFFFFF
    return np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)


def _convert_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """``image`` converted from its ICC ``profile`` to sRGB, or as it was if the profile cannot be used."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image
    return image if converted is None else converted


def _short(error: Exception) -> str:
    """The error's first line, without a closing full stop."""
    text = str(error) or type(error).__name__
    return text.splitlines()[0].rstrip(". ")
