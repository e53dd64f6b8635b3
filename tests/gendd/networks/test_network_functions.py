"""Networks from a user's function."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest
import users_networks
from lines import refuses
from network_checks import assert_speaks_the_interface, create, refusal
from programs import build_network

from gendd_cifar.family import FAMILY
from gendd_cifar.models.zoo import CIFAR100_MEAN, CIFAR100_STD


def test_network_function_gets_the_default_normalization():
    network = create("users_networks:tiny")
    assert_speaks_the_interface(network, 6)
    assert network.pretrained_cfg["mean"] == CIFAR100_MEAN and network.pretrained_cfg["std"] == CIFAR100_STD


def test_network_without_interface_names_missing_methods():
    message = refusal("users_networks:plain")
    assert all(name in message for name in ("forward_features", "forward_head", "get_classifier", "num_features"))


def test_network_without_a_linear_classifier_is_refused():
    assert "nn.Linear" in refusal("users_networks:without_linear")


def test_network_of_other_class_count_names_both_counts():
    message = refusal("users_networks:fixed")
    assert "11 outputs" in message and "7 classes" in message


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (
            "without_classes",
            "cannot be called with num_classes alone (got an unexpected keyword argument 'num_classes')",
        ),
        ("with_depth", "cannot be called with num_classes alone (missing a required argument: 'depth')"),
        ("raises", "fails for num_classes=7 (RuntimeError: no such layer, in "),
        ("number", "returns a int"),
        ("CONSTANT", "cannot be called"),
    ],
)
def test_function_that_returns_no_network_is_refused(function, named):
    assert named in refusal(f"users_networks:{function}")


def test_function_that_raises_names_the_line():
    line = Path(users_networks.__file__).read_text().splitlines().index("def raises(num_classes):") + 2
    assert f"users_networks.py, line {line})" in refusal("users_networks:raises")


@pytest.mark.parametrize("code", ["1 / 0", "def f(:"])
def test_module_that_cannot_be_imported_names_the_error(code, tmp_path, monkeypatch):
    (tmp_path / "broken_networks.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    message = refusal("broken_networks:tiny")
    assert "cannot be imported (ZeroDivisionError" in message if code == "1 / 0" else "SyntaxError" in message


def test_module_is_imported_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert f"importable from {tmp_path}" in refusal("networks_of_here:tiny")
    shutil.copy(users_networks.__file__, tmp_path / "networks_of_here.py")
    importlib.invalidate_caches()
    assert_speaks_the_interface(create("networks_of_here:tiny"), 6)


def test_network_for_other_channel_count_is_refused():
    name = "users_networks:gray"
    with refuses(rf"^--student {name}: cannot classify an image of 3 x 32 x 32 \(") as caught:
        build_network("student", name, None, FAMILY.zoo, 7, 32)
    assert len(str(caught.value).splitlines()) == 1


def test_network_with_inconsistent_widths_is_refused():
    name = "users_networks:too_wide"
    with refuses(r"shape \(1, 6\), its num_features is 9, its classifier takes 6"):
        build_network("student", name, None, FAMILY.zoo, 7, 32)


@pytest.mark.parametrize("name", ["no_such_package:f", "users_networks:absent", "users_networks:", ":f", ".here:f"])
def test_function_that_cannot_be_imported_is_refused(name):
    assert "package.module:function" in refusal(name)
