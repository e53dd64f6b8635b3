"""README, pages and scripts: generated pages are current, and links, flags and scripts exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gendd.programs.main import PROGRAMS

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs" / "make"))
import flags  # noqa: E402
import method_figure  # noqa: E402
import teachers  # noqa: E402

# The scripts of the published release, July 2025.
RELEASE = (
    "fetch_pretrained_teachers",
    "evaluate",
    "train_res110_res32_gendd",
    "train_res32x4_res8x4_gendd",
    "train_res56_res20_gendd",
    "train_vgg13res20_gendd",
    "train_vgg13vgg8_gendd",
    "train_wrn402_res8x4_gendd",
    "train_wrn402_wrn162_gendd",
    "train_wrn402_wrn401_gendd",
    "cc3m_eval_res34res18_unsupervised_gendd",
    "cc3m_train_res34res18_unsupervised_gendd",
    "cc3m_train_res50mv_unsupervised_gendd",
    "cc3m_train_res50mv_unsupervised_kd",
    "imagenet_eval_res34res18_gendd",
    "imagenet_eval_res50mv_gendd",
    "imagenet_train_beitlr50_gendd_A1",
    "imagenet_train_beitlr50_gendd_A2",
    "imagenet_train_beitr50_gendd_A2",
    "imagenet_train_res34res18_gendd",
    "imagenet_train_res50mv_gendd",
    "imagenetlt_eval_resnext101_res50_gendd",
    "imagenetlt_train_resnext101_res50_gendd",
    "imagenetlt_train_resnext101_sgd",
    "train_resnext101_res18_gendd",
)

# Flags that pages and comments of scripts name, of other programs than the project's.
OTHER_PROGRAMS = {
    "torchrun": {"--local-addr", "--max-restarts", "--nnodes", "--nproc-per-node", "--rdzv-backend", "--rdzv-endpoint"}
    | {"--rdzv-id"},
    "Slurm": {"--account", "--gpus-per-node", "--nodes", "--ntasks-per-node", "--partition"},
    "development tools": {"--check", "--cov"},
    "TensorBoard": {"--logdir"},
    "tests/faults and bench": {"--short", "--processes", "--folder", "--rounds"},
    "trtexec of TensorRT": {"--fp16", "--maxShapes", "--minShapes", "--onnx", "--optShapes", "--saveEngine"},
    "compare and ablate, which have no dataclass": {"--on"},
    "every program": {"--help", "--version"},
    "pip and uv": {"--constraint", "--index-url", "--no-deps", "--require-hashes", "--requirement"},
    "Docker": {"--gpus", "--ipc"},
    "make_shards": {"--index"},
    "the example of a method outside the project": {"--logit-weight"},
}
SCRIPTS = [*sorted((ROOT / "sh").glob("*.sh")), ROOT / ".ci" / "run", ROOT / ".ci" / "lock"]


def comments(script: Path) -> str:
    return "\n".join(re.findall(r"^ *# .*", script.read_text(), re.MULTILINE))


def named_flags() -> dict[str, list[str]]:
    """Return the flags that pages and comments of scripts name, with their files."""
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "pretrained/README.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
    # A block that checks out an earlier commit has that commit's flags.
    texts = {page: re.sub(r"```\w*\ngit checkout .*?```", "", page.read_text(), flags=re.DOTALL) for page in pages}
    texts |= {script: comments(script) for script in SCRIPTS}
    found: dict[str, list[str]] = {}
    for file, text in texts.items():
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", text):
            found.setdefault(flag, []).append(str(file.relative_to(ROOT)))
    return found


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text()


def test_readme_has_at_most_150_lines(readme):
    assert len(readme.splitlines()) <= 150


def test_every_script_of_the_release_has_a_counterpart():
    page = (ROOT / "docs/release.md").read_text()
    rows = [row.split("|")[1:3] for row in page.splitlines() if row.startswith("| `")]
    names = {name for published, _ in rows for name in re.findall(r"`(\S+?)`", published)}
    patterns = [re.escape(name.removesuffix(".sh")).replace(r"\*", ".*") for name in names]
    assert [script for script in RELEASE if not any(re.fullmatch(pattern, script) for pattern in patterns)] == []
    for _, scripts in rows:
        files = re.findall(r"sh/\w+\.sh", scripts)
        assert files and all((ROOT / file).is_file() for file in files)


def test_flags_page_matches_code():
    assert flags.PAGE.read_text() == flags.page(), "make it again: python docs/make/flags.py"


def test_teachers_page_matches_timm():
    """The first row of each family is compared, since all rows take half a minute."""
    page = teachers.PAGE.read_text()
    for _, _, pattern in teachers.FAMILIES:
        names = teachers.members(pattern)
        assert [name for name in names if f"`timm/{name}`" not in page] == [], "run docs/make/teachers.py"
        assert teachers.row(names[0])[1] in page, "run docs/make/teachers.py"


def test_flags_page_has_known_entries():
    for known in ("| `--contraction` |", "| `--images` |", "| `--class-vectors` |", "(`adamw`; `sgd`; `muon`)"):
        assert known in flags.page()


def test_method_figure_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(method_figure, "FILE", tmp_path / "method.svg")
    method_figure.main()
    assert "<svg" in (tmp_path / "method.svg").read_text()[:600]


def test_local_links_of_readme_exist(readme):
    links = re.findall(r"\]\((?!http)([^)#]+)", readme)
    assert len(links) >= 20 and [link for link in links if not (ROOT / link).exists()] == []


def test_site_builds_without_warnings(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert (tmp_path / "site" / "method" / "index.html").exists()


def test_extending_layout_names_files_that_exist():
    layout = (ROOT / "docs/extending.md").read_text().partition("## How the code is laid out")[2]
    named = set(re.findall(r"\w+\.py\b", layout))
    there = {
        path.name for package in ("gendd", "gendd_cifar", "gendd_imagenet") for path in (ROOT / package).rglob("*.py")
    }
    assert {"head.py", "loop.py"} <= named and named <= there


def test_programs_named_on_pages_exist():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {
        program
        for page in pages
        for program in re.findall(r"python -m gendd(?:_\w+)? ([a-z][a-z-]+)", page.read_text())
    }
    assert {"train", "knn", "report"} <= named and named <= set(PROGRAMS)


def test_flags_named_in_docs_and_scripts_exist():
    known = set(re.findall(r"^\| `(--[\w-]+)` \|", flags.page(), re.MULTILINE))
    others = set().union(*OTHER_PROGRAMS.values())
    named = named_flags()
    assert {"--contraction", "--paper", "--dry-run"} <= named.keys()
    unknown = {
        flag: files
        for flag, files in named.items()
        if flag not in known | others and flag.replace("--no-", "--", 1) not in known
    }
    assert unknown == {}
    assert others <= named.keys()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_comments_of_scripts_name_no_default(script):
    """Defaults change without the scripts, so comments state what the script sets instead."""
    assert "default" not in comments(script)
