"""Every command of the README and the docs works in a dry run."""

import re
from pathlib import Path

import pytest
import recipes
import torch
import toy
from lines import refuses
from shell import ROOT, configuration
from small_images import write_folder

from gendd.programs.main import main as run_program

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Documented commands without a dry run here, and the reason.
UNTRIED = {
    r"(source|tensorboard|pip|uv|docker|kubectl|sky) ": "another project's program",
    r"(sbatch|srun) ": "needs Slurm",
    r".*( train|--help|--version|-m gendd(_cifar|_imagenet)?)$": "prints a help",
    r".*(\b(RUN|FOLDER|OUT)\b|\.\.\.$)": "a template: the user inserts a name",
    r"bash sh/(setup|quickstart|test|bench)\.sh( tests/.*)?$": "installs, trains or measures, without a dry run",
    r"bash sh/fetch_pretrained_teachers\.sh$": "downloads; test_fetch.py publishes files for it",
    r"(bash sh/compare\.sh|gendd compare) ": "starts trainings; test_compare.py reads its flags",
    r"(\w+=\S+ |\w+=\".*?\" )*bash sh/ablate\.sh": "starts trainings; test_sweep.py reads its flags",
    r".* hf-hub:OWNER/NAME": "downloads; test_publish.py serves a student",
    r"python -m gendd report docs/": "draws pictures; test_reporting.py draws them",
    r"python -m gendd_imagenet\.make_shards": "writes shards; test_shards.py writes some",
    r"python -m gendd_cifar recipes": "prints recipes; test_recipes.py prints some",
    r".* own_methods:": "a file of the user's; test_own_method.py trains the page's",
}


def documented_commands() -> list[str]:
    """Return the commands of the README and of all pages, in blocks, sentences and tables, without duplicates."""
    found = []
    for page in map(Path.read_text, PAGES):
        blocks = re.findall(r"^ *```bash\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)
        lines = [line for line in "".join(blocks).replace("\\\n", " ").splitlines() if not line.startswith("#")]
        inline = re.findall(r"`((?:\w+=\S+ )*(?:bash sh/|python -m gendd)[^`]*)`", page)
        found += [" ".join(line.split()) for line in lines + inline if line.strip()]
        if lines:
            found += [f"{lines[0].strip()} {flags}" for flags in rows_of_flags(page)]
    return list(dict.fromkeys(found))


def rows_of_flags(page: str) -> list[str]:
    """Return the flags of each table row below a column title that is a flag, to append to the page's first command.

    Other cells that begin with a flag, such as weights, are included.
    """
    rows = []
    for flag, body in re.findall(r"^\| `(--[\w-]+)` \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE):
        for row in body.splitlines():
            first, *others = (cell.strip() for cell in row.strip("|").split("|"))
            more = [cell.split("`")[1] for cell in others if cell.startswith("`--")]
            rows.append(" ".join([flag, first.split("`")[1], *more]))
    return rows


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Return a function that replaces a command's placeholders and downloads by files of this machine."""
    images, hub = tmp_path / "images", tmp_path / "hub"
    write_folder(images, "ab")
    hub.mkdir()
    (hub / "hubconf.py").write_text("import torch\ndef tiny(): return torch.nn.BatchNorm2d(3)\n")
    torch.save(toy.network(0).state_dict(), tmp_path / "toy.pth")

    def transformers() -> str:
        library = pytest.importorskip("transformers", reason="transformers is not installed")
        shape = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56}
        library.Dinov2Model(library.Dinov2Config(**shape)).save_pretrained(tmp_path / "dino")
        return f"transformers:{tmp_path / 'dino'}"

    def open_clip() -> str:
        library = pytest.importorskip("open_clip", reason="open_clip is not installed")
        vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
        text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
        config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
        monkeypatch.setitem(library.factory._MODEL_CONFIGS, "toy", config)
        torch.save(library.create_model("toy").state_dict(), tmp_path / "clip.pt")
        return f"open_clip:toy/{tmp_path / 'clip.pt'}"

    known = {
        "path/to/images": lambda: str(images),
        "hub:facebookresearch/dinov2:dinov2_vits14": lambda: f"hub:{hub}:tiny",
        "transformers:facebook/dinov2-small": transformers,
        "open_clip:ViT-B-32/openai": open_clip,
        "package.module:function": lambda: "toy:network",
        "--teacher-weights FILE": lambda: f"--teacher-weights {tmp_path / 'toy.pth'}",
    }

    def replaced(command: str) -> str:
        for name, stand_in in known.items():
            if name in command:
                command = command.replace(name, stand_in())
        return command

    return replaced


@pytest.mark.parametrize("command", documented_commands())
def test_documented_command(command, recorded, dry_run, stand_ins, monkeypatch):
    """A command's files exist and programs accept its flags; trainings do a dry run, others only miss the run."""
    monkeypatch.setenv("HF_TOKEN", "token")
    for path in re.findall(r"\b(?:sh|bench)/[\w/]+\.\w+", command):
        assert (ROOT / path).is_file(), path
    if any(re.match(pattern, command.replace("--teacher-weights FILE", "")) for pattern in UNTRIED):
        return
    programs = recorded(stand_ins(command))
    assert programs
    for module, arguments in programs:
        if module.endswith(" train") and "--check-data" in arguments:
            configuration(module, arguments)
        elif module.endswith(" train"):
            plan = dry_run(module, arguments)
            assert "plan" in plan
            if " --teacher " in command and "is not at hand" not in plan:
                assert (
                    re.search("  teacher .*, sha256 ", plan) and "random weights" not in plan.partition("teacher ")[2]
                )
        else:
            with refuses(r"runs/|path/to/|text\.npy"):
                run_program(recipes.family_of(module).name, [module.split()[1], *arguments])


@pytest.mark.parametrize("pattern", UNTRIED)
def test_each_excluded_pattern_matches_a_documented_command(pattern):
    assert any(re.match(pattern, command) for command in documented_commands())


def test_tables_name_existing_scripts():
    names = []
    for page in map(Path.read_text, PAGES):
        pattern = r"^\|[^|`]*`(sh/train_\w*)` \+ \w+ \+ `(\w*\.sh)` \|.*\n\|[-|]+\n((?:\|.*\n)+)"
        for begin, end, body in re.findall(pattern, page, re.MULTILINE):
            cells = [row.split("|")[1] for row in body.splitlines()]
            for cell in cells:
                words = re.findall(r"`(\w+(?:\.sh)?)`", cell)
                ending = next((word for word in words if word.endswith(".sh")), end)
                names += [begin + word + ending for word in words if not word.endswith(".sh")]
    assert len(names) > 20 and [name for name in names if not (ROOT / name).is_file()] == []


def test_readme_activates_the_environment_before_its_commands():
    """In a new shell, python and tensorboard come from .venv only after activation."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    needing = [block for block in blocks if re.search(r"^(python|tensorboard|mkdocs)", block, re.MULTILINE)]
    assert len(needing) > 1
    for block in needing:
        before = re.split(r"^(?:python|tensorboard|mkdocs)", block, flags=re.MULTILINE)[0]
        assert "source .venv/bin/activate\n" in before, block
