"""Every shell script works in a dry run, with the values of the recipes."""

import itertools
import math
import shutil

import pytest
from programs import values_of
from published_recipes import A1, A2, CONTRACTIONS, LARGE_SCRIPTS, WITHOUT_RECIPE
from published_recipes import CIFAR_SGD as PUBLISHED_SGD
from shell import ROOT, bash, configuration, refusal

from gendd.runs.folder import RunFolder, run_path, stage1_run

SCRIPTS = sorted((ROOT / "sh").glob("*.sh"))
PAIRS = [pair.replace(" ", "_") for pair in (*CONTRACTIONS, *WITHOUT_RECIPE)]

# Data settings of the scripts for photographs.
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
DISTILLED = [name for name in LARGE_SCRIPTS if name.endswith("gendd")]


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


@pytest.mark.parametrize("script", LARGE_SCRIPTS)
def test_scripts_for_photographs(script, recorded, dry_run, tmp_path):
    """Plan every script, but not with BEiT-v2 large, nor with A1, whose networks are A2's: each takes ten seconds."""
    (program,) = recorded(f"bash sh/train_{script}.sh --seed 3 --data-root {tmp_path}")
    config = configuration(*program)
    data = DATA[script.split("_")[0]]
    assert {name: getattr(config.data, name) for name in data} == data
    assert config.run.seed == 3
    if config.networks.teacher != "beitv2_large" and script != "imagenet_beitv2b_resnet50_a1_gendd":
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
        for name in (
            *pairs,
            "cifar100_teacher",
            "cifar100_resnet56_resnet20_gendd_short",
            *LARGE_SCRIPTS,
        )
    } | {"train_cifar100_baseline", "train_imagenet_baseline"}


def test_no_two_runs_share_a_folder(recorded):
    programs = [program for script in LARGE_SCRIPTS for program in recorded(f"bash sh/train_{script}.sh")]
    configs = [configuration(*program) for program in programs]
    runs = [run_path(config) for config in configs] + [
        stage1_run(config).path for config in configs if stage1_run(config)
    ]
    assert len(set(runs)) == len(runs)


CIFAR_SGD = {name: value for name, value in PUBLISHED_SGD.items() if name not in ("decayed", "precision")}
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
    "imagenet kd-head resnet34 resnet18": {**IMAGENET_SGD, "label_share": 0.5, "temperature": 1},
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
    "imagenet kd beitv2_large resnet50": {
        **A2,
        "epochs": 300,
        "weight_decay": 0.02,
        "optimizer": "adamw",
    },
    "RECIPE=a1 imagenet dkd beitv2_large resnet50": {
        **A1,
        "epochs": 600,
        "weight_decay": 0.01,
        "optimizer": "adamw",
    },
}


def baseline(words: str) -> str:
    *recipe, family, method, teacher, student = words.split()
    return " ".join([*recipe, f"bash sh/train_{family}_baseline.sh {method} {teacher} {student}"])


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
    *first, control = [configuration(*program) for program in recorded(baseline(words))]
    *earlier, gendd = [configuration(*program) for program in recorded(f"bash sh/train_{script}_gendd.sh")]
    assert first == earlier and control.method.name == "regression"
    name = gendd.run.name and gendd.run.name.replace("gendd", "regression")
    # The dense term is off in both.
    own = {"method": "regression", "name": name, "dense_draws": 0, "predictor": "mlp", "distance": "squared"}
    assert values_of(gendd) | own == values_of(control)


@pytest.mark.parametrize(
    ("words", "script"),
    [
        ("cifar100 gendd resnet56 resnet20", "cifar100_resnet56_resnet20_gendd"),
        ("RECIPE=a1 imagenet gendd beitv2_large resnet50", "imagenet_beitv2l_resnet50_a1_gendd"),
    ],
)
def test_baseline_script_with_gendd_starts_the_pair_script(words, script, recorded):
    assert recorded(f"{baseline(words)} --seed 3") == recorded(f"bash sh/train_{script}.sh --seed 3")


@pytest.mark.parametrize("family", ["cifar100", "imagenet"])
def test_baseline_scripts_name_missing_arguments(family):
    script = f"sh/train_{family}_baseline.sh"
    assert "METHOD TEACHER STUDENT are missing" in refusal(bash(script, "kd", "resnet34", "--dry-run"))
    assert "does not exist" in refusal(bash(script, "regression", "resnet34", "resnet19"))


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
    assert "NAME is missing" in refusal(bash("sh/train_cifar100_teacher.sh", "--dry-run"))


