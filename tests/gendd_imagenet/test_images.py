"""Views of a photograph: equal to timm's, from any format, and files that are refused."""

import io
import pickle
import random
import struct
import zlib
from importlib.resources import files

import numpy as np
import pytest
import torch
from lines import refuses
from PIL import Image
from programs import imagenet_config

from gendd_imagenet.images import BrokenImage, EvalView, TrainView, seeded

# These imports come after gendd, which makes torchvision work with a CPU-only torch.
from timm.data.transforms_factory import transforms_imagenet_eval, transforms_imagenet_train  # isort: skip
from torchvision.transforms import ColorJitter, Compose  # isort: skip
from torchvision.transforms.functional import pil_to_tensor  # isort: skip

# Two photographs of 640 x 427 pixels.
PHOTOGRAPHS = [files("sklearn.datasets.images").joinpath(name).read_bytes() for name in ("china.jpg", "flower.jpg")]


def config(*flags, size=224):
    return imagenet_config("--student", "resnet18", "--image-size", str(size), *flags)


def opened(content):
    return Image.open(io.BytesIO(content))


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def apart(one, other):
    """Return the mean absolute difference in levels of 255."""
    assert one.shape == other.shape and one.dtype == other.dtype == torch.uint8
    return (one.float() - other.float()).abs().mean().item()


def timms(settings):
    """Return a function that applies timm's transforms to the whole decoded photograph."""
    transforms = transforms_imagenet_train(
        settings.data.image_size,
        scale=settings.data.crop_scale,
        hflip=settings.data.hflip,
        color_jitter=settings.data.color_jitter,
        auto_augment=settings.data.auto_augment,
        interpolation=settings.data.interpolation,
        normalize=False,
    )

    def view(content, *key):
        with seeded(*key):
            return transforms(opened(content).convert("RGB"))

    return view


# Views


@pytest.mark.parametrize(
    ("flags", "limit"),
    [
        (("--interpolation", "bicubic"), 0.02),
        ((), 0.05),
        # Small crops are enlarged with 16-bit weights, while Pillow uses 22 bits.
        (("--crop-scale", "0.08", "1", "--interpolation", "bilinear"), 0.2),
        (("--color-jitter", "0.4", "--hflip", "1"), 0.05),
        (("--auto-augment", "rand-m7-n2-mstd0.5"), 0.05),
    ],
)
def test_train_view_equals_timms(flags, limit):
    ours, reference = TrainView(config(*flags)), timms(config(*flags))
    for number in range(8):
        content = PHOTOGRAPHS[number % 2]
        assert apart(ours(content, 0, number), reference(content, 0, number)) < limit


def test_color_jitter_precedes_the_policy():
    name = "rand-m7-n2-mstd0.5"
    view = TrainView(config("--color-jitter", "0.4", "--auto-augment", name))
    settings = {"scale": (0.6, 1), "interpolation": "bilinear", "auto_augment": name}
    crop_and_flip, policy, _ = transforms_imagenet_train(224, **settings, separate=True)
    reference = Compose([crop_and_flip, ColorJitter(0.4, 0.4, 0.4, 0), policy, pil_to_tensor])
    for number in range(4):
        with seeded(0, number):
            expected = reference(opened(PHOTOGRAPHS[number % 2]).convert("RGB"))
        assert apart(view(PHOTOGRAPHS[number % 2], 0, number), expected) < 0.1


def test_jpeg_shrunk_by_its_decoder_gives_nearly_same_view(monkeypatch):
    mosaic = Image.new("RGB", (2560, 1708))
    for number in range(16):
        mosaic.paste(opened(PHOTOGRAPHS[number % 2]), (number % 4 * 640, number // 4 * 427))
    # A share of 1 fits only the photograph's aspect ratio: timm then takes the center, 2277 x 1708.
    settings = config("--crop-scale", "1", "1")
    jpeg, plain = encoded(mosaic, "JPEG", quality=90), encoded(mosaic, "BMP")
    ours, reference, decoded, crop = TrainView(settings), timms(settings), [], Image.Image.crop
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "crop", lambda image, box: decoded.append(image.size) or crop(image, box))
        views = [ours(content, 0) for content in (jpeg, plain)]
    # The decoder halves the image, since a quarter of 1708 would be below 2 x 224.
    assert decoded == [(1280, 854), (2560, 1708)]
    assert apart(views[0], reference(jpeg, 0)) < 1
    assert apart(views[1], reference(plain, 0)) < 0.02


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.95, 1.0])
def test_eval_view_equals_timms(interpolation, crop_pct):
    ours = EvalView(224, crop_pct, interpolation)
    reference = transforms_imagenet_eval(224, crop_pct, interpolation=interpolation, normalize=False)
    landscape = opened(PHOTOGRAPHS[0])
    sizes = [(640, 427), (427, 640), (256, 256), (224, 300), (641, 90), (5, 7), (1, 1)]
    for image in (landscape.resize(size) for size in sizes):
        assert apart(ours(encoded(image)), reference(image)) < 0.5, image.size


