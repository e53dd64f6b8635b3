"""Decoding of image files for both families: the allowed formats, errors for broken files, conversion to 8-bit RGB.

EXIF orientation is ignored and transparency dropped, as in timm and torchvision. Animations give their first frame.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION

# Pillow's warnings concern EXIF and transparency, which are not used.
warnings.filterwarnings("ignore", module=r"PIL\.")

_OF_ENDING = Image.registered_extensions()
# The formats of training images, the usual ones first. Pillow's other readers stay disabled: each is one more program
# that an unknown file can attack.
FORMATS = tuple(
    kind for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF") if kind in Image.OPEN
)
# Pillow opens an MPO, the format of cameras with two lenses, as a JPEG.
ENDINGS = frozenset(ending for ending, kind in _OF_ENDING.items() if kind in {*FORMATS, "MPO"})
# Greatest size. Pillow warns above this size, and fails only at twice as many pixels.
MOST_PIXELS = 89_478_485
# Greatest size of an image's file in an archive: that many pixels in 16 bits, with transparency, uncompressed.
MOST_BYTES = 8 * MOST_PIXELS
# Greatest aspect ratio. To resize the short side of a longer image would need too much memory.
LONGEST = 100
# Number of broken images that --check-data lists by name.
SHOWN = 20


class BrokenImage(Exception):
    """An image that is invalid or truncated, or whose brightness range is unknown. The message is the reason."""


@contextlib.contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """Open an image and read its header only; errors of decoding inside the block are converted too.

    Raises:
        BrokenImage: the image is invalid or truncated, or its size is implausible.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise BrokenImage(f"{image.width} x {image.height} pixels, more than {MOST_PIXELS}")
            if max(image.size) > LONGEST * min(image.size):
                raise BrokenImage(
                    f"{image.width} x {image.height} pixels, one side more than {LONGEST} times the other"
                )
            yield image
    except UnidentifiedImageError as error:
        raise BrokenImage(f"empty, or in none of the formats {', '.join(FORMATS)}") from error
    # Pillow raises these at a damaged file, or an implausible size in a header.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BrokenImage(str(error)) from error
    except (BrokenImage, MemoryError):
        raise
    # Some of Pillow's decoders raise other exceptions.
    except Exception as error:
        raise BrokenImage(f"{type(error).__name__}: {error}") from error


def begins_as_image(file: str | BinaryIO) -> bool:
    """Return whether a file has an image's header; the rest may be damaged."""
    try:
        Image.open(file, formats=FORMATS).close()
    except UnidentifiedImageError:
        return False
    except Exception:  # The reader recognized the header, then failed.
        return True
    return True


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB. Scale grayscale images of more bits, which Pillow would clip at 255.

    Raises:
        BrokenImage: a grayscale image in 32 bits or floating point, whose range no format states.
    """
    # Mode I has 32 bits, but PNG and PPM use only 16 of them.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        tags = image.tag_v2 if image.format == "TIFF" else {BITSPERSAMPLE: (16,)}
        grays = (np.asarray(image) >> (tags[BITSPERSAMPLE][0] - 8)).astype(np.uint8)
        # Pillow inverts a TIFF in which 0 is white at 8 bits, but not at 16.
        return Image.fromarray(~grays if tags.get(PHOTOMETRIC_INTERPRETATION) == 0 else grays).convert("RGB")
    if image.mode in ("I", "F"):
        raise BrokenImage(f"mode {image.mode}, grayscale with an unknown range; convert it to 8 or 16 bits")
    return image if image.mode == "RGB" else image.convert("RGB")
