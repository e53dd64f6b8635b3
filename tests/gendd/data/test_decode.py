"""Formats and modes of image files: each gives 8-bit RGB or an error that names the mode."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from gendd.data.decode import ENDINGS, FORMATS, BrokenImage, as_rgb, begins_as_image, opened

# Bright and dark squares, whose levels exist both in 16 bits and in 8 bits.
GREYS = np.kron(np.array([[0, 64], [129, 255]], np.uint8), np.ones((8, 8), np.uint8))


def encoded(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def read(content):
    with opened(content) as image:
        return np.asarray(as_rgb(image))


def tiff_of_12_bits(greys):
    """Pack two pixels in three bytes; gray levels are multiples of 16."""
    values = (greys.astype(int) << 4).reshape(-1, 2)
    packed = b"".join(((one << 12) | other).to_bytes(3, "big") for one, other in values.tolist())
    height, width = greys.shape
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8 + 2 + 9 * 12 + 4, 277: 1, 278: height,
            279: len(packed)}  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + packed


@pytest.mark.parametrize("kind", ["PNG", "PPM", "TIFF", "JPEG2000"])
def test_16_bit_grays_are_scaled_to_8(kind):
    """A 16-bit PPM has mode I, which does not state its range."""
    content = encoded(GREYS.astype(np.uint16) * 257, kind, **({"irreversible": False} if kind == "JPEG2000" else {}))
    with opened(content) as image:
        assert image.mode in ("I", "I;16")
    assert np.array_equal(read(content), np.repeat(GREYS[..., None], 3, axis=2))


def test_16_bit_tiff_in_which_0_is_white_is_inverted():
    """Pillow inverts 8 bits when it writes and when it reads, but 16 bits never."""
    for pixels in (GREYS, (255 - GREYS).astype(np.uint16) * 257):
        content = encoded(pixels, "TIFF", tiffinfo={262: 0})
        with opened(content) as image:
            assert image.tag_v2[262] == 0
        assert np.array_equal(read(content)[..., 0], GREYS), pixels.dtype


def test_12_bit_grays_are_scaled_to_8():
    assert np.array_equal(read(tiff_of_12_bits(GREYS))[..., 0], GREYS)


def test_16_bit_png_opened_as_32_bits_is_scaled():
    image = Image.fromarray(GREYS.astype(np.int32) * 257)
    image.format = "PNG"
    assert np.array_equal(np.asarray(as_rgb(image))[..., 0], GREYS)


@pytest.mark.parametrize(("kind", "mode"), [(np.int32, "I"), (np.float32, "F")])
def test_grays_of_unknown_range_are_refused_by_mode(kind, mode):
    with pytest.raises(BrokenImage, match=f"^mode {mode}, "):
        read(encoded(GREYS.astype(kind), "TIFF"))


def test_decoder_reads_format_of_every_common_extension():
    assert {".jpg", ".jpeg", ".jfif", ".png", ".gif", ".webp", ".avif", ".bmp", ".tif", ".ppm", ".mpo"} <= ENDINGS
    rgb = np.repeat(GREYS[..., None], 3, axis=2)
    for kind in ("PNG", "GIF", "BMP", "TIFF", "PPM"):
        assert np.array_equal(read(encoded(rgb, kind)), rgb), kind


@pytest.mark.parametrize("kind", ["EPS", "PSD", "TGA", "ICO", "PCX"])
def test_decoder_refuses_uncommon_formats(kind):
    """Each decoder exposes one more program to unknown files; EPS would even start a program."""
    assert kind not in FORMATS and not ENDINGS & {f".{kind.lower()}"}
    content = b"8BPS\0\1" + bytes(40) if kind == "PSD" else encoded(np.repeat(GREYS[..., None], 3, axis=2), kind)
    with pytest.raises(BrokenImage, match="^empty, or in none of the formats JPEG, PNG"):
        read(content)
    assert not begins_as_image(io.BytesIO(content))


def test_decompression_bomb_is_an_error_not_a_warning():
    """A PNG of 12 KB that needs 300 MB. Pillow alone warns at up to twice MAX_IMAGE_PIXELS."""
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10_000_000))
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    with pytest.raises(BrokenImage, match="^10000 x 10000 pixels, more than 89478485$"):
        read(content)


def test_begins_as_image_looks_at_first_bytes(tmp_path):
    png = encoded(GREYS, "PNG")
    for content, image in ((png, True), (png[:-20], True), (b"", False), (b"Copyright: none\n" * 20, False)):
        path = tmp_path / "file"
        path.write_bytes(content)
        assert begins_as_image(str(path)) == image, content[:16]


def without_content(avif):
    begin = avif.index(b"mdat") + 4
    return avif[:begin] + b"\xff" * (len(avif) - begin)


def test_damaged_avif_is_a_broken_image():
    """The AVIF decoder alone raises RuntimeError."""
    content = without_content(encoded(np.repeat(GREYS[..., None], 3, axis=2), "AVIF"))
    with pytest.raises(BrokenImage):
        read(content)
    assert begins_as_image(io.BytesIO(content))


def test_memory_error_is_not_a_broken_image():
    with pytest.raises(MemoryError), opened(encoded(GREYS, "PNG")):
        raise MemoryError
