"""Where runs lie."""

from pathlib import Path

import pytest

from gendd.config import TrainConfig
from gendd.runs import run_path


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("cifar100", "cifar100"),
        ("some/where/flowers/", "flowers"),
        ("data/cc3m/cc3m-train-{0000..0575}.tar", "cc3m"),
        ("https://example.org/sets/cc3m/{00000..00331}.tar?download=true", "cc3m"),
        ("pipe:aws s3 cp s3://bucket/cc3m/{000..331}.tar -", "cc3m"),
        ("00000.tar", "00000"),
    ],
)
def test_the_folder_of_a_run_names_its_data(dataset, name):
    config = TrainConfig(
        dataset=dataset, teacher="timm/resnet34", student="package.module:network", method="kd", seed=2
    )
    assert run_path(config) == Path("runs", name, "resnet34_package.module.network", "kd", "2")
