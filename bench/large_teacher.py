"""Seconds and memory to build a large teacher whose weights are mapped from a file.

    python bench/large_teacher.py --teacher timm/vit_7b_patch16_dinov3.lvd1689m --folder FOLDER

It first writes a file of random weights in bf16 into the folder: 2 bytes per parameter, 14 GB for 7 billion. The
memory of the process does not include the pages of the mapped file, which the kernel may drop; these have a figure of
their own.
"""

import json
import math
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from measure import seconds, wall_clock

from gendd.core.distributed import hardware
from gendd.methods.regression import Regression
from gendd.networks.create import create_network
from gendd.networks.meta import created_empty
from gendd.runs.networks import build_student, build_teacher
from gendd_imagenet.family import FAMILY

BLOCK = 2**24


@dataclass(frozen=True)
class Config:
    """Time and memory of a large teacher."""

    folder: Path
    """Folder of the file of weights."""
    teacher: str = "timm/vit_7b_patch16_dinov3.lvd1689m"
    """The teacher."""
    image_size: int = 64
    """Side of its images."""


def main(config: Config) -> None:
    create = partial(create_network, config.teacher, FAMILY.zoo, 0, config.image_size)
    print(f"empty network: {seconds(lambda: created_empty(create)):.1f} s")
    shapes = created_empty(create).state_dict()
    file = config.folder / f"{config.teacher.replace('/', '-')}.safetensors"
    if not file.exists():
        write(file, {name: tuple(value.shape) for name, value in shapes.items()})
    del shapes
    values = {"teacher": config.teacher, "teacher_weights": str(file), "image_size": config.image_size}
    run = FAMILY.config(Regression(contraction=0), student="resnet18", **values)
    student = build_student("resnet18", None, FAMILY.zoo, 0, config.image_size).network
    start = wall_clock()
    teacher = build_teacher(run, FAMILY.zoo, 0, student, precision="bf16")
    print(f"teacher with all checks: {wall_clock() - start:.1f} s")
    images = torch.zeros(1, 3, config.image_size, config.image_size)
    print(f"features of one image: {seconds(lambda: teacher.features_of(images)):.1f} s")
    count = sum(parameter.numel() for parameter in teacher.model.parameters())
    print(f"{count / 1e9:.2f} billion parameters, file of {file.stat().st_size / 1e9:.2f} GB")
    print(f"memory: own {memory('RssAnon'):.2f} GB, of the file {memory('RssFile'):.2f} GB")
    print(f"peak of both: {memory('VmHWM'):.2f} GB; {hardware(torch.device('cpu'))}")


def write(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write random weights of these shapes in bf16, block by block, in the safetensors format."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    values = torch.from_numpy(np.random.default_rng(0).normal(0, 0.02, BLOCK).astype(np.float32))
    block = values.bfloat16().view(torch.int16).numpy().tobytes()
    with open(file, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, end, len(block)):
            out.write(block[: end - start])


def memory(field: str) -> float:
    """Return a field of /proc/self/status in GB."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1e6


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__.split("\n\n")[0]))
