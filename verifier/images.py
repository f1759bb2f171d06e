"""The one loader of untrusted images: what it returns is plain 8-bit RGB, or a sentence why not.

    loaded = load_image("suspect.jpg")                    # InputError where it cannot be used
    loaded.image, loaded.sha256, loaded.width, loaded.height, loaded.notes

The format is told by content, never by the name; only FORMATS are decoded. What the picture looks like
to a person is what is read: EXIF orientation is applied, an embedded colour profile is converted to
sRGB, CMYK to RGB, transparency is laid on white (the page it would be shown on), 16-bit samples are
scaled to 8 (grey: ``round(x / 257)``; colour: Pillow keeps the upper byte), floating-point samples are taken
as 0 to 1 (0 to 255 if they exceed 1), and of an animation or several pages the first one counts. A damaged
colour profile or orientation is ignored, as viewers do, and so is a profile that is a program of its own
(ICC's ``D2B``); damaged pixels are an error. ``notes`` says which of this took place.

**Limits.** Bytes before a file is read, pixels from the header before anything is decoded. Time, memory and
crashes are the business of :mod:`verifier.guard`, where everything is decoded but what is known to be quick:
a small file (QUICK_BYTES, QUICK_PIXELS) of a format whose decoder's work is bounded by the two, and a large
JPEG that is decoded in one pass (:mod:`verifier.jpeg`) to a small picture.

**Reduced scale.** Where the caller names the short ``side`` that is enough for him, a larger JPEG is decoded
at 1/2, 1/4 or 1/8 of its size (the decoder's own scaling, which averages blocks of pixels), as long as its
short side stays that long or longer; :attr:`verifier.network.Network.side` says what a network needs.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
import os
import stat
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from verifier.errors import InputError
from verifier.jpeg import one_scan
from verifier.quiet import quiet_warnings

MAX_BYTES = 256 << 20
"""Largest file read into memory."""

MAX_PIXELS = 1 << 27
"""134 megapixels, some 400 MB decoded: more than cameras give, and less than fills a small machine."""

MIN_SIDE = 16
"""Shorter sides hold no readable fingerprint."""

_PLUGINS = {
    "JPEG": "PIL.JpegImagePlugin",
    "PNG": "PIL.PngImagePlugin",
    "WebP": "PIL.WebPImagePlugin",
    "BMP": "PIL.BmpImagePlugin",
    "TIFF": "PIL.TiffImagePlugin",
    "GIF": "PIL.GifImagePlugin",
    "AVIF": "PIL.AvifImagePlugin",
    "HEIC": "pi_heif.as_plugin",  # the extra `heic`: a decoder alone, without the encoder of pillow-heif
}

FORMATS = tuple(_PLUGINS)

QUICK_BYTES = {"JPEG": 1 << 20, "PNG": 1 << 20, "WebP": 1 << 20, "BMP": 1 << 20, "GIF": 1 << 16}
"""Files up to this size are decoded in this process: of these formats even the worst take a second or two.

