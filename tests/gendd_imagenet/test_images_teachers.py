"""Several teachers on a folder of images without labels: sizes, normalizations, processes, shards and Python."""

import json
import shutil

import pytest
import torch
from forked import run_in_two
from lines import refuses
from programs import train_imagenet
from small_runs import assert_same_weights
from toy import wide

import gendd
from gendd.core.distributed import World
from gendd.core.errors import InvalidSetting
from gendd.core.seeding import BatchPlan
from gendd.programs.main import main

# Several processes cannot train the empty classifier of toy:network.
FLAGS = ["--student", "toy:wide", "--image-size", "32", "--batch-size", "20", "--workers", "0", "--epochs", "2",
         "--warmup-epochs", "0", "--lr", "5e-3", "--precision", "fp32", "--predictor", "linear", "--feature-mixup",
         "0"]  # fmt: skip
TEACHERS = ["--teacher", "timm/test_resnet", "--teacher-weights", "random", "--teacher", "toy:wide",
            "--teacher-image-size", "48"]  # fmt: skip
LABEL = "head_toy.wide"


@pytest.fixture(scope="module")
def flat(photos, tmp_path_factory):
    root = tmp_path_factory.mktemp("flat")
    for image in (photos / "train").rglob("*.JPEG"):
        shutil.copy(image, root)
    return root


@pytest.fixture(scope="module")
def run(flat, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    train_imagenet(["regression", *FLAGS, "--images", str(flat), *TEACHERS, "--out", str(out)])
    return out


def test_each_teacher_sees_its_size_and_normalization(run):
    loaded = gendd.load(run, with_teacher=True)
    access, world = loaded.family.access, World(0, 1, 0, loaded.device)
    data = access.open_evaluation(loaded.config, BatchPlan(0, 1), world, loaded.backbone)
    _, images, _ = next(iter(data.batches()))
    mean, std = (torch.tensor(loaded.backbone.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    pixels = images * std + mean
    network = wide(0)
    own_mean, own_std = (torch.tensor(network.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    large = torch.nn.functional.interpolate((pixels - own_mean) / own_std, (48, 48), mode="bicubic", antialias=False)
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(large), pre_logits=True)
    torch.testing.assert_close(loaded.more_teachers[0].features_of(images), expected, rtol=1e-4, atol=1e-4)
    output, _ = loaded.task.further_outputs(loaded.model)[0]
    torch.testing.assert_close(output.target(images, None), expected, rtol=1e-4, atol=1e-4)


def test_result_has_scores_of_each_teacher(run):
    result = json.loads((run / "result.json").read_text())
    assert list(result["last"]) == list(result["outputs"]) == ["head", "linear", LABEL]
    assert all({"cosine", "r2"} <= set(scores) for scores in result["last"].values())


def test_two_processes_train_as_one(run, flat, tmp_path):
    flags = ["regression", *FLAGS, "--images", str(flat), *TEACHERS, "--out", str(tmp_path / "run")]
    run_in_two(lambda: train_imagenet(flags), tmp_path)
    assert_same_weights(run, tmp_path / "run", rtol=1e-2, atol=1e-3)


def test_two_processes_fill_the_cache_of_each_teacher(flat, tmp_path):
    flags = ["regression", *FLAGS, "--images", str(flat), "--cached-views", "1"]
    train_imagenet([*flags, *TEACHERS, "--teacher-cache", str(tmp_path / "one"), "--out", str(tmp_path / "alone")])
    flags += ["--teacher-cache", str(tmp_path / "two"), *TEACHERS, "--out", str(tmp_path / "together")]
    run_in_two(lambda: train_imagenet(flags), tmp_path)
    for name in ("view-000-000000.fp16", "teacher2/view-000-000000.fp16"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert_same_weights(tmp_path / "alone", tmp_path / "together", rtol=1e-3, atol=1e-4)


def test_distill_takes_a_list_of_teachers(flat, tmp_path):
    options = {
        "method": "regression",
        "image_size": 32,
        "batch_size": 20,
        "workers": 0,
        "epochs": 1,
        "warmup_epochs": 0,
        "predictor": "linear",
    }
    teachers = ["toy:own", "toy:wide"]
    run = gendd.distill(teachers, "toy:network", flat, out=tmp_path, precision="fp32", **options)
    assert run.outputs == ("head", "linear", LABEL)
    assert run.config.networks.teacher_names == tuple(teachers)
    with pytest.raises(InvalidSetting, match="only the first of several teachers can be a Python object"):
        gendd.distill(["toy:own", wide(0)], "toy:network", flat, **options)
    with pytest.raises(InvalidSetting, match="the list of teachers is empty; name one"):
        gendd.distill([], "toy:network", flat, **options)


def test_reinforced_shards_have_one_teacher(flat, tmp_path):
    words = [str(flat), str(tmp_path / "out"), "--teacher", "toy:own", "--views", "1", "--image-size", "32"]
    main("gendd_imagenet", ["reinforce", *words, "--workers", "0", "--precision", "fp32"])
    with refuses("--teacher toy:own toy:wide: --images .*out holds the features of one; name it alone, or train on"):
        train_imagenet(["regression", *FLAGS, "--images", str(tmp_path / "out"), "--teacher", "toy:own", *TEACHERS[4:]])
