"""Every shell script and every command of README and docs does what it says, as far as that shows without training."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy
from lines import refuses
from programs import values_of
from small_images import write_folder

from gendd.programs.main import main as run_program
from gendd.programs.train import configuration as train_configuration
from gendd.programs.train import train
from gendd.runs import RunFolder, run_path, stage1_run

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import recipes  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "sh").glob("*.sh"))
PAIRS = [pair.replace(" ", "_") for pair in (*recipes.CONTRACTIONS, *recipes.WITHOUT_RECIPE)]

# Where the scripts on photographs find them.
DATA = {
    "imagenet": {"dataset": "imagenet", "unlabeled": False},
    "imagenetlt": {
        "dataset": "imagenet",
        "train_list": "data/imagenet_lt/ImageNet_LT_train.txt",
        "eval_list": "data/imagenet_lt/ImageNet_LT_test.txt",
        "unlabeled": False,
    },
    "cc3m": {
        "dataset": "data/cc3m/cc3m-train-{0000..0575}.tar",
        "eval_dataset": "imagenet",
        "unlabeled": True,
    },
}
DISTILLED = [name for name in recipes.LARGE_SCRIPTS if name.endswith("gendd")]


def bash(*command, cwd=ROOT, **variables) -> subprocess.CompletedProcess:
    """Run bash with this Python's environment for the scripts."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CPU_PROCS": "1",
        "PYTHONPATH": str(ROOT),
        "VENV": sys.prefix,
        **{name: str(value) for name, value in variables.items()},
    }
    return subprocess.run(["bash", *map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)


def refusal(result: subprocess.CompletedProcess) -> str:
    """The one line of a command that the user can mend."""
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    return line


@pytest.fixture
def recorded(tmp_path):
    """Function: shell command -> (module, arguments) of each Python program that it would start."""
    return lambda command, **variables: recipes.programs(command, tmp_path, **variables)


def configuration(module: str, arguments: list[str]):
    """What a program's flags say."""
    tree = recipes.tree_of(module)
    return train_configuration(tree, arguments)


@pytest.fixture
def dry_run(tmp_path, monkeypatch, capsys):
    """Function: (module, arguments) -> what the train program prints in a dry run, which asks no network."""
    asked = []

    def look_up(host, *_, **__):
        asked.append(host)
        raise socket.gaierror(f"{host}: tests have no network")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("CPU_PROCS", "1")

    def run(module: str, arguments: list[str]) -> str:
        train(recipes.tree_of(module), [*arguments, "--dry-run", "--runs", str(tmp_path / "runs")])
        assert not asked
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_syntax(script):
    assert bash("-n", script).returncode == 0
    text = script.read_text()
    assert script.name == "environment.sh" or "\nset -euo pipefail\n" in text


@pytest.mark.parametrize("pair", PAIRS)
def test_distillation_scripts(pair, recorded, dry_run):
    (program,) = recorded(f"bash sh/train_cifar100_{pair}_gendd.sh --seed 3 --name other")
    assert dry_run(*program).count("plan\n") == 2
    config = configuration(*program)
    assert (config.method.name, config.method.pretrain_epochs) == ("gendd", 50)
    assert config.run.seed == 3 and run_path(config).parts[-2:] == ("other", "3")
    assert stage1_run(config).path.parts[-2:] == ("pretrain", "3")
    networks = config.networks
    assert networks.teacher_weights == f"pretrained/{networks.teacher}_vanilla/ckpt_epoch_240.pth"


@pytest.mark.parametrize("script", recipes.LARGE_SCRIPTS)
def test_scripts_for_photographs(script, recorded, dry_run, tmp_path):
    """Plan every script but the longer recipe of the 300 M-parameter teacher, whose networks are the shorter's."""
    (program,) = recorded(f"bash sh/train_{script}.sh --seed 3 --data-root {tmp_path}")
    config = configuration(*program)
    data = DATA[script.split("_")[0]]
    assert {name: getattr(config.data, name) for name in data} == data
    assert config.run.seed == 3
    large = config.networks.teacher == "beitv2_large"
    if not (large and config.optimizer.epochs > 300):
        plan = dry_run(*program)
        assert "plan" in plan and f"{tmp_path}/imagenet: no such folder" in plan
    has_stage1 = config.data.dataset == "imagenet" and not config.data.train_list
    assert bool(stage1_run(config)) == has_stage1


def test_teachers_of_photographs(recorded):
    def last(script):
        return configuration(*recorded(f"bash sh/train_{script}.sh")[-1])

    trained = str(RunFolder(run_path(last("imagenetlt_resnext101_teacher"))).best)
    for script in DISTILLED:
        assert last(script).networks.teacher_weights == (trained if script.startswith("imagenetlt") else "timm")


def test_each_training_script_is_tested():
    pairs = [f"cifar100_{pair}_gendd" for pair in PAIRS]
    assert {script.stem for script in SCRIPTS if script.stem.startswith("train_")} == {
        f"train_{name}"
        for name in (*pairs, "cifar100_teacher", "cifar100_resnet56_resnet20_gendd_short", *recipes.LARGE_SCRIPTS)
    } | {"train_cifar100_baseline", "train_imagenet_baseline"}


def test_no_two_runs_share_a_folder(recorded):
    programs = [program for script in recipes.LARGE_SCRIPTS for program in recorded(f"bash sh/train_{script}.sh")]
    configs = [configuration(*program) for program in programs]
    runs = [run_path(config) for config in configs] + [
        stage1_run(config).path for config in configs if stage1_run(config)
    ]
    assert len(set(runs)) == len(runs)


CIFAR_SGD = {name: value for name, value in recipes.CIFAR_SGD.items() if name not in ("decayed", "precision")}
CIFAR_SGD |= {"decay": "head-exempt"}
IMAGENET_SGD = {"optimizer": "sgd", "lr": 0.2, "weight_decay": 1e-4, "batch_size": 512, "epochs": 100}
IMAGENET_SGD |= {
    "decay": "head-exempt",
    "schedule": "step",
    "milestones": (30, 60, 90),
    "crop_scale": (0.08, 1),
    "teacher_weights": "timm",
}
LT = {**DATA["imagenetlt"], "lr": 0.1, "weight_decay": 5e-4, "schedule": "cosine", "epochs": 100}
DKD_240 = {"distill_warmup_epochs": 20, "temperature": 4}
DKD_100 = {"distill_warmup_epochs": 1, "temperature": 1}
BASELINES = {
    "cifar100 kd resnet110 resnet32": {**CIFAR_SGD, "label_share": 0.1, "temperature": 4},
    "cifar100 dkd resnet32x4 resnet8x4": {
        **CIFAR_SGD,
        "alpha": 1,
        "beta": 8,
        "distill_warmup_epochs": 20,
        "temperature": 4,
    },
    "cifar100 dkd resnet56 resnet20": {**CIFAR_SGD, "beta": 2},
    "cifar100 dkd wrn_40_2 wrn_40_1": {**CIFAR_SGD, "beta": 6},
    "cifar100 dkd vgg13 vgg8": {**CIFAR_SGD, "beta": 6},
    "cifar100 ikl resnet110 resnet32": {**CIFAR_SGD, "alpha": 1, "beta": 12},
    "cifar100 ikl resnet56 resnet20": {**CIFAR_SGD, "alpha": 1, "beta": 4},
    "cifar100 ikl resnet32x4 resnet8x4": {**CIFAR_SGD, "alpha": 1, "beta": 8},
    "cifar100 ikl resnet32x4 ShuffleV1": {**CIFAR_SGD, "alpha": 1, "beta": 8, "lr": 0.01},
    "cifar100 ikl resnet32x4 ShuffleV2": {**CIFAR_SGD, "alpha": 3, "beta": 12, "lr": 0.01},
    "cifar100 ikl ResNet50 MobileNetV2": {**CIFAR_SGD, "alpha": 1, "beta": 12, "lr": 0.01},
    "cifar100 dist resnet56 resnet20": {**CIFAR_SGD, "temperature": 4, "beta": 2, "gamma": 2},
    "cifar100 srd resnet56 resnet20": {**CIFAR_SGD, "feature_weight": 1},
    "cifar100 vkd resnet56 resnet20": {**CIFAR_SGD, "feature_weight": 1},
    "cifar100 simkd resnet56 resnet20": CIFAR_SGD,
    "cifar100 feature resnet56 resnet20": {**CIFAR_SGD, "feature_weight": 8},
    "cifar100 kl resnet56 resnet20": {**CIFAR_SGD, "unlabeled": True},
    "cifar100 classification resnet56 resnet20": {**CIFAR_SGD, "teacher": None},
    "imagenet kd resnet34 resnet18": {**IMAGENET_SGD, "label_share": 0.5, "temperature": 1},
    "imagenet ikl resnet50 mobilenetv1": IMAGENET_SGD,
    "imagenet dkd resnet34 resnet18": {
        **IMAGENET_SGD,
        "alpha": 1,
        "beta": 0.5,
        "distill_warmup_epochs": 1,
        "temperature": 1,
    },
    "imagenet dist resnet34 resnet18": {**IMAGENET_SGD, "temperature": 1, "beta": 2, "gamma": 2},
    "imagenet dkd resnet50 mobilenetv1": {
        **IMAGENET_SGD,
        "alpha": 1,
        "beta": 2,
        "distill_warmup_epochs": 1,
        "temperature": 1,
    },
    "imagenet classification resnet34 resnet18": {**IMAGENET_SGD, "teacher": None, "teacher_weights": None},
    "imagenet kd resnext101_32x4d resnet50": LT,
    "imagenet ikl resnext101_32x4d resnet18": LT,
    "imagenet kd beitv2_large resnet50": {**recipes.A2, "epochs": 300, "weight_decay": 0.02, "optimizer": "adamw"},
    "RECIPE=a1 imagenet dkd beitv2_large resnet50": {
        **recipes.A1,
        "epochs": 600,
        "weight_decay": 0.01,
        "optimizer": "adamw",
    },
}


def baseline(words: str) -> str:
    *recipe, tree, method, teacher, student = words.split()
    return " ".join([*recipe, f"bash sh/train_{tree}_baseline.sh {method} {teacher} {student}"])


@pytest.mark.parametrize("words", BASELINES)
def test_baseline_scripts(words, recorded, dry_run):
    (program,) = recorded(f"{baseline(words)} --seed 3")
    config = configuration(*program)
    method, teacher, student = words.split()[-3:]
    assert (config.method.name, config.networks.student, config.run.seed) == (method, student, 3)
    assert config.networks.teacher == BASELINES[words].get("teacher", teacher)
    assert {name: values_of(config)[name] for name in BASELINES[words]} == BASELINES[words]
    if teacher != "beitv2_large":
        assert "plan" in dry_run(*program)


def test_no_two_baselines_share_a_folder(recorded):
    runs = [run_path(configuration(*program)) for words in BASELINES for program in recorded(baseline(words))]
    assert len(set(runs)) == len(runs)


@pytest.mark.parametrize(
    ("words", "script"),
    [
        ("cifar100 regression resnet56 resnet20", "cifar100_resnet56_resnet20"),
        ("imagenet regression resnet34 resnet18", "imagenet_resnet34_resnet18"),
        ("imagenet regression resnext101_32x4d resnet50", "imagenetlt_resnext101_resnet50"),
        ("imagenet regression beitv2_large resnet50", "imagenet_beitv2l_resnet50_a2"),
        ("imagenet regression beitv2_base resnet50", "imagenet_beitv2b_resnet50_a2"),
        ("RECIPE=a1 imagenet regression beitv2_large resnet50", "imagenet_beitv2l_resnet50_a1"),
        ("RECIPE=a1 imagenet regression beitv2_base resnet50", "imagenet_beitv2b_resnet50_a1"),
    ],
)
def test_regression_has_the_recipe_of_gendd(words, script, recorded):
    ours = [configuration(*program) for program in recorded(baseline(words))]
    theirs = [configuration(*program) for program in recorded(f"bash sh/train_{script}_gendd.sh")]
    assert ours[:-1] == theirs[:-1] and ours[-1].method.name == "regression"
    name = theirs[-1].run.name and theirs[-1].run.name.replace("gendd", "regression")
    assert values_of(theirs[-1]) | {"method": "regression", "name": name} == values_of(ours[-1])


@pytest.mark.parametrize(
    ("words", "script"),
    [
        ("cifar100 gendd resnet56 resnet20", "cifar100_resnet56_resnet20_gendd"),
        ("RECIPE=a1 imagenet gendd beitv2_large resnet50", "imagenet_beitv2l_resnet50_a1_gendd"),
    ],
)
def test_gendd_among_the_baselines_is_the_pair_s_own_script(words, script, recorded):
    assert recorded(f"{baseline(words)} --seed 3") == recorded(f"bash sh/train_{script}.sh --seed 3")


@pytest.mark.parametrize("tree", ["cifar100", "imagenet"])
def test_baseline_scripts_name_what_is_missing(tree):
    script = f"sh/train_{tree}_baseline.sh"
    assert "METHOD TEACHER STUDENT are missing" in refusal(bash(script, "kd", "resnet34", "--dry-run"))
    assert "there is no" in refusal(bash(script, "regression", "resnet34", "resnet19"))


def test_short_distillation_script(recorded, dry_run):
    (program,) = recorded("bash sh/train_cifar100_resnet56_resnet20_gendd_short.sh --seed 3")
    assert "plan" in dry_run(*program)
    config = configuration(*program)
    assert (config.optimizer.epochs, config.optimizer.optimizer, config.run.seed) == (15, "muon", 3)
    assert stage1_run(config) is None
    (longer,) = recorded("bash sh/train_cifar100_resnet56_resnet20_gendd_short.sh", EPOCHS=240)
    assert configuration(*longer).optimizer.epochs == 240


@pytest.mark.parametrize(("name", "rate"), [("resnet56", 0.05), ("ShuffleV1", 0.01)])
def test_teacher_script(name, rate, recorded, dry_run):
    (program,) = recorded(f"bash sh/train_cifar100_teacher.sh {name}")
    assert "plan" in dry_run(*program)
    assert configuration(*program).optimizer.lr == rate
    assert "which network" in refusal(bash("sh/train_cifar100_teacher.sh", "--dry-run"))


def test_script_starts_the_program_from_any_folder(tmp_path):
    script = ROOT / "sh" / "train_cifar100_teacher.sh"
    result = bash(script, "resnet8", "--dry-run", "--runs", tmp_path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"{tmp_path}/cifar100/resnet8/classification/0" in result.stdout
    assert "--student resnet7" in refusal(bash(script, "resnet7", cwd=tmp_path))


def test_evaluate_asks_the_run_for_its_tree(tmp_path, recorded):
    assert recorded(f"bash sh/evaluate.sh {tmp_path} --steps 2") == [
        ("gendd evaluate", [str(tmp_path), "--steps", "2"])
    ]
    assert "CHECKPOINT is missing" in refusal(bash("sh/evaluate.sh"))


def test_ablation_starts_its_programs(recorded, tmp_path):
    assert recorded(f"bash sh/ablate.sh guidance {tmp_path} --images 9", OUTPUT="out") == [
        ("gendd ablate", ["guidance", str(tmp_path), "--images", "9"])
    ]
    assert recorded("bash sh/ablate.sh contraction sh/pair.sh --lr 1") == [
        ("gendd ablate", ["contraction", "sh/pair.sh", "--lr", "1"])
    ]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Documented commands that are not tried here, and why.
UNTRIED = {
    r"source |tensorboard ": "another project's program",
    r"(sbatch|srun) ": "needs Slurm",
    r".*( train|--help|-m gendd)$": "prints a help",
    r".*(\b(RUN|FOLDER)\b|\.\.\.$)": "a form: the user puts a name in",
    r"bash sh/(setup|quickstart|test|bench)\.sh$": "has no dry run: it installs, trains or measures",
    r"bash sh/fetch_pretrained_teachers\.sh$": "downloads; tests below publish files for it",
    r"bash sh/compare\.sh": "starts trainings; test_compare.py reads its flags",
    r"(\w+=\S+ |\w+=\".*?\" )*bash sh/ablate\.sh": "starts trainings; test_sweep.py reads its flags",
    r"python -m gendd report docs/": "draws pictures; test_reporting.py draws them",
    r"python -m gendd_imagenet\.make_shards": "writes shards; test_shards.py writes some",
    r".* own_methods:": "a file of the user's; test_own_method.py trains the page's",
}


def documented_commands() -> list[str]:
    """Of the README and of all pages, in blocks, in sentences and in tables, each once."""
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
    """The flags of each row of a table whose first column is headed by a flag; they go with the page's first command.

    Weights go with it where their cell begins with the flag that gives them.
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
    """Function: a documented command -> the same with this machine's files in place of what a user names or fetches."""
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
def test_documented_command(command, recorded, dry_run, stand_ins):
    """Its files exist and programs take its flags: a training is dry-run, others refuse but the run that is missing."""
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
                run_program(recipes.tree_of(module).name, [module.split()[1], *arguments])


@pytest.mark.parametrize("pattern", UNTRIED)
def test_each_reason_not_to_try_is_of_a_documented_command(pattern):
    assert any(re.match(pattern, command) for command in documented_commands())


def test_tables_name_scripts_that_are_there():
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
    """Of a fresh shell: python and tensorboard are those of .venv."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    needing = [block for block in blocks if re.search(r"^(python|tensorboard|mkdocs)", block, re.MULTILINE)]
    assert len(needing) > 1
    for block in needing:
        before = re.split(r"^(?:python|tensorboard|mkdocs)", block, flags=re.MULTILINE)[0]
        assert "source .venv/bin/activate\n" in before, block


@pytest.fixture
def project(tmp_path) -> Path:
    """A checkout that scripts may fill."""
    shutil.copytree(ROOT / "sh", tmp_path / "project" / "sh")
    return tmp_path / "project"


def test_compare_starts_its_program_from_any_folder(recorded):
    assert recorded('bash sh/compare.sh toys large small "kd dkd" 0 --epochs 2') == [
        ("gendd compare", ["toys", "large", "small", "kd dkd", "0", "--epochs", "2"])
    ]


@pytest.mark.parametrize(
    ("fails", "remedy"), [("version_info", "name a Python 3.11 or newer"), ("ensurepip", "python3-venv")]
)
def test_setup_names_what_it_lacks(project, fails, remedy):
    python = project / "python"
    python.write_text(f'#!/usr/bin/env bash\n[[ "$*" != *{fails}* ]]\n')
    python.chmod(0o755)
    assert remedy in refusal(bash("sh/setup.sh", cwd=project, VENV="", PYTHON=python))
    assert not (project / ".venv").exists()


def test_setup_ends_with_what_to_do_next(project):
    python = project / "python"
    python.write_text('#!/usr/bin/env bash\n[[ "$*" != "-m venv .venv" ]] || install -D "$0" .venv/bin/python\n')
    python.chmod(0o755)
    for file in ("requirements.lock", "piplist.txt", "pyproject.toml"):
        shutil.copy(ROOT / file, project)
    done = bash("sh/setup.sh", cwd=project, VENV="", PYTHON=python)
    assert done.returncode == 0, done.stderr
    assert "bash sh/quickstart.sh" in done.stdout and "source .venv/bin/activate" in done.stdout.splitlines()[-1]
    again = bash("sh/setup.sh", cwd=project, VENV="", PYTHON=python)
    assert (again.returncode, again.stdout) == (0, "")


class Sources:
    """The two places that teachers are published at, as folders, and the project that fetches from them."""

    def __init__(self, project: Path):
        self.project, self.host, self.release = project, project / "host", project / "release"
        self.release.mkdir()

    def publish(self, name: str, content: float = 0, folder: Path | None = None) -> Path:
        file = (folder or self.host) / f"{name}_vanilla" / "ckpt_epoch_240.pth"
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"epoch": 240, "model": {"fc.weight": torch.full((100, 64), content)}}, file)
        return file

    def archive(self, name: str, folder: Path) -> None:
        content = self.project / "content"
        self.publish(name, folder=content / "cifar_teachers")
        folder.mkdir(exist_ok=True)
        subprocess.run(["tar", "-cf", folder / "cifar_teachers.tar", "-C", content, "cifar_teachers"], check=True)

    def fetched(self, name: str) -> Path:
        return self.project / "pretrained" / f"{name}_vanilla" / "ckpt_epoch_240.pth"

    def fetch(self, *names: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
        cwd = cwd or self.project
        cwd.mkdir(exist_ok=True)
        urls = {"REPDISTILLER_URL": self.host.as_uri(), "MDISTILLER_URL": self.release.as_uri()}
        return bash(self.project / "sh" / "fetch_pretrained_teachers.sh", *names, cwd=cwd, **urls)


@pytest.fixture
def sources(project) -> Sources:
    return Sources(project)


def test_fetch_notes_the_checksum_and_refuses_a_changed_file(sources):
    published, fetched = sources.publish("resnet56"), sources.fetched("resnet56")
    assert sources.fetch("resnet56").returncode == 0
    assert fetched.read_bytes() == published.read_bytes()
    subprocess.run(["sha256sum", "--check", "--status", f"{fetched.name}.sha256"], cwd=fetched.parent, check=True)
    assert sources.fetch("resnet56").returncode == 0
    fetched.write_bytes(b"changed")
    assert "delete the file to fetch it again" in refusal(sources.fetch("resnet56"))
    assert fetched.read_bytes() == b"changed"


def test_fetch_refuses_another_file_than_the_noted_one(sources):
    sources.publish("resnet56", content=1)
    fetched = sources.fetched("resnet56")
    note = fetched.with_name(f"{fetched.name}.sha256")
    note.parent.mkdir(parents=True)
    note.write_text("0123  ckpt_epoch_240.pth\n")
    assert "was not kept" in refusal(sources.fetch("resnet56"))
    assert not fetched.exists() and note.read_text().startswith("0123")


def test_fetch_goes_on_with_an_interrupted_download(sources):
    published = sources.publish("resnet56")
    part = sources.project / "pretrained" / "resnet56.part"
    part.parent.mkdir()
    part.write_bytes(published.read_bytes()[:1000])
    assert sources.fetch("resnet56").returncode == 0
    assert sources.fetched("resnet56").read_bytes() == published.read_bytes()
    assert not part.exists()


@pytest.mark.parametrize("where", ["release", "pretrained"])
def test_fetch_unpacks_the_archive(sources, where):
    sources.archive("vgg13", sources.project / where)
    assert sources.fetch("vgg13").returncode == 0
    assert torch.load(sources.fetched("vgg13"), weights_only=True)["epoch"] == 240


def test_fetch_keeps_nothing_but_checkpoints(sources):
    published = sources.publish("resnet56")
    published.write_bytes(published.read_bytes()[:-1000])
    sources.publish("vgg13").write_text("<html>moved</html>")
    (sources.release / "cifar_teachers.tar").write_text("<html>moved</html>")
    result = sources.fetch("resnet56", "vgg13")
    assert result.returncode == 2
    assert [line.split(":")[1].strip() for line in result.stderr.splitlines()] == ["resnet56", "vgg13"]
    assert not [path for path in (sources.project / "pretrained").rglob("*") if path.is_file()]


def test_fetch_says_what_to_do_without_the_hosts(sources):
    assert "bash sh/train_cifar100_teacher.sh resnet56" in refusal(sources.fetch("resnet56"))
    assert "published are wrn_40_2" in refusal(sources.fetch("resnet57"))


def test_relative_paths_count_from_the_folder_of_the_command(tmp_path, sources):
    """Those of flags, those of errors, and the folders of runs and teachers."""
    launch = ["sh/launch.sh", "gendd_cifar", "train", "classification", "--dataset", "digits", "--student", "resnet8"]
    launch[0] = ROOT / launch[0]
    flags = ["--epochs", "1", "--milestones", "1", "--precision", "fp32"]
    trained = bash(*launch, *flags, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    run = tmp_path / "runs" / "digits" / "resnet8" / "classification" / "0"
    assert trained.stdout.splitlines()[-1] == f"results in {run}" and (run / "result.json").exists()

    for flag, path in (("--student-weights", "here/a.pth"), ("--dataset", "here/photos")):
        line = refusal(bash(*launch, "--name", "other", flag, path, cwd=tmp_path))
        assert f"{flag} {path}: no such f" in line and f", looked for {tmp_path}/{path}; " in line

    (tmp_path / "own_networks.py").write_text(
        "from timm import create_model\n\n\ndef small(num_classes):\n"
        "    return create_model('cifar_resnet8', num_classes=num_classes)\n"
    )
    planned = bash(*launch, "--student", "own_networks:small", "--dry-run", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr

    sources.publish("vgg13")
    assert sources.fetch("vgg13", cwd=tmp_path / "elsewhere").returncode == 0
    assert (tmp_path / "elsewhere" / "pretrained" / "vgg13_vanilla" / "ckpt_epoch_240.pth").exists()


@pytest.mark.parametrize(("images", "batch"), [(5, 8), (100, 8), (400, 32), (3000, 256)])
def test_distill_folder_batch_follows_the_number_of_images(tmp_path, images, batch):
    """At least 1,000 steps in 100 epochs, where the folder is large enough for it."""
    shutil.copy(ROOT / "sh" / "distill_folder.sh", tmp_path)
    (tmp_path / "launch.sh").write_text('echo "$@"\n')
    (tmp_path / "images").mkdir()
    for number in range(images):
        (tmp_path / "images" / f"{number}.png").touch()
    words = bash(tmp_path / "distill_folder.sh", "images", cwd=tmp_path).stdout.split()
    assert words[words.index("--batch-size") + 1] == str(batch)
