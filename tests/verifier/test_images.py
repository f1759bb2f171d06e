from __future__ import annotations

import hashlib
import io
import os
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from verifier import images
from verifier.errors import InputError
from verifier.images import decode_image, load_image

RNG = np.random.default_rng(1)
PIXELS = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (5, 6, 3), np.uint8)).resize((48, 40), Image.Resampling.BICUBIC)
)
PICTURE = Image.fromarray(PIXELS)
FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"] + (["AVIF"] if features.check("avif") else [])
LOSSLESS = ["PNG", "BMP", "TIFF"]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def difference(image: Image.Image, expected: np.ndarray[Any, Any]) -> float:
    return float(np.abs(np.asarray(image, float) - expected).mean())


def png(width: int, height: int, body: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    """A PNG file whose header may claim anything."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    content = chunk(b"IDAT", zlib.compress(body))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + content + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_by_its_content_under_any_name(tmp_path: Path, kind: str) -> None:
    data = encoded(PICTURE, kind)
    path = tmp_path / "picture.txt"
    path.write_bytes(data)
    loaded = load_image(path)
    assert loaded.image.mode == "RGB"
    assert (loaded.width, loaded.height) == loaded.image.size == (48, 40)
    assert loaded.sha256 == hashlib.sha256(data).hexdigest()
    assert difference(loaded.image, PIXELS) < (0.01 if kind in LOSSLESS else 16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_orientation_says(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2),
        6: PIXELS.transpose(1, 0, 2)[::-1],
        7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
        8: PIXELS.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    image = decode_image(encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif))
    assert difference(image, PIXELS) == 0


def test_a_damaged_orientation_is_ignored() -> None:
    assert difference(decode_image(encoded(PICTURE, "PNG", exif=b"Exif\0\0MM\0*\xff\xff")), PIXELS) == 0


def linear_profile() -> bytes:
    """An ICC profile with sRGB's primaries and no gamma (ICC.1:2001-04, sections 6.1 to 6.5)."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    def text(kind: bytes, value: bytes) -> bytes:
        if kind == b"text":
            return b"text\0\0\0\0" + value + b"\0"
        return b"desc\0\0\0\0" + struct.pack(">I", len(value) + 1) + value + b"\0" + bytes(78)

    curve = b"curv\0\0\0\0" + struct.pack(">I", 0)
    tags = {
        b"desc": text(b"desc", b"linear"),
        b"cprt": text(b"text", b"none"),
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.4360, 0.2225, 0.0139),
        b"gXYZ": xyz(0.3851, 0.7169, 0.0971),
        b"bXYZ": xyz(0.1431, 0.0606, 0.7139),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, body = struct.pack(">I", len(tags)), b""
    offset = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        padded = data + bytes(-len(data) % 4)
        table += name + struct.pack(">2I", offset + len(body), len(data))
        body += padded
    head = struct.pack(">I4sI4s4s4s", offset + len(body), b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + body


def test_embedded_profiles_are_converted_to_srgb() -> None:
    grey = Image.new("RGB", (20, 20), (55, 55, 55))
    converted = np.asarray(decode_image(encoded(grey, "PNG", icc_profile=linear_profile())))
    # A linear value of 55 / 255 is sRGB's 128 (IEC 61966-2-1).
    expected = 255 * (1.055 * (55 / 255) ** (1 / 2.4) - 0.055)
    assert abs(converted.astype(float) - expected).max() <= 2


@pytest.mark.parametrize("profile", [b"garbage", linear_profile()[:200]])
def test_a_damaged_profile_is_ignored(profile: bytes) -> None:
    assert difference(decode_image(encoded(PICTURE, "PNG", icc_profile=profile)), PIXELS) == 0


def test_srgb_itself_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert difference(decode_image(encoded(PICTURE, "PNG", icc_profile=profile)), PIXELS) < 0.6


def test_cmyk_becomes_the_colours_it_shows() -> None:
    data = encoded(PICTURE.convert("CMYK"), "TIFF")
    assert difference(decode_image(data), PIXELS) < 2
    assert difference(decode_image(encoded(PICTURE.convert("CMYK"), "JPEG", quality=95)), PIXELS) < 8


def test_transparent_pixels_show_the_white_page() -> None:
    alpha = np.zeros((40, 48), np.uint8)
    alpha[:, 24:] = 255
    image = Image.fromarray(np.dstack([PIXELS, alpha]))
    for data in (encoded(image, "PNG"), encoded(image, "WEBP", lossless=True), encoded(image, "TIFF")):
        decoded = np.asarray(decode_image(data))
        assert (decoded[:, :24] == 255).all()
        assert np.array_equal(decoded[:, 24:], PIXELS[:, 24:])
    half = np.asarray(decode_image(encoded(Image.new("LA", (20, 20), (0, 128)), "PNG")))
    assert abs(int(half.max()) - 127) <= 1


def test_palettes_with_and_without_a_transparent_entry() -> None:
    image = PICTURE.quantize(16)
    assert np.array_equal(decode_image(encoded(image, "PNG")), np.asarray(image.convert("RGB")))
    shown = np.asarray(decode_image(encoded(image, "PNG", transparency=0)))
    hidden = np.asarray(image) == 0
    assert (shown[hidden] == 255).all()
    assert np.array_equal(shown[~hidden], np.asarray(image.convert("RGB"))[~hidden])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    values = np.linspace(0, 65535, 40 * 48).reshape(40, 48)
    image = Image.fromarray(values.astype(np.uint16))
    decoded = np.asarray(decode_image(encoded(image, kind)))[..., 0]
    assert np.array_equal(decoded, np.rint(values.astype(np.uint16) / 257))


def test_sixteen_bit_colour_is_scaled() -> None:
    row = b"\0" + struct.pack(">3H", 0xFFFF, 0x8080, 0) * 16
    decoded = np.asarray(decode_image(png(16, 16, row * 16, depth=16)))
    assert (decoded == [255, 128, 0]).all()


def test_floating_point_samples_are_fractions_or_grey_levels() -> None:
    for top in (1.0, 255.0):
        values = np.linspace(0, top, 40 * 48, dtype=np.float32).reshape(40, 48)
        decoded = np.asarray(decode_image(encoded(Image.fromarray(values), "TIFF")))[..., 0]
        assert np.abs(decoded - values * 255 / top).max() <= 0.51


def test_not_a_number_is_black() -> None:
    values = np.full((20, 20), np.nan, np.float32)
    assert np.asarray(decode_image(encoded(Image.fromarray(values), "TIFF"))).max() == 0


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_counts(kind: str) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.asarray(decode_image(data))[5, 5].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["1", "L"])
def test_black_and_white_and_grey(mode: str) -> None:
    image = PICTURE.convert(mode)
    assert np.array_equal(decode_image(encoded(image, "PNG")), np.asarray(image.convert("RGB")))


def test_one_pixel_is_an_error_that_says_what_is_missing() -> None:
    for size in ((1, 1), (500, 15)):
        with pytest.raises(InputError, match=rf"{size[0]} x {size[1]} pixels, too few"):
            decode_image(encoded(Image.new("RGB", size), "PNG"), "dot.png")
    assert decode_image(encoded(Image.new("RGB", (16, 16)), "PNG")).size == (16, 16)


@pytest.mark.parametrize("size", [(20_000, 10_000), (2**31 - 1, 2**31 - 1), (200_000_000, 16)])
def test_too_many_pixels_are_refused_from_the_header_alone(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"megapixels allowed|damaged"):
        decode_image(png(*size), "bomb.png")
    bitmap = (
        b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, *size, 1, 24, *[0] * 6)
    )
    with pytest.raises(InputError, match=r"megapixels allowed|damaged"):
        decode_image(bitmap, "bomb.bmp")