def test_view_depends_on_its_key_only():
    view = TrainView(config("--color-jitter", "0.4", size=32))
    policy = TrainView(config("--auto-augment", "rand-m7-n2-mstd0.5", size=32))
    for make in (view, policy):
        first = make(PHOTOGRAPHS[0], 0, "augmentation", 3, 1)
        for generator in (random.seed, np.random.seed, torch.manual_seed):
            generator(99)
        assert torch.equal(first, make(PHOTOGRAPHS[0], 0, "augmentation", 3, 1))
        for other in ((1, "augmentation", 3, 1), (0, "augmentation", 4, 1), (0, "augmentation", 3, 2)):
            assert not torch.equal(first, make(PHOTOGRAPHS[0], *other))


def test_view_does_not_change_the_global_random_state():
    view = TrainView(config("--color-jitter", "0.4", size=32))
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    view(PHOTOGRAPHS[0], 1)
    assert torch.equal(torch.rand(4), expected)


def test_view_can_be_pickled_for_workers():
    view = TrainView(config("--auto-augment", "rand-m7-n2-mstd0.5", size=32))
    assert torch.equal(pickle.loads(pickle.dumps(view))(PHOTOGRAPHS[1], 7), view(PHOTOGRAPHS[1], 7))


def test_unknown_policy_is_refused():
    for policy in ("randaugment", "rand-m7-x2", "rand-m7.5", "v9"):
        with refuses(f"^--auto-augment {policy}: "):
            TrainView(config("--auto-augment", policy))


# Formats


def views(content):
    """Yield the color of the training view and of the evaluation view of a one-color image."""
    for view in (TrainView(config(size=16))(content, 0), EvalView(16, 0.875, "bicubic")(content)):
        assert view.shape == (3, 16, 16)
        assert len(view.flatten(1).unique(dim=1)[0]) == 1
        yield view[:, 0, 0].tolist()


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "LA", "P", "RGBA", "CMYK"])
@pytest.mark.parametrize("size", [(40, 30), (3, 2)])
def test_every_mode_becomes_rgb(mode, size):
    image = Image.new("RGB", size, (200, 100, 50))
    image = image.convert(mode, dither=Image.Dither.NONE, palette=Image.Palette.ADAPTIVE)
    expected = list(image.convert("RGB").getpixel((0, 0)))
    for color in views(encoded(image, "TIFF" if mode == "CMYK" else "PNG")):
        assert color == expected


def test_gray_and_cmyk_jpegs_become_rgb():
    for mode in ("L", "CMYK"):
        image = Image.new("RGB", (40, 30), (200, 100, 50)).convert(mode)
        for color in views(encoded(image, "JPEG")):
            assert np.abs(np.subtract(color, image.convert("RGB").getpixel((0, 0)))).max() <= 3


def test_16_bit_grays_keep_their_brightness():
    for color in views(encoded(Image.fromarray(np.full((30, 40), 129 * 256 + 7, np.uint16)))):
        assert color == [129] * 3


def test_exif_orientation_is_ignored():
    image = Image.new("RGB", (32, 32), "red")
    image.paste("blue", (0, 16, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 3
    view = EvalView(32, 1.0, "bicubic")(encoded(image, "JPEG", exif=exif, quality=95))
    assert view[0, 2, 2] > 200 and view[2, 29, 29] > 200


# Refusals


def reason(content):
    reasons = set()
    for view in (lambda content: TrainView(config(size=16))(content, 0), EvalView(16, 0.875, "bicubic")):
        with pytest.raises(BrokenImage) as caught:
            view(content)
        reasons.add(str(caught.value))
    assert len(reasons) == 1 and "0x" not in min(reasons)
    return reasons.pop()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_truncated_file_is_refused(kind):
    content = encoded(opened(PHOTOGRAPHS[0]).resize((64, 48)), kind)
    for share in (0.02, 0.3, 0.6, 0.9):
        assert reason(content[: int(share * len(content))])


def test_half_a_photograph_is_truncated():
    assert "truncated" in reason(PHOTOGRAPHS[0][: len(PHOTOGRAPHS[0]) // 2])


def test_other_files_than_images_are_refused():
    for content in (b"", b"<html>404</html>", bytes(1000)):
        assert reason(content).startswith("empty, or in none of the formats JPEG, PNG")


def test_huge_or_narrow_images_are_refused():
    content = encoded(Image.new("RGB", (40, 30)))
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    assert content[12:16] == header[:4]
    assert "3600000000 pixels" in reason(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
    assert "1 x 30000 pixels" in reason(encoded(Image.new("RGB", (1, 30000))))


def test_image_too_small_for_its_crop_is_refused():
    view, pixel = TrainView(config("--crop-scale", "0.08", "0.08", size=16)), encoded(Image.new("RGB", (1, 1)))
    with pytest.raises(BrokenImage, match="1 x 1 pixels"):
        view(pixel, 0)
