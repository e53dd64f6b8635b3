"""Invalid commands: refused before the training, and listed by a dry run."""

from contextlib import nullcontext

import pytest
from lines import refuses
from programs import train_cifar as main
from small_runs import COMMON, GENDD, TOY


def test_simkd_refuses_a_student_without_a_feature_map(train):
    with refuses("--student timm/vit_tiny_patch16_224: simkd needs a feature map"):
        train("--student", "timm/vit_tiny_patch16_224", "--image-size", "16", method="simkd")


TAUGHT = ("--unlabeled", "--teacher", TOY, "--teacher-weights", "T")


@pytest.mark.parametrize(
    "flags, message",
    [
        (["gendd"], "--teacher is missing"),
        (["gendd", "--teacher", TOY], "--teacher toy:network: its weights are random"),
        (["classification", "--teacher", TOY], "--teacher toy:network: classification does not use a teacher"),
        (["classification", "--unlabeled"], "--unlabeled: classification needs labels"),
        (["gendd", *TAUGHT, "--contraction", "0.9"], "--unlabeled: --contraction 0.9 needs labels"),
        (["gendd", *TAUGHT, "--contraction=0.5"], "--unlabeled: --contraction 0.5 needs labels"),
        (["gend"], "METHOD gend: no such name; nearest: gendd"),
        (["classification", "--dataset", "none"], "digits; or name a folder with train/<class>/ and test/<class>/"),
        (
            ["classification", "--student", "resnet21"],
            "--student resnet21: no such name; nearest: resnet",
        ),
        (["classification", "--grad-accum-steps", "3"], "--batch-size 64: does not divide"),
        (["finetune", "--teacher", TOY, "--teacher-weights", "T"], "--student-weights is missing"),
        (
            ["finetune", "--teacher", TOY, "--teacher-weights", "T", "--student-weights", "T", "--optimizer", "muon"],
            "--optimizer muon: finetune trains only the classifier, and muon updates only backbone weights",
        ),
        (
            ["finetune", "--teacher", TOY, "--student-weights", "T", "--probe-gradient", "0.1"],
            "--probe-gradient 0.1: finetune trains only the classifier; leave it out",
        ),
        (
            ["regression", "--teacher", TOY, "--contraction", "0", "--probe-gradient", "0.1"],
            "--probe-gradient 0.1: labels have no effect with --contraction 0; set a --contraction, or --unlabeled",
        ),
        (["gendd", "--teacher", TOY, "--probe-gradient", "1.5"], "--probe-gradient 1.5: must be"),
        (
            ["classification", "--student-weights", "nowhere.pt"],
            "--student-weights nowhere.pt: no such file",
        ),
    ],
)
def test_invalid_commands_are_refused(teacher, tmp_path, flags, message):
    flags = [str(teacher) if flag == "T" else flag for flag in flags]
    with refuses() as error:
        main([flags[0], *COMMON, "--runs", str(tmp_path), *flags[1:]])
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_dry_run_names_missing_files_and_writes_nothing(tmp_path, capsys):
    flags = ["--dataset", "cifar100", "--data-root", str(tmp_path), "--runs", str(tmp_path / "runs"), "--dry-run"]
    with refuses("^the dry run found missing or wrong inputs, listed above; correct them, then run it again$"):
        main([*GENDD, "--teacher-weights", "pretrained/none.pth", *flags])
    output = capsys.readouterr().out
    assert "pretrained/none.pth: no such file" in output and "cifar-100-python.tar.gz" in output
    assert not list(tmp_path.iterdir())


def test_student_weights_trained_on_held_out_images_are_refused(train, capsys):
    seen = str(train("--name", "seen", "--epochs", "1"))
    with refuses(r"^--student-weights .*: .* --holdout 0\.0, .* --holdout 0\.2 "):
        train("--student-weights", seen, "--holdout", "0.2")
    with refuses("listed above"):
        train("--student-weights", seen, "--holdout", "0.2", "--dry-run")
    assert "--holdout 0.2 holds out here" in capsys.readouterr().out
    held = str(train("--name", "held", "--epochs", "1", "--holdout", "0.2"))
    train("--student-weights", held, "--holdout", "0.2", "--dry-run")
    assert capsys.readouterr().out.endswith("nothing is missing\n")


def test_refuses_batchnorm_student_with_one_image_per_process(tmp_path):
    """The last feature map is 1x1, so batch norm has one value per channel and image."""
    flags = ["classification", *COMMON, "--student", "MobileNetV2", "--image-size", "16", "--runs", str(tmp_path)]
    with refuses("^--student MobileNetV2: cannot be trained on 1 image of 16 pixels at once"):
        main([*flags, "--batch-size", "4", "--grad-accum-steps", "4", "--dry-run"])
    main([*flags, "--batch-size", "4", "--grad-accum-steps", "2", "--dry-run"])


@pytest.mark.parametrize("method", ["gendd", "regression", "feature", "srd", "vkd"])
def test_few_labels_need_a_teacher_that_classifies(method, train, capsys):
    """Except for the methods that the refusal names."""
    flags = ["--no-teacher-classifier", "--teacher-weights", "random", "--label-fraction", "0.1", "--dry-run"]
    if method in ("gendd", "regression"):
        with refuses("^--label-fraction 0.1: .* keep all labels, .* or choose feature, srd or vkd$"):
            train(*flags, "--contraction", "0", method=method)
    else:
        train(*flags, method=method)
        assert capsys.readouterr().out.endswith("nothing is missing\n")


@pytest.mark.parametrize(("method", "fewest"), [("srd", 2), ("vkd", 2), ("dist", 1)])
def test_refuses_fewer_images_than_a_method_compares(method, fewest, train):
    flags = ["--batch-size", "3", "--grad-accum-steps", "3", "--dry-run"]
    with refuses("^--batch-size 3: .* it needs 2 of them; choose at least 6") if fewest == 2 else nullcontext():
        train(*flags, method=method)


@pytest.mark.parametrize(
    "flags", [["--image-size", "0"], ["--hflip", "2"], ["--crop-padding", "-1"], ["--batch-size", "0"]]
)
def test_check_data_refuses_numbers_out_of_range(flags):
    with refuses(f"^{' '.join(flags)}"):
        main(["classification", *COMMON, *flags, "--check-data"])


def test_dry_run_takes_weights_of_a_teacher_that_is_not_used(tmp_path, capsys):
    """A command for several methods may name the weights for all of them."""
    main(["classification", *COMMON, "--teacher-weights", str(tmp_path / "no.pth"), "--dry-run"])
    assert "nothing is missing" in capsys.readouterr().out


def test_plan_prints_normalization_a_network_does_not_state(tmp_path, capsys):
    main([*GENDD, "--teacher-weights", "random", "--runs", str(tmp_path), "--dry-run"])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    for role in ("student", "teacher"):
        assert "mean 0.5071 0.4867 0.4408" in lines[role] and "states none" in lines[role]
