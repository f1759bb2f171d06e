from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from verifier import guard, images
from verifier.errors import InputError
from verifier.images import decode, decode_image, load_image, readable_formats

pillow_heif.register_heif_opener()  # writes what pi_heif, in a process of its own, reads

RNG = np.random.default_rng(1)
PIXELS = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (5, 6, 3), np.uint8)).resize((48, 40), Image.Resampling.BICUBIC)
)
PICTURE = Image.fromarray(PIXELS)
FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF"]
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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_orientation_says(kind: str, orientation: int) -> None:
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
    image = Image.fromarray(np.ascontiguousarray(stored))
    if kind == "HEIF":
        image.info["exif"] = exif.tobytes()  # from where the encoder takes the turn that it writes
    decoded = decode(encoded(image, kind, **({} if kind == "HEIF" else {"exif": exif})))
    assert (decoded.width, decoded.height) == decoded.image.size == (48, 40)
    assert difference(decoded.image, PIXELS) < (0.01 if kind in LOSSLESS else 16)


def test_a_damaged_orientation_is_ignored() -> None:
    assert difference(decode_image(encoded(PICTURE, "PNG", exif=b"Exif\0\0MM\0*\xff\xff")), PIXELS) == 0


SRGB_PRIMARIES = ((0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7139))
P3_PRIMARIES = ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841))


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def icc(space: bytes, connection: bytes, device: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile (ICC.1:2001-04, sections 6.1 to 6.5)."""

    def text(kind: bytes, value: bytes) -> bytes:
        if kind == b"text":
            return b"text\0\0\0\0" + value + b"\0"
        return b"desc\0\0\0\0" + struct.pack(">I", len(value) + 1) + value + b"\0" + bytes(78)

    tags = {
        b"desc": text(b"desc", b"made for a test"),
        b"cprt": text(b"text", b"none"),
        b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249),
        **tags,
    }
    table, body = struct.pack(">I", len(tags)), b""
    offset = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        padded = data + bytes(-len(data) % 4)
        table += name + struct.pack(">2I", offset + len(body), len(data))
        body += padded
    head = struct.pack(">I4sI4s4s4s", offset + len(body), b"none", 0x02100000, device, space, connection)
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + body


def curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def rgb_profile(primaries: tuple[tuple[float, ...], ...], gamma: float) -> bytes:
    tags = {}
    for name, primary in zip("rgb", primaries, strict=True):
        tags[f"{name}XYZ".encode()] = b"XYZ \0\0\0\0" + fixed(*primary)
        tags[f"{name}TRC".encode()] = curve(gamma)
    return icc(b"RGB ", b"XYZ ", b"mntr", tags)


def linear_profile() -> bytes:
    return rgb_profile(SRGB_PRIMARIES, 1.0)


def ink_profile() -> bytes:
    """CMYK of which only black ink shows: Lab lightness 100 (1 - K), a table of two points a channel."""
    ramp = bytes(range(256))
    table = b"".join(bytes([0 if corner & 1 else 255, 128, 128]) for corner in range(16))  # K runs fastest
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return icc(b"CMYK", b"Lab ", b"prtr", {b"A2B0": lut + 4 * ramp + table + 3 * ramp})


def srgb(linear: float) -> float:
    """IEC 61966-2-1, 0 to 255."""
    return 255 * (1.055 * linear ** (1 / 2.4) - 0.055 if linear > 0.0031308 else 12.92 * linear)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_embedded_profiles_are_converted_to_srgb(kind: str) -> None:
    grey = Image.new("RGB", (20, 20), (55, 55, 55))
    converted = np.asarray(decode_image(encoded(grey, kind, icc_profile=linear_profile())))
    assert abs(converted.astype(float) - srgb(55 / 255)).max() <= (2 if kind in LOSSLESS else 6)


def test_a_wide_gamut_is_brought_into_srgb() -> None:
    colour = np.array([200, 100, 60])
    data = encoded(
        Image.new("RGB", (20, 20), tuple(colour)), "PNG", icc_profile=rgb_profile(P3_PRIMARIES, 2.2)
    )
    xyz = np.array(P3_PRIMARIES).T @ (colour / 255) ** 2.2
    expected = [srgb(value) for value in np.linalg.solve(np.array(SRGB_PRIMARIES).T, xyz)]
    shown = np.asarray(decode_image(data))[5, 5]
    assert np.abs(shown - expected).max() <= 2
    assert shown[0] > 208, "P3's red is more of sRGB's"


def test_grey_and_its_sixteen_bits_have_profiles_too() -> None:
    profile = icc(b"GRAY", b"XYZ ", b"mntr", {b"kTRC": curve(1.0)})
    wide = Image.fromarray(np.full((20, 20), 55 * 257, np.uint16))
    for image in (Image.new("L", (20, 20), 55), wide):
        shown = np.asarray(decode_image(encoded(image, "PNG", icc_profile=profile)), float)
        assert abs(shown - srgb(55 / 255)).max() <= 2


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_is_read_through_its_profile(kind: str) -> None:
    inks = Image.new("CMYK", (24, 24), (255, 0, 255, 128))  # without the profile: a dark green
    options = {"quality": 95} if kind == "JPEG" else {}
    shown = np.asarray(decode_image(encoded(inks, kind, icc_profile=ink_profile(), **options)), float)
    lightness = 100 * (1 - 128 / 255)
    expected = srgb(((lightness + 16) / 116) ** 3)
    assert np.abs(shown - expected).max() <= 4


@pytest.mark.parametrize("profile", [b"garbage", linear_profile()[:200]])
def test_a_damaged_profile_is_ignored_and_said_so(profile: bytes) -> None:
    decoded = decode(encoded(PICTURE, "PNG", icc_profile=profile))
    assert difference(decoded.image, PIXELS) == 0
    assert decoded.notes == ("its colour profile cannot be used and was ignored",)


def test_a_profile_that_is_a_program_is_not_run() -> None:
    sign = struct.pack(">2H12f", 3, 3, -1, 0, 0, 0, -1, 0, 0, 0, -1, 1, 1, 1)  # the negative
    step = b"matf\0\0\0\0" + sign
    positions = struct.pack(">2I", 16 + 8 * 5001, len(step)) * 5001  # one step, as often as one likes
    program = b"mpet\0\0\0\0" + struct.pack(">2HI", 3, 3, 5001) + positions + step
    data = encoded(PICTURE, "PNG", icc_profile=icc(b"RGB ", b"XYZ ", b"mntr", {b"D2B0": program}))
    decoded = decode(data)
    assert difference(decoded.image, PIXELS) == 0
    assert decoded.notes == ("its colour profile cannot be used and was ignored",)


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
        assert decode(data).notes == ("its transparency was laid on white",)
    opaque = Image.fromarray(np.dstack([PIXELS, np.full((40, 48), 255, np.uint8)]))
    assert decode(encoded(opaque, "PNG")).notes == ()
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


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "HEIF", "MPO"])
def test_of_several_frames_the_first_counts_and_that_is_said(kind: str) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    decoded = decode(data)
    assert np.abs(np.asarray(decoded.image)[5, 5] - np.array([255.0, 0, 0])).max() <= 8
    assert decoded.notes == ("of several frames the first was read",)
    assert decode(encoded(PICTURE, "JPEG" if kind == "MPO" else kind)).notes == ()


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


def slow_jpeg(scans: int) -> bytes:
    """A progressive JPEG of 9 megapixels whose last scan comes again and again."""
    data = encoded(Image.new("RGB", (3000, 3000), "grey"), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + b"\xff\xd9"


def test_what_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decode(slow_jpeg(2), "endless.jpg").width == 3000
    monkeypatch.setattr(guard, "SECONDS", 1)
    with pytest.raises(InputError, match=r"endless\.jpg was not decoded within 1 seconds"):
        decode(slow_jpeg(20_000), "endless.jpg")
    monkeypatch.undo()
    assert decode(encoded(PICTURE, "TIFF")).width == 48, "the next image has a new process"


def test_what_does_not_move_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    decode(encoded(PICTURE, "TIFF"))
    monkeypatch.setattr(guard, "SECONDS", 1)
    monkeypatch.setattr(guard, "PATIENCE", 1)
    (child,) = guard._idle[os.getpid()][-1:]
    os.kill(child._process.pid, signal.SIGSTOP)
    with pytest.raises(InputError, match=r"asleep\.tif was not decoded within 1 seconds"):
        decode(encoded(PICTURE, "TIFF"), "asleep.tif")


def test_a_decoder_that_dies_is_an_error_of_its_image_alone() -> None:
    decode(encoded(PICTURE, "TIFF"))
    (child,) = guard._idle[os.getpid()][-1:]
    os.kill(child._process.pid, signal.SIGSTOP)
    killer = threading.Timer(0.3, child._process.kill)
    killer.start()
    with pytest.raises(InputError, match=r"evil\.tif made its decoder crash"):
        decode(encoded(PICTURE, "TIFF"), "evil.tif")
    assert decode(encoded(PICTURE, "TIFF")).width == 48
    guard._idle[os.getpid()][-1]._process.kill()
    guard._idle[os.getpid()][-1]._process.wait()
    assert decode(encoded(PICTURE, "TIFF")).width == 48, "one that died while idle is no one's error"


def test_memory_above_the_limit_is_refused_to_the_decoder() -> None:
    limited = "from verifier import guard; guard.MEMORY = 400 << 20; guard.serve()"
    data = encoded(Image.new("RGB", (12_000, 10_000)), "TIFF", compression="tiff_lzw")
    request = {"name": "large.tif", "max_pixels": images.MAX_PIXELS, "side": None, "seconds": 20}
    request["bytes"] = len(data)
    sent = json.dumps(request).encode() + b"\n" + data
    done = subprocess.run([sys.executable, "-c", limited], input=sent, capture_output=True, check=True)
    ready, reply = done.stdout.splitlines()
    assert ready == b"ready"
    assert "not enough memory" in json.loads(reply)["error"]


def test_guarded_and_not_the_pixels_are_the_same() -> None:
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        data = encoded(PICTURE, kind)
        here, there = decode(data), guard.decode_guarded(data, "x", images.MAX_PIXELS, None)
        assert here.image.tobytes() == there.image.tobytes()
        assert (here.width, here.height, here.notes) == (there.width, there.height, there.notes)


def test_many_threads_decode_at_once() -> None:
    data = {kind: encoded(PICTURE, kind) for kind in FORMATS}
    alone = {kind: decode(content).image.tobytes() for kind, content in data.items()}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda kind: decode(data[kind]).image.tobytes(), FORMATS * 8))
    assert found == [alone[kind] for kind in FORMATS * 8]


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpegs_are_decoded_at_the_scale_that_is_enough(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "large.jpg"
    PICTURE.resize((2400, 2000), Image.Resampling.BICUBIC).save(path, quality=95, exif=exif)
    turned = orientation == 6
    for side, scale in ((None, 1), (1001, 1), (1000, 2), (500, 4), (250, 8), (16, 8)):
        loaded = load_image(path, side)
        size = (2400 // scale, 2000 // scale)
        assert loaded.image.size == (size[::-1] if turned else size)
        assert (loaded.width, loaded.height) == ((2000, 2400) if turned else (2400, 2000))
        assert loaded.notes == ((f"decoded at 1/{scale} of its size",) if scale > 1 else ())
    small, full = load_image(path, 250).image, load_image(path).image.reduce(8)
    assert difference(small, np.asarray(full, float)) < 1


def test_what_is_decoded_in_one_pass_to_a_small_picture_needs_no_guard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = PICTURE.resize((3600, 3000), Image.Resampling.BICUBIC)
    data = encoded(large, "JPEG", quality=95)
    guarded = guard.decode_guarded(data, "x", images.MAX_PIXELS, 256)
    sent = []

    def instead(data: bytes, name: str, max_pixels: int, side: int | None) -> images.Decoded:
        sent.append(side)
        return images.decode_here(data, name, max_pixels, side)

    monkeypatch.setattr(guard, "decode_guarded", instead)
    here = decode(data, side=256)
    assert not sent
    assert here.image.tobytes() == guarded.image.tobytes()
    assert (here.width, here.height, here.notes, here.traits) == (
        guarded.width,
        guarded.height,
        guarded.notes,
        guarded.traits,
    )
    decode(data)
    decode(data, side=2000)  # at full size, which is too much to hold
    decode(encoded(large, "JPEG", progressive=True), side=256)
    monkeypatch.setattr(images, "ONE_SCAN_BYTES", len(data) - 1)
    monkeypatch.setattr(images, "QUICK_BYTES", {})
    decode(data, side=256)
    assert sent == [None, 2000, 256, 256]


def test_a_second_scan_after_one_with_everything_is_damage() -> None:
    data = encoded(PICTURE.resize((3600, 3000)), "JPEG")
    again = data[:-2] + data[data.index(b"\xff\xda") : -2] * 20 + b"\xff\xd9"
    with pytest.raises(InputError, match="damaged"):
        decode(again, side=256)


def test_every_format_can_be_read_here() -> None:
    assert readable_formats() == dict.fromkeys(images.FORMATS, True)


def test_a_file_that_is_written_to_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "growing.bin"
    path.write_bytes(b"x" * 1000)
    told = os.fstat
    stats = []

    def fstat(descriptor: int) -> os.stat_result:
        if stats:
            with path.open("ab") as file:  # between the two looks, as another program would
                file.write(b"more")
        stats.append(told(descriptor))
        return stats[-1]

    monkeypatch.setattr(images.os, "fstat", fstat)
    with pytest.raises(InputError, match="changed while it was read") as caught:
        images.read_bounded(path)
    assert "once it is written" in caught.value.hint


def test_traits_tell_how_a_file_was_made_guarded_or_not() -> None:
    exif = Image.Exif()
    exif[0x0110], exif[0x0131] = "Camera 7", "Darkroom 2.1"
    picture = Image.linear_gradient("L").convert("RGB")

    def traits(quality: int, **options: Any) -> tuple[str, ...]:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality, **options)
        data = file.getvalue()
        told = decode(data).traits
        assert guard.decode_guarded(data, "x", images.MAX_PIXELS, None).traits == told
        return told

    told = traits(90, exif=exif)
    assert told[:3] == ("JPEG", "256 x 256", "RGB")
    assert told[4:] == ("Camera 7", "Darkroom 2.1")
    assert traits(90)[3] == told[3] != traits(80)[3]