Pillow reads a GIF's comments in time that grows with the square of their number. TIFF, AVIF and HEIC are
absent: their decoders are large, and a few bytes can ask them for any amount of work.
"""

QUICK_PIXELS = 1 << 22
"""The same in pixels: 2048 x 2048."""

QUICK_SCANS = 32
"""Scans of a JPEG (progressive files have some ten): each goes over all pixels, however short it is."""

ONE_SCAN_BYTES = 1 << 24
"""A JPEG of one scan may have so many: two seconds if they are nothing but restart markers or fill bytes,
half a second otherwise. It may have more than QUICK_PIXELS, too, as long as no more are left at the scale at
which it is decoded."""

_SCAN = b"\xff\xda"  # the marker that starts one
_PROFILE_TAGS, _PROFILE_TAG = slice(132, 1332), 12  # ICC.1:2010, 7.3: a table, of which lcms reads 100 rows
_PROGRAMS = {b"D2B0", b"D2B1", b"D2B2", b"D2B3"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}  # ISO/IEC 23008-12

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
_MAKER_TAGS = (0x010F, 0x0110, 0x0131)  # EXIF 2.32: Make, Model, Software
_LONGEST_TRAIT = 100
_UPRIGHT = (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.ROTATE_180)
# Does not wait for somebody to write into a pipe; Windows has the one flag, others have the other.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_ROWS = 256  # converted at a time, which bounds the memory that floating point takes


@dataclass(frozen=True)
class Decoded:
    """An image (mode RGB), its size in pixels as displayed, and what a reader should know of its decoding.

    ``image`` is smaller than ``width`` x ``height`` where it was decoded at reduced scale. ``traits`` are
    what the file tells of its making: format, stored size, samples, a digest of a JPEG's quantisation tables,
    camera and software. Files of one source mostly agree in them.
    """

    image: Image.Image
    width: int
    height: int
    notes: tuple[str, ...] = ()
    traits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loaded(Decoded):
    """The same with the SHA-256 (hex) of the file."""

    sha256: str = ""


def load_image(path: Path | str, side: int | None = None) -> Loaded:
    """Read and decode the image at ``path``; :class:`InputError` says why it cannot be used.

    ``side``: see *Reduced scale* above; without it every image is decoded at full size.
    """
    return load_bytes(read_bounded(path), str(path), side)


def load_bytes(data: bytes, name: str, side: int | None = None) -> Loaded:
    """:func:`load_image` of a file's bytes, wherever they came from."""
    decoded = decode(data, name, side=side)
    return Loaded(**vars(decoded), sha256=hashlib.sha256(data).hexdigest())


def read_bounded(path: Path | str) -> bytes:
    """The file's bytes, at most MAX_BYTES of them; :class:`InputError` for anything but a readable file.

    A file that is written to meanwhile is refused: its digest would be that of no file there ever was.
    """
    try:
        file = os.open(path, _READ)
        try:
            before = os.fstat(file)
            if stat.S_ISDIR(before.st_mode):
                raise InputError(f"{path} is a folder.", "Give the images themselves.")
            if not stat.S_ISREG(before.st_mode):
                raise InputError(f"{path} is not an ordinary file.")
            data = _read_all(file, min(before.st_size, MAX_BYTES + 1))
            after = os.fstat(file)
        finally:
            os.close(file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"cannot read {path}: {reason}.") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} is larger than {MAX_BYTES >> 20} MiB.")
    if not data:
        raise InputError(f"{path} is empty.")
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or len(
        data
    ) < after.st_size:
        raise InputError(f"{path} changed while it was read.", "Check it again once it is written.")
    return data


def _read_all(file: int, size: int) -> bytes:
    """So many of the file's bytes, or as many as there are."""
    parts = [os.read(file, size)]  # mostly all of them at once
    while parts[-1] and (missing := size - sum(map(len, parts))):
        parts.append(os.read(file, missing))
    return b"".join(parts) if len(parts) > 1 else parts[0]