def test_too_many_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 1 << 20)
    path = tmp_path / "large.png"
    path.write_bytes(encoded(PICTURE, "PNG").ljust((1 << 20) + 1, b"\0"))
    with pytest.raises(InputError, match="larger than 1 MiB"):
        load_image(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_files_are_an_error(kind: str) -> None:
    data = encoded(PICTURE.resize((200, 200)), kind)
    for length in (20, len(data) // 3, len(data) // 2):
        with pytest.raises(InputError, match=r"cut\.img"):
            decode_image(data[:length], "cut.img")


@pytest.mark.parametrize(
    "data", [b"x", b"hello, world" * 100, b"%PDF-1.7", b"\x7fELF", b"<svg></svg>", bytes(5000)]
)
def test_what_is_no_image_is_an_error_that_lists_the_formats(data: bytes) -> None:
    with pytest.raises(InputError, match=r"no image of a known format \(JPEG, PNG, WebP"):
        decode_image(data)


def test_what_is_no_readable_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, reason in {
        "nothing.png": "No such file",
        "": "is a folder",
        "empty.png": "is empty",
        "pipe": "not an ordinary file",
        "a" * 300: "File name too long",
        "nul\0byte": "null",
    }.items():
        with pytest.raises(InputError, match=reason):
            load_image(f"{tmp_path}/{name}")


def test_mutated_files_give_an_image_or_an_input_error_and_no_noise(
    capfd: pytest.CaptureFixture[str],
) -> None:
    generator = random.Random(1)
    originals = [encoded(PICTURE, kind) for kind in FORMATS]
    originals += [encoded(PICTURE, "TIFF", compression=c) for c in ("tiff_lzw", "jpeg", "tiff_adobe_deflate")]
    originals += [
        encoded(PICTURE.convert("CMYK"), "JPEG"),
        encoded(PICTURE.quantize(9), "PNG", transparency=1),
    ]
    outcomes = {"image": 0, "error": 0}
    reasons: list[str] = []
    for _ in range(3000):
        data = bytearray(generator.choice(originals))
        for _ in range(generator.choice((1, 2, 5, 20))):
            reach = len(data) if generator.random() < 0.5 else min(300, len(data))
            data[generator.randrange(reach)] = generator.randrange(256)
        if generator.random() < 0.2:
            del data[generator.randrange(len(data)) :]
        try:
            assert decode_image(bytes(data)).mode == "RGB"
            outcomes["image"] += 1
        except InputError as error:
            reasons.append(error.diagnostics())
            outcomes["error"] += 1
    assert not [reason for reason in reasons if "\n" in reason]
    assert min(outcomes.values()) > 300
    assert capfd.readouterr() == ("", "")
