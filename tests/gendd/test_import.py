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