def decode_image(data: bytes, name: str = "the image", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image alone of :func:`decode`, at full size."""
    return decode(data, name, max_pixels).image


def decode(
    data: bytes, name: str = "the image", max_pixels: int = MAX_PIXELS, side: int | None = None
) -> Decoded:
    """Decode image bytes, here or guarded; :class:`InputError` (naming ``name``) where that is impossible."""
    if _opens_quickly(data):
        with quiet_warnings():
            opened = _open(data, name, max_pixels)
            if _decodes_quickly(opened, data, side):
                return _decode_opened(opened, name, side)
    from verifier.guard import decode_guarded

    return decode_guarded(data, name, max_pixels, side)


def decode_here(data: bytes, name: str, max_pixels: int, side: int | None) -> Decoded:
    """:func:`decode` in this process, however long it takes."""
    with quiet_warnings():
        return _decode_opened(_open(data, name, max_pixels), name, side)


def readable_formats() -> dict[str, bool]:
    """FORMATS, and whether this installation can read each."""
    found = {}
    for kind in FORMATS:
        try:
            _plugin(kind)
        except InputError:
            found[kind] = False
        else:
            found[kind] = True
    return found


def _opens_quickly(data: bytes) -> bool:
    """Whether the header can be read in this process (what is no image at all is refused here as well)."""
    kind = known_format(data)
    if kind is None or len(data) <= QUICK_BYTES.get(kind, 0):
        return True
    return kind == "JPEG" and len(data) <= ONE_SCAN_BYTES and one_scan(data)


def _decodes_quickly(opened: Image.Image, data: bytes, side: int | None) -> bool:
    """Whether the pixels of what opens quickly can be decoded in this process."""
    pixels, jpeg = opened.width * opened.height, known_format(data) == "JPEG"
    if pixels <= QUICK_PIXELS and not (jpeg and data.count(_SCAN) > QUICK_SCANS):
        return True
    return jpeg and pixels <= QUICK_PIXELS * _reduction(opened.size, side) ** 2 and one_scan(data)


def _reduction(size: tuple[int, int], side: int | None) -> int:
    """By how much a JPEG's sides are divided if it is decoded for a short ``side``."""
    most = 1 if side is None else min(size) // side
    return next((reduction for reduction in (8, 4, 2) if reduction <= most), 1)


def _decode_opened(opened: Image.Image, name: str, side: int | None) -> Decoded:
    notes = []
    try:
        full = opened.size
        traits = _traits(opened)
        if side is not None:
            opened.draft(opened.mode, (side, side))  # does nothing but to a JPEG
        reduced = round(full[0] / opened.width)
        if reduced > 1:
            notes.append(f"decoded at 1/{reduced} of its size")
        opened.load()
        if reduced == 1:
            full = opened.size
        if _has_more(opened):
            notes.append("of several frames the first was read")
        image, more = _to_srgb(opened)
        if full[0] % reduced or full[1] % reduced:
            # The last blocks hang over the picture's edge: without this it would be drawn in by so much.
            part = (0.0, 0.0, full[0] / reduced, full[1] / reduced)
            image = image.resize(image.size, Image.Resampling.BICUBIC, part)
        transpose = _transpose(opened)
        if transpose is not None:
            image = image.transpose(transpose)
            full = full if transpose in _UPRIGHT else full[::-1]
        return Decoded(image, *full, (*notes, *more), traits)
    except MemoryError:
        raise InputError(f"{name}: there is not enough memory to decode it.") from None
    except Exception as error:  # noqa: BLE001 - decoders raise anything on hostile bytes
        raise InputError(f"{name} is damaged or truncated: {_short(error)}.") from None


def known_format(data: bytes) -> str | None:
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
    if data[4:8] == b"ftyp":
        end = max(12, min(int.from_bytes(data[:4]), 256))
        brands = {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & _HEIC_BRANDS:
            return "HEIC"
    return None


@functools.cache
def _plugin(kind: str) -> tuple[Callable[..., Any], Callable[[bytes], Any] | None]:
    """What opens a file of a format, and what accepts its first bytes; :class:`InputError` if neither."""
    try:
        # The plugin itself, not Image.open: that would import those of all common formats.
        module: Any = importlib.import_module(_PLUGINS[kind])
        # One thread each: many would take the guarded process's address space, and the batch's processors.
        if kind == "HEIC":
            module.options.DECODE_THREADS = 1
            return module.HeifImageFile, None
        if kind == "AVIF":
            module.DEFAULT_MAX_THREADS = 1
            if not module.SUPPORTED:
                raise ImportError
        return Image.OPEN[kind.upper()]
    except (ImportError, KeyError):
        hint = "Install it: pip install 'hallmark[heic]'." if kind == "HEIC" else "Use Pillow's own wheels."
        raise InputError(f"this installation cannot read {kind}.", hint) from None


def _open(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """The image with its header read and found within the limits, its pixels not yet decoded."""
    kind = known_format(data)
    if kind is None:
        raise InputError(f"{name} is no image of a known format ({', '.join(FORMATS)}).")
    try:
        factory, accept = _plugin(kind)
    except InputError as error:
        raise InputError(f"{name}: {error}", error.hint) from None
    try:
        accepted = accept(data[:16]) if accept else True
        if isinstance(accepted, str):
            raise InputError(f"{name}: {accepted}.")
        opened: Image.Image = factory(io.BytesIO(data), "")
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        raise InputError(f"{name} is a damaged {kind} file: {_short(error)}.") from None
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
    return opened


def _traits(opened: Image.Image) -> tuple[str, ...]:
    """What the file tells of its making, before its pixels are decoded."""
    told = [str(opened.format), f"{opened.width} x {opened.height}", opened.mode]
    tables = getattr(opened, "quantization", None)
    if tables:
        # As 16-bit numbers: a table's text takes several times as long to write.
        numbered = b"".join(bytes([key]) + array("H", tables[key]).tobytes() for key in sorted(tables))
        told.append(hashlib.sha256(numbered).hexdigest()[:16])
    try:
        exif = opened.getexif()
        told += [str(exif[tag])[:_LONGEST_TRAIT] for tag in _MAKER_TAGS if tag in exif]
    except Exception:  # noqa: BLE001, S110 - a damaged EXIF block says nothing
        pass
    software = opened.info.get("Software")
    return (*told, str(software)[:_LONGEST_TRAIT]) if software else tuple(told)


def _has_more(opened: Image.Image) -> bool:
    """Whether the file holds further frames, pages or images."""
    try:
        return bool(getattr(opened, "is_animated", False))
    except Exception:  # noqa: BLE001 - a damaged second frame is none of ours
        return True


def _transpose(opened: Image.Image) -> Image.Transpose | None:
    """What turns the stored picture into the displayed one."""
    try:
        orientation = opened.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - a damaged EXIF block says nothing
        return None
    return _ORIENTATIONS.get(orientation) if isinstance(orientation, int) else None


def _to_srgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """The picture as 8-bit RGB in the sRGB colour space, and notes."""
    notes = []
    profile = image.info.get("icc_profile")
    if image.mode in ("I", "I;16", "I;16L", "I;16B", "I;16N", "F"):
        image = _to_8_bit(image)
    if image.has_transparency_data or image.mode in ("RGBa", "La"):
        colours = image.convert("RGBA")
        if colours.getchannel("A").getextrema() != (255, 255):
            notes.append("its transparency was laid on white")
        image = Image.new("RGBA", image.size, "white")
        image.alpha_composite(colours)
        image = image.convert("RGB")
    if image.mode in ("1", "P"):
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "L", "CMYK", "LAB"):
        converted = _convert_profile(image, profile)
        if converted is None:
            notes.append("its colour profile cannot be used and was ignored")
        else:
            image = converted
    return image if image.mode == "RGB" else image.convert("RGB"), notes


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Grey samples of 16 bits, 32 bits or floating point as 0 to 255."""
    import numpy as np  # here: what decodes nothing of the kind starts faster without

    samples = np.asarray(image)
    floating = np.issubdtype(samples.dtype, np.floating)
    largest = float(np.max(samples, initial=0, where=np.isfinite(samples)))
    if floating:
        scale = 255.0 if largest <= 1 else 1.0
    else:
        scale = 1 / 257 if largest <= 0xFFFF else 255 / 0xFFFFFFFF
    grey = np.empty(samples.shape, np.uint8)
    for top in range(0, len(samples), _ROWS):
        values = np.nan_to_num(samples[top : top + _ROWS].astype(np.float64), posinf=0.0, neginf=0.0)
        grey[top : top + _ROWS] = np.clip(np.rint(values * scale), 0, 255)
    return Image.fromarray(grey)


def _convert_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """``image`` converted from its ICC ``profile`` to sRGB, or None if the profile cannot be used.

    Programs are never run: a profile of some kilobytes can name the same step any number of times.
    """
    from PIL import ImageCms

    tags = profile[_PROFILE_TAGS]
    if any(tags[at : at + 4] in _PROGRAMS for at in range(0, len(tags), _PROFILE_TAG)):
        return None

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _short(error: Exception) -> str:
    """The error's first line, without a closing full stop."""
    text = str(error) or type(error).__name__
    return text.splitlines()[0].rstrip(". ")
