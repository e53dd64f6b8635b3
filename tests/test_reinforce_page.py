"""The loop of docs/reinforce.md reads reinforced shards, and its sizes are those of the format."""

import io
import json
import re
import tarfile
from pathlib import Path

import pytest
import torch
from photos import config, write_photos
from programs import IMAGENET

from gendd_imagenet.images import TrainView
from gendd_imagenet.make_shards import add_file
from gendd_imagenet.reinforce import reinforce
from gendd_imagenet.stored_views import ENDING, ViewFormat, ViewKey

PAGE = (Path(__file__).parents[1] / "docs" / "reinforce.md").read_text()
MAP = 16


@pytest.fixture
def folder(tmp_path) -> Path:
    photos = write_photos(tmp_path / "photos")
    flags = ["--teacher", "toy:own", "--views", "2", "--image-size", "32", "--workers", "0", "--images-per-shard", "45"]
    reinforce(IMAGENET, [str(photos / "train"), str(tmp_path / "out"), *flags])
    return tmp_path / "out"


def test_loop_of_the_page_draws_the_same_views(folder):
    block = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "webdataset" in block)
    block = block.replace("OUT/{00000..00009}", f"{folder}/{{00000..00001}}").replace("OUT/", f"{folder}/")
    page: dict = {"seen": []}
    exec(block.replace("        ...", "        seen.append((sample, teacher, view, feature))"), page)
    sizes = json.loads((folder / "sizes.json").read_text())
    assert len(page["seen"]) == 2 * sum(sizes.values())
    draw = TrainView(config("unused")).draw
    for number, (sample, teacher, view, feature) in enumerate(page["seen"][:20]):
        ours = draw(sample["jpeg"], int(teacher["seeds"][number % 2]))
        assert torch.equal(ours.pixels, view) and torch.equal(feature, teacher["features"][number % 2])


@pytest.mark.parametrize("width", [384, 768, 1280])
def test_sizes_on_the_page_are_those_of_the_format(width):
    sizes = []
    for locations in (0, MAP):
        for int8 in (False, True):
            views = ViewFormat(width, locations, width if locations else 0, int8)
            outputs = torch.zeros(8, width * (1 + locations))
            content = views.encode(b"", outputs, [ViewKey(2**62, (100, 100, 300, 300), True)] * 8)
            file = io.BytesIO()
            with tarfile.open(fileobj=file, mode="w") as shard:
                add_file(shard, f"000000000{ENDING}", content)
                sizes.append(f"{file.tell() / 1000:.1f} GB")
    assert f"| {width} | {' | '.join(sizes)} |" in PAGE
