"""Image files as both families decode them: which formats, whole or refused, and 8-bit RGB from every mode.

EXIF orientation is ignored and transparency dropped, as in timm and torchvision; of several frames the first is read.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE

# Faults of what is not used (EXIF, transparency) are no news.
warnings.filterwarnings("ignore", module=r"PIL\.")

_OF_ENDING = Image.registered_extensions()
# What people train on, the usual ones first. Pillow's readers of all other formats stay off: each one is one more
# program that an unknown file may attack.
FORMATS = tuple(
    kind for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF") if kind in Image.OPEN
)
# Pillow opens an MPO, the format of cameras with two lenses, as a JPEG.
ENDINGS = frozenset(ending for ending, kind in _OF_ENDING.items() if kind in {*FORMATS, "MPO"})
# Times that one side may be as long as the other; resizing the other of a longer one would fill the memory.
LONGEST = 100
# Broken images that --check-data names.
SHOWN = 20


class BrokenImage(Exception):
    """Bytes that are no image, or only a part of one, or whose brightness has no known range. The message is the
    reason."""


@contextlib.contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """An image of which only the header is read yet; decoding it inside the block raises the same error.

    Raises:
        BrokenImage: the bytes are not one whole image, or its size is absurd.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if max(image.size) > LONGEST * min(image.size):
                raise BrokenImage(
                    f"{image.width} x {image.height} pixels, one side more than {LONGEST} times the other"
                )
            yield image
    except UnidentifiedImageError as error:
        raise BrokenImage(f"empty, or in none of the formats {', '.join(FORMATS)}") from error
    # Pillow's words for a damaged file, or an absurd size in a header.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BrokenImage(str(error)) from error
    except (BrokenImage, MemoryError):
        raise
    # Some of its decoders raise almost anything.
    except Exception as error:
        raise BrokenImage(f"{type(error).__name__}: {error}") from error


def begins_as_image(file: str | BinaryIO) -> bool:
    """Whether a file has the header of an image, whole or not."""
    try:
        Image.open(file, formats=FORMATS).close()
    except UnidentifiedImageError:
        return False
    except Exception:  # A header, but a damaged one: its reader raises almost anything.
        return True
    return True


def as_rgb(image: Image.Image) -> Image.Image:
    """The image in 8-bit RGB; greys of more bits, which Pillow would cut off at 255, are scaled.

    Raises:
        BrokenImage: greys of 32 bits or floating point: no format states their range.
    """
    # Mode I is 32 bits wide, but a PNG or PPM fills 16 of them.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        bits = image.tag_v2[BITSPERSAMPLE][0] if image.format == "TIFF" else 16
        return Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BrokenImage(f"mode {image.mode}, greys whose range nothing states; convert it to 8 or 16 bits")
    return image if image.mode == "RGB" else image.convert("RGB")
