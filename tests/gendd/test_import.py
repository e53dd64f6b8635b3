"""What `import gendd` loads, and what it makes work."""

import subprocess
import sys


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_import_of_gendd_loads_no_library():
    heavy = {"torch", "torchvision", "timm", "numpy", "matplotlib", "sklearn", "tyro"}
    assert run(f"import gendd, sys; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_torchvision_imports_after_gendd_with_any_torch():
    code = "import gendd, torchvision.transforms.v2, timm; print(timm.create_model('test_resnet').num_classes)"
    assert run(code) == "1000"


def test_the_training_loop_imports_nothing_of_reports():
    code = "import gendd.training, gendd.evaluation, gendd.methods, sys"
    assert run(f"{code}; print([name for name in sys.modules if name.startswith('gendd.reporting')])") == "[]"


def test_help_of_train_imports_no_library_for_tables():
    code = "import contextlib, sys; from gendd.programs.main import main; from gendd_cifar.tree import TREE\n"
    code += "with contextlib.suppress(SystemExit): main(TREE, ['train', 'gendd', '--help'])\n"
    slow = {"sklearn", "pandas", "matplotlib"}
    assert run(f"{code}print(sorted({slow} & set(sys.modules)))").endswith("\n[]")
