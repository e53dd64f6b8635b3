"""No line of the packages reads a file in a way that can run code, and CI looks for known vulnerabilities."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("gendd", "gendd_cifar", "gendd_imagenet", "bench", "docs/make")
# The argument that each function needs, with its value.
NEEDED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
FORBIDDEN = {"pickle.load", "pickle.loads", "torch.hub.load", "torch.jit.load", "torch.hub.load_state_dict_from_url"}


def unsafe_calls(code: str) -> list[str]:
    """Return the calls in a module that can run the code of a file."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            needed, value = NEEDED.get(name, ("", None))
            if name in FORBIDDEN or (needed and given.get(needed) != str(value)):
                found.append(ast.unparse(node))
    return found


def test_unsafe_calls_are_found():
    assert unsafe_calls("torch.load(path)\nnp.load(path, allow_pickle=True)\npickle.load(file)") == [
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "pickle.load(file)",
    ]
    assert unsafe_calls("torch.load(path, weights_only=True)\nnp.load(path, allow_pickle=False)") == []


# Reads the memory of another process of the same run, never a file.
OWN_MEMORY = ROOT / "gendd/core/shared.py"


def test_no_code_reads_files_that_can_run_code():
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py") if file != OWN_MEMORY]
    assert len(files) > 150
    assert {str(file.relative_to(ROOT)): calls for file in files if (calls := unsafe_calls(file.read_text()))} == {}


def test_ci_audits_the_lock_every_week():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert "schedule: [{cron:" in workflow and "date --utc" in workflow
    assert "pip-audit --disable-pip --require-hashes --requirement requirements.lock" in workflow