def test_script_starts_the_program_from_any_folder(tmp_path):
    script = ROOT / "sh" / "train_cifar100_teacher.sh"
    result = bash(script, "resnet8", "--dataset", "digits", "--dry-run", "--runs", tmp_path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"{tmp_path}/digits/resnet8/classification/0" in result.stdout


def test_evaluate_reads_the_family_from_the_run(tmp_path, recorded):
    assert recorded(f"bash sh/evaluate.sh {tmp_path} --sampling-steps 2") == [
        ("gendd evaluate", [str(tmp_path), "--sampling-steps", "2"])
    ]


def test_ablation_starts_its_programs(recorded, tmp_path):
    assert recorded(f"bash sh/ablate.sh guidance {tmp_path} --images 9", OUTPUT="out") == [
        ("gendd ablate", ["guidance", str(tmp_path), "--images", "9"])
    ]
    assert recorded("bash sh/ablate.sh contraction sh/pair.sh --lr 1") == [
        ("gendd ablate", ["contraction", "sh/pair.sh", "--lr", "1"])
    ]


def test_compare_starts_its_program_from_any_folder(recorded):
    assert recorded('bash sh/compare.sh toys large small "kd dkd" 0 --epochs 2') == [
        ("gendd compare", ["toys", "large", "small", "kd dkd", "0", "--epochs", "2"])
    ]


@pytest.mark.parametrize(
    ("images", "steps", "batch", "epochs"),
    [(5, "", 8, 32_000), (100, "", 8, 1600), (400, "1000", 32, 80), (3000, "", 256, 1707), (0, "", 8, 1)],
)
def test_distill_folder_follows_the_number_of_images(images, steps, batch, epochs, tmp_path):
    """The batch size gives ten steps per epoch if it can, and the epochs give STEPS steps, 20,000 by default."""
    shutil.copy(ROOT / "sh" / "distill_folder.sh", tmp_path)
    (tmp_path / "launch.sh").write_text('echo "$@"\n')
    (tmp_path / "images").mkdir()
    for number in range(images):
        (tmp_path / "images" / f"{number}.png").touch()
    words = bash(tmp_path / "distill_folder.sh", "images", cwd=tmp_path, STEPS=steps).stdout.split()
    flags = dict(zip(words, words[1:], strict=False))
    assert (flags["--batch-size"], flags["--epochs"]) == (str(batch), str(epochs))
    assert flags["--warmup-epochs"] == flags["--eval-every"] == str(math.ceil(epochs / 20))


def test_distill_folder_counts_files_beside_a_loop_of_links(tmp_path):
    shutil.copy(ROOT / "sh" / "distill_folder.sh", tmp_path)
    (tmp_path / "launch.sh").write_text('echo "$@"\n')
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "again").symlink_to("..")
    (tmp_path / "images" / "0.png").touch()
    done = bash(tmp_path / "distill_folder.sh", "images", cwd=tmp_path)
    assert done.returncode == 0 and "--batch-size 8 " in done.stdout and not done.stderr


def test_distill_folder_refuses_steps_that_are_no_number():
    done = bash(ROOT / "sh" / "distill_folder.sh", "images", STEPS="5k")
    assert done.returncode == 2 and done.stderr.startswith("error: STEPS=5k: not a number of steps")


@pytest.mark.parametrize(
    ("method", "width", "share"), [("gendd", "1024", "1"), ("regression", None, None), ("kl", None, None)]
)
def test_distill_folder_gives_head_flags_to_heads_only(method, width, share, tmp_path):
    shutil.copy(ROOT / "sh" / "distill_folder.sh", tmp_path)
    (tmp_path / "launch.sh").write_text('echo "$@"\n')
    words = bash(tmp_path / "distill_folder.sh", "images", "--seed", "3", cwd=tmp_path, METHOD=method).stdout.split()
    flags = dict(zip(words, words[1:], strict=False))
    assert words[:3] == ["gendd_imagenet", "train", method] and words[-2:] == ["--seed", "3"]
    assert (flags.get("--width"), flags.get("--probe-gradient")) == (width, share)
    assert ("--repeats" in words) == bool(width)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ([], ["timm/vit_small_patch14_dinov2.lvd142m"]),
        (["--teacher-image-size", "98"], ["timm/vit_small_patch14_dinov2.lvd142m"]),
        (["--teacher=timm/a"], []),
        (["--teacher", "timm/a", "--teacher", "timm/b"], ["timm/a", "timm/b"]),
    ],
)
def test_distill_folder_takes_the_named_teachers(given, named, tmp_path):
    shutil.copy(ROOT / "sh" / "distill_folder.sh", tmp_path)
    (tmp_path / "launch.sh").write_text('echo "$@"\n')
    words = bash(tmp_path / "distill_folder.sh", "images", *given, cwd=tmp_path).stdout.split()
    assert [value for flag, value in itertools.pairwise(words) if flag == "--teacher"] == named
