"""Modules loaded by `import gendd` and by help, and torchvision with any torch."""

import subprocess
import sys

import pytest


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_import_of_gendd_loads_no_library():
    heavy = {"torch", "torchvision", "timm", "numpy", "matplotlib", "sklearn", "tyro"}
    assert run(f"import gendd, sys; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_loop_imports_no_report_code_and_torchvision_works():
    """torchvision can be imported after gendd, with any torch."""
    code = "import gendd.training.loop, gendd.evaluation.accuracy, gendd.methods, sys"
    code += "; print([name for name in sys.modules if name.startswith('gendd.reporting')])"
    code += "; import torchvision.transforms.v2, timm; print(timm.create_model('test_resnet').num_classes)"
    assert run(code).splitlines() == ["[]", "1000"]


def imported_by(*command: str) -> set[str]:
    """Return the modules that a command of `python -m` imports."""
    code = f"import atexit, runpy, sys; sys.argv = {list(command)}; atexit.register(lambda: print(*sys.modules))\n"
    code += "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
    return set(run(code).splitlines()[-1].split())


@pytest.mark.parametrize("module", ["gendd", "gendd_cifar", "gendd_imagenet"])
def test_help_of_module_imports_no_library(module):
    modules = imported_by(module, "--help")
    assert "gendd.programs.main" in modules
    assert not modules & {"torch", "numpy", "timm", "tyro", "gendd.family"}


def test_help_of_train_imports_no_slow_library():
    modules = imported_by("gendd_cifar", "train", "gendd", "--help")
    assert "gendd.methods.gendd" in modules
    slow = {
        "sklearn",
        "scipy",
        "pandas",
        "matplotlib",
        "tensorboard",
        "transformers",
        "datasets",
        "fsspec.implementations.http",
        "aiohttp",
    }
    assert not modules & (slow | {"timm", "torchvision", "torch._dynamo"})
