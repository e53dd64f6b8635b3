"""The cache of teacher features: its content, which processes fill it, and its errors."""

import json
import re
import time
from pathlib import Path

import pytest
import torch
from faults import STALE, failing
from forked import run_in_two
from lines import refuses
from toy import ToyNetwork

from gendd.config import Config
from gendd.core import retry
from gendd.core.distributed import World, join_world
from gendd.core.errors import PassingFault
from gendd.core.long_work import LongWork
from gendd.core.seeding import BatchPlan
from gendd.data.batch import Normalize
from gendd.distillation import teacher_cache
from gendd.distillation.teacher import FrozenTeacher
from gendd.distillation.teacher_cache import open_cache
from gendd.methods import METHODS
from gendd.networks.feature_map import on_grid
from gendd.runs import claim
from gendd_cifar.data import TrainingImages
from gendd_cifar.sources import Images, Source

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, CPU)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
IMAGES, BATCH, VIEWS = 50, 16, 3


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Make seven shards per view, the last one shorter, and three batches per shard."""
    monkeypatch.setattr(teacher_cache, "SHARD_IMAGES", 8)
    monkeypatch.setattr(teacher_cache, "TEACHER_BATCH", 3)


def teacher_of(seed=0, precision="fp32", kind_of=ToyNetwork, **options):
    torch.manual_seed(seed)
    network = kind_of(10)
    network.pretrained_cfg = {"mean": MEAN, "std": STD, "input_size": (3, 16, 16)}
    return FrozenTeacher(network, network, CPU, precision, **options)


class Setting:
    """A run with a cache, without the training."""

    def __init__(self, folder, teacher=None, images=IMAGES, images_seed=0, seed=0, views=VIEWS, maps="fp16", **options):
        noise = torch.Generator().manual_seed(images_seed)
        pixels = torch.randint(256, (images, 3, 16, 16), generator=noise, dtype=torch.uint8)
        train = Images(pixels, torch.arange(images))
        plan = BatchPlan(seed, BATCH)
        source, normalize = Source(train, (None,) * images), Normalize(MEAN, STD, CPU)
        self.data = TrainingImages(source, plan, normalize, CPU, cached_views=views, **options)
        self.config = Config(method=METHODS["kd"]()).changed(
            teacher="toy:network", teacher_cache=str(folder), cached_views=views, cached_maps=maps, seed=seed
        )
        self.teacher, self.taken = teacher or teacher_of(), []
        self.compute, self.teacher.outputs_of = self.teacher.outputs_of, self.outputs_of

    def outputs_of(self, images):
        self.taken.append(len(images))
        return self.compute(images)

    def open(self, world=ALONE):
        return open_cache(self.config, self.data, self.teacher, world)


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refusal(setting: Setting) -> str:
    with refuses() as caught:
        setting.open()
    assert len(str(caught.value).splitlines()) == 1 and str(caught.value).startswith("--teacher-cache")
    return str(caught.value)


@torch.no_grad()
def test_cache_holds_teacher_outputs_of_each_view(tmp_path):
    setting = Setting(tmp_path)
    cache, steps = setting.open(), range(4 * setting.data.steps_per_epoch)
    for batch in setting.data.batches(steps):
        feature_map = setting.teacher.model.forward_features(batch.images)
        expected = setting.teacher.model.forward_head(feature_map, pre_logits=True)
        torch.testing.assert_close(cache.features(batch).float(), expected, rtol=1e-3, atol=1e-4)
    assert sum(setting.taken) == VIEWS * IMAGES, "the teacher sees each view of an image once"


def test_opened_cache_is_read_after_one_trial_batch(tmp_path):
    Setting(tmp_path).open()
    again = Setting(tmp_path)
    again.open()
    assert again.taken == [8]


@torch.no_grad()
@pytest.mark.parametrize(("maps", "apart"), [("fp16", 1e-3), ("int8", 1e-2)])
def test_cache_holds_maps_of_each_view(maps, apart, tmp_path, capsys):
    setting = Setting(tmp_path, teacher_of(grid=2), maps=maps)
    cache, width = setting.open(), setting.teacher.width
    for batch in setting.data.batches(range(2 * setting.data.steps_per_epoch)):
        expected, stored = setting.compute(batch.images), cache.features(batch)
        torch.testing.assert_close(stored[:, :width], expected[:, :width], rtol=1e-3, atol=1e-4)
        assert (stored - expected)[:, width:].norm() / expected[:, width:].norm() < apart
    assert ("int8 moves the maps by 0." in capsys.readouterr().out) == (maps == "int8")


def test_cache_of_features_adds_maps_and_serves_both(tmp_path):
    Setting(tmp_path / "whole", teacher_of(grid=2)).open()
    Setting(tmp_path / "grown").open()
    there = files(tmp_path / "grown")
    added = Setting(tmp_path / "grown", teacher_of(grid=2))
    added.open()
    assert sum(added.taken) == 8 + VIEWS * IMAGES
    assert files(tmp_path / "grown") == files(tmp_path / "whole") and there.items() < files(tmp_path / "whole").items()
    without = Setting(tmp_path / "whole")
    assert without.open().features(next(without.data.batches(range(1)))).shape[1] == without.teacher.width
    assert without.taken == [8]


class Stages(ToyNetwork):
    """Its stage s has a map of 2 + s times the last one."""

    def forward_intermediates(self, images, indices, **options):
        features = self.forward_features(images)
        return features, [(2 + index) * features for index in indices]


@torch.no_grad()
def test_maps_of_several_stages_share_a_folder(tmp_path):
    for layer, factor in ((None, 1), (0, 2), (1, 3)):
        setting = Setting(tmp_path, teacher_of(grid=2, layer=layer, kind_of=Stages))
        cache, batch = setting.open(), next(setting.data.batches(range(1)))
        expected = factor * on_grid(setting.teacher.model.forward_features(batch.images), 2).flatten(2).mT.flatten(1)
        stored = cache.features(batch)[:, setting.teacher.width :]
        torch.testing.assert_close(stored, expected, rtol=1e-3, atol=1e-3)


def test_cached_maps_of_another_teacher_are_refused(tmp_path):
    Setting(tmp_path, teacher_of(grid=2)).open()
    again = Setting(tmp_path, teacher_of(grid=2))
    compute, width = again.compute, again.teacher.width
    again.compute = lambda images: torch.cat([compute(images)[:, :width], 2 * compute(images)[:, width:]], 1)
    assert "differ by 50% from the cached ones in map2-000-000000.fp16" in refusal(again)


def test_damaged_map_is_named(tmp_path):
    Setting(tmp_path, teacher_of(grid=2), maps="int8").open()
    damaged = tmp_path / "map2-001-000000.int8"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert "map2-001-000000.int8 is damaged; delete this file" in refusal(
        Setting(tmp_path, teacher_of(grid=2), maps="int8")
    )


def test_several_processes_fill_cache_with_same_bytes(tmp_path):
    Setting(tmp_path / "one").open()
    for rank in (1, 2, 0):
        setting = Setting(tmp_path / "three")
        cache = teacher_cache.cache_of(setting.config, setting.data, setting.teacher)
        (tmp_path / "three").mkdir(exist_ok=True)
        cache.fill(setting.outputs_of, LongWork(World(rank, 3, rank, CPU)))
        assert sum(setting.taken) < VIEWS * IMAGES / 2
    one, three = files(tmp_path / "one"), files(tmp_path / "three")
    assert one.pop("cache.json") and one == three and len(one) == 7 * VIEWS


def test_shard_may_take_longer_than_other_processes_wait(tmp_path):
    """One shard, which the first process computes in 15 batches of a quarter of a second."""
    setting = Setting(tmp_path / "cache", images=45, views=1)
    compute = setting.compute

    def slow(images):
        time.sleep(0.25)
        return compute(images)

    def fill():
        teacher_cache.SHARD_IMAGES, setting.compute = 45, slow
        with join_world() as world:
            setting.open(world)

    run_in_two(fill, tmp_path, PEER_TIMEOUT=2)


def test_interrupted_fill_resumes(tmp_path):
    whole = Setting(tmp_path / "whole")
    whole.open()
    setting = Setting(tmp_path / "parts")
    compute = setting.compute

    def dies(images):
        if len(setting.taken) == 10:
            raise KeyboardInterrupt
        return compute(images)

    setting.compute = dies
    with pytest.raises(KeyboardInterrupt):
        setting.open()
    there = files(tmp_path / "parts")
    assert len(there) == 1 + 3, "three shards of three batches, and cache.json"
    setting.compute, setting.taken = compute, []
    setting.open()
    assert sum(setting.taken) == 8 + VIEWS * IMAGES - 3 * 8, "a trial batch, and the missing shards"
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_cache_adds_views_and_serves_fewer(tmp_path):
    Setting(tmp_path / "whole").open()
    Setting(tmp_path / "grown", views=1).open()
    assert len(files(tmp_path / "grown")) == 1 + 7
    Setting(tmp_path / "grown").open()
    assert files(tmp_path / "grown") == files(tmp_path / "whole")
    fewer = Setting(tmp_path / "grown", views=2)
    fewer.open()
    assert fewer.taken == [8]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop_padding": 2}, "crop padding 4 there, 2 here"),
        ({"hflip": 0.0}, "hflip 0.5 there, 0.0 here"),
        ({"images": 48}, "images 50 there, 48 here; images sha256"),
        ({"images_seed": 1}, "images sha256"),
        ({"teacher": teacher_of(1)}, "teacher weights sha256"),
        ({"teacher": teacher_of(0, "bf16")}, "teacher precision fp32 there, bf16 here; teacher weights sha256"),
    ],
)
def test_cache_of_other_settings_is_refused(changes, words, tmp_path):
    Setting(tmp_path).open()
    before = files(tmp_path)
    message = refusal(Setting(tmp_path, **changes))
    assert f"was made from other settings: {words}" in message
    assert message.endswith("name another folder, or delete this one")
    assert files(tmp_path) == before


def test_cache_of_teacher_with_other_name_is_refused(tmp_path):
    Setting(tmp_path).open()
    setting = Setting(tmp_path)
    setting.config = setting.config.changed(teacher="resnet8")
    assert "teacher toy:network there, resnet8 here;" in refusal(setting)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher_mean": (0.1, 0.2, 0.3)}, r"teacher mean None there, \[0.1, 0.2, 0.3\] here"),
        ({"teacher_image_size": 24}, "teacher image size None there, 24 here"),
    ],
)
def test_cache_of_other_teacher_images_is_refused(changes, words, tmp_path):
    Setting(tmp_path).open()
    setting = Setting(tmp_path)
    setting.config = setting.config.changed(**changes)
    assert re.search(f"other settings: {words};", refusal(setting))


def test_cache_of_other_teacher_feature_is_refused(tmp_path):
    Setting(tmp_path).open()
    other = teacher_of(kind="patch-mean", width=64)
    assert "teacher feature None there, patch-mean here;" in refusal(Setting(tmp_path, other))


@pytest.mark.parametrize("shard", ["view-000-000000.fp16", "view-002-000006.fp16"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:1],
        lambda content: b"",
        lambda content: content + b"x",
        lambda content: bytes([content[0] ^ 1]) + content[1:],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    ],
)
def test_damaged_cache_shard_is_named_and_rebuilt_if_deleted(shard, damage, tmp_path):
    Setting(tmp_path).open()
    whole = files(tmp_path)
    (tmp_path / shard).write_bytes(damage(whole[shard]))
    assert f"{shard} is damaged; delete this file" in refusal(Setting(tmp_path))
    (tmp_path / shard).unlink()
    Setting(tmp_path).open()
    assert files(tmp_path) == whole


def test_cache_without_its_record_is_refused(tmp_path):
    Setting(tmp_path).open()
    record = tmp_path / "cache.json"
    assert json.loads(record.read_text())["teacher"] == "toy:network"
    for damaged in (record.read_text()[:-5], "null"):
        record.write_text(damaged)
        assert "its cache.json is damaged" in refusal(Setting(tmp_path))
    record.unlink()
    assert "holds features, but its cache.json is missing" in refusal(Setting(tmp_path))


@pytest.mark.parametrize("name", ["read_text", "read_bytes"])
def test_temporary_read_errors_damage_no_cache(name, tmp_path, monkeypatch):
    Setting(tmp_path).open()
    monkeypatch.setattr(retry, "PAUSES", (0,))
    monkeypatch.setattr(Path, name, failing(getattr(Path, name), [STALE]))
    Setting(tmp_path).open()
    monkeypatch.setattr(Path, name, failing(getattr(Path, name), [STALE] * 2))
    with pytest.raises(PassingFault, match="cannot be read"):
        Setting(tmp_path).open()


def test_cache_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written (Not a directory)" in refusal(Setting(tmp_path / "file" / "cache"))


def test_features_beyond_float16_are_refused(tmp_path):
    teacher = teacher_of()
    with torch.no_grad():
        teacher.model.convolution.weight.mul_(1e6)
    assert "does not fit into float16" in refusal(Setting(tmp_path, teacher))


def test_cache_of_different_crops_is_refused(tmp_path, monkeypatch):
    """Another version of a library may draw different crops."""
    Setting(tmp_path, hflip=1.0).open()
    draw = TrainingImages.draw
    monkeypatch.setattr(TrainingImages, "draw", lambda *arguments: (draw(*arguments)[0], ~draw(*arguments)[1]))
    assert "from the cached ones in view-000-000000.fp16: images or libraries have changed" in refusal(
        Setting(tmp_path, hflip=1.0)
    )


@pytest.mark.parametrize(("factor", "accepted"), [(1.03, True), (1.08, False)])
def test_cache_that_differs_by_more_than_rounding_is_refused(tmp_path, factor, accepted):
    Setting(tmp_path).open()
    again = Setting(tmp_path)
    compute = again.compute
    again.compute = lambda images: factor * compute(images)
    if accepted:
        again.open()
    else:
        assert "features now differ by 7% from the cached ones" in refusal(again)


def test_process_that_does_not_see_cache_is_refused(tmp_path):
    setting = Setting(tmp_path / "elsewhere")
    with refuses("process 1 does not see it; choose a folder that all machines share"):
        setting.open(World(1, 1, 1, CPU))


def test_record_that_another_run_writes_first_is_kept(tmp_path, monkeypatch):
    """The other teacher's run writes its record just before this one."""
    original = claim._write

    def late(record, settings, *others):
        original(record, settings | {"teacher": "another"}, *others)
        original(record, settings, *others)

    monkeypatch.setattr(claim, "_write", late)
    assert "teacher another there, toy:network here" in refusal(Setting(tmp_path))
    assert not list(tmp_path.glob("view-*"))
