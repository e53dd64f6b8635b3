"""Training from several teachers: resumed, in two processes, from caches, and what evaluates the run."""

import json

import pytest
import torch
import toy
from forked import run_in_two
from lines import refuses
from programs import evaluate_cifar as evaluate
from programs import train_cifar
from run_folders import settings_of
from safetensors.torch import load_file
from small_runs import (
    DENSE,
    GENDD,
    PAIR,
    SECOND,
    assert_same_weights,
    contents,
    ctrl_c,
    timeless_metrics,
    weights,
)

import gendd
from gendd.core.distributed import World
from gendd.core.errors import InvalidSetting
from gendd.core.seeding import BatchPlan
from gendd.programs.main import main
from gendd.runs.folder import RunFolder
from gendd.runs.metrics import read_metrics

LABEL = "head_toy.wide"


def losses(run, name="loss") -> list[float]:
    return [record[name] for record in read_metrics(run) if record["kind"] == "train"]


def test_record_holds_both_teachers(pair):
    environment = json.loads((pair / "environment.json").read_text())
    (further,) = environment["more_teachers"]
    assert (environment["teacher"]["width"], further["width"]) == (64, 100)
    assert (further["image_size"], further["feature"]) == (48, "pooled")
    assert settings_of(pair)["more_teachers"][0]["teacher"] == "toy:wide"
    origin = json.loads((pair / "student" / "config.json").read_text())["gendd"]
    assert [one["network"] for one in origin["more_teachers"]] == ["toy:wide"]
    for student in ("student.safetensors", "student"):
        assert gendd.load(pair / student).outputs == ("classifier",)


def test_each_teacher_has_its_scores(pair):
    last = json.loads((pair / "result.json").read_text())["last"]
    assert list(last) == ["head", "probe", LABEL, "ema_head", "ema_probe", f"ema_{LABEL}"]
    assert set(last["head"]) == {"top1", "top5"} and set(last[LABEL]) == {"cosine", "r2", "neighbors"}
    assert LABEL not in RunFolder(pair).headline()


def test_head_of_each_teacher_learns(train, tmp_path):
    flags = ["--contraction", "0", "--feature-mixup", "0", "--predictor", "linear", "--lr", "0.02"]
    run = tmp_path / "run"
    train(*flags, *SECOND, "--out", str(run), method="regression")
    for name in ("mse", "head2_loss"):
        assert losses(run, name)[-1] < 0.7 * losses(run, name)[0]
    assert json.loads((run / "result.json").read_text())["last"][LABEL]["r2"] > 20


def test_killed_run_equals_an_uninterrupted_one(train, pair, tmp_path):
    flags = [*PAIR, "--out", str(tmp_path / "run")]
    with ctrl_c("train_step", step=25):
        train(*flags)
    train(*flags)
    assert_same_weights(pair, tmp_path / "run", rtol=0, atol=0)
    assert timeless_metrics(pair) == timeless_metrics(tmp_path / "run")


def test_two_processes_train_as_one(pair, teacher, tmp_path):
    words = [*GENDD, "--teacher-weights", str(teacher), *PAIR, "--out", str(tmp_path / "run")]
    run_in_two(lambda: train_cifar(words), tmp_path)
    assert_same_weights(pair, tmp_path / "run", rtol=1e-3, atol=1e-4)
    ours, theirs = (json.loads((run / "result.json").read_text())["last"][LABEL] for run in (pair, tmp_path / "run"))
    assert ours == pytest.approx(theirs, abs=0.2)


def test_each_teacher_is_cached_as_if_alone(train, tmp_path):
    flags, cache = ["--crop-padding", "0", "--epochs", "1"], tmp_path / "cache"
    train(*flags, *SECOND, "--out", str(tmp_path / "computed"))
    train(*flags, "--teacher-cache", str(cache), *SECOND, "--out", str(tmp_path / "cached"))
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "computed"), rel=1e-3)
    train(*flags, "--teacher-cache", str(tmp_path / "first"), "--out", str(tmp_path / "one"))
    alone = {name.removeprefix(str(tmp_path / "first")): value for name, value in contents(tmp_path / "first").items()}
    both = {name.removeprefix(str(cache)): value for name, value in contents(cache).items()}
    assert alone.items() <= both.items() and set(both) - set(alone) == {f"/teacher2{name}" for name in alone}
    with refuses(r"--teacher-cache .*teacher2: was made from other settings: .*teacher toy:wide there, toy:own here"):
        train(*flags, "--teacher-cache", str(cache), "--teacher", "toy:own", "--out", str(tmp_path / "other"))


def test_three_teachers_keep_their_order(train, tmp_path):
    run = tmp_path / "run"
    train("--epochs", "1", *DENSE, "--teacher", "toy:own", *SECOND, "--out", str(run))
    last, loaded = json.loads((run / "result.json").read_text())["last"], gendd.load(run, with_teacher=True)
    assert list(last) == ["head", "probe", "head_toy.own", LABEL]
    images = torch.randn(64, 3, 32, 32)
    for name, number in (("head_toy.own", 0), (LABEL, 1)):
        branch, features = loaded.model.branches[number], loaded.more_teachers[number].features_of(images)
        assert loaded.predict(images, name).shape == features.shape
        assert loaded.more_teachers[number].loaded.name == name.removeprefix("head_").replace(".", ":")
        assert branch.head.feature_dim == features.shape[1] and branch.dense.head.feature_dim == 4
    assert loaded.dense(images, "toy:wide").shape == (64, 4, 8, 8)


def test_scale_of_a_teacher_does_not_change_its_weight(train, tmp_path, monkeypatch):
    for scale in (1.0, 1000.0):
        monkeypatch.setattr(toy, "scale", scale)
        train("--epochs", "1", *SECOND, "--out", str(tmp_path / f"{scale:g}"))
    assert losses(tmp_path / "1") == pytest.approx(losses(tmp_path / "1000"), rel=1e-3)


def test_scales_are_those_of_each_teachers_features(pair):
    """Beside class centers, all dimensions have the root of their mean variance."""
    tensors, run = torch.load(pair / "checkpoints" / "last.pt", weights_only=True), gendd.load(pair, with_teacher=True)
    plan, world = BatchPlan(0, run.config.optimizer.batch_size), World(0, 1, 0, run.device)
    data = run.family.access.open_training(run.config, 10, plan, world, run.backbone)
    batches, expected = list(data.batches(range(data.steps_per_epoch))), {}
    for place, teacher in (("", run.teacher), ("branches.0.", run.more_teachers[0])):
        features, maps = map(torch.cat, zip(*map(teacher.features_and_map, batches), strict=True))
        for name, values in ((f"{place}scale", features), (f"{place}dense.scale", maps.flatten(0, 1))):
            std = values.std(0, correction=0)
            if name == "scale":
                std = std.square().mean().sqrt().expand_as(std)
            expected |= {f"{name}.mean": values.mean(0), f"{name}.std": std.where(std > 0, 1)}
    for model in ("model", "ema"):
        found = {name: value for name, value in tensors[model].items() if name.endswith(("scale.mean", "scale.std"))}
        torch.testing.assert_close(found, {name: expected[name] for name in found}, rtol=1e-3, atol=1e-4)
        assert found.keys() == expected.keys()


def test_resume_refuses_a_changed_or_missing_further_teacher(train, tmp_path, monkeypatch):
    out = ["--out", str(tmp_path / "run")]
    with ctrl_c("train_epoch", epoch=1):
        train(*out, *SECOND)
    with refuses("other settings: --teacher toy:network; toy:wide --teacher-image-size 48 there, toy:network here"):
        train(*out)
    with refuses("--teacher toy:network; toy:wide --teacher-image-size 48 there, toy:network; toy:wide here"):
        train(*out, *SECOND[:2])
    monkeypatch.setattr(toy, "bias", 1.0)
    with refuses("holds a run of another teacher: the weights of toy:wide had sha256"):
        train(*out, *SECOND)


@pytest.mark.parametrize("method", ["kd", "feature", "finetune", "pretrain", "kd-head"])
def test_methods_of_one_teacher_refuse_several(train, method):
    with refuses(f"^--teacher toy:network toy:wide: {method} learns from one teacher; name one, or choose regression"):
        train(*SECOND, method=method)


def test_raw_features_of_several_teachers_are_refused(train):
    with refuses("--feature-space raw: several teachers have the same weight only if .* standardized; leave it out"):
        train("--feature-space", "raw", *SECOND)


def test_first_stage_learns_from_the_first_teacher(train, tmp_path):
    train("--pretrain-epochs", "1", "--epochs", "1", *SECOND, "--eval-images", "50")
    stage1, run = (json.loads(next((tmp_path / "runs").rglob(f"{name}/0/config.json")).read_text())["networks"]
                   for name in ("pretrain", "gendd"))  # fmt: skip
    assert not stage1["more_teachers"] and len(run["more_teachers"]) == 1


def test_finetuning_leaves_the_further_heads_out(train, pair):
    finetuned = train("--student-weights", str(pair), "--epochs", "1", method="finetune")
    assert not [name for name in weights(finetuned) if name.startswith("branches.")]


def test_dry_run_plans_each_teacher(train, tmp_path, capsys):
    train("--dry-run", "--teacher-cache", str(tmp_path / "cache"), *SECOND)
    out = capsys.readouterr().out
    assert "teacher 2  toy:wide" in out and "head 2     for 100 numbers of teacher 2" in out
    assert "cache/teacher2: features, 3 views" in out and not (tmp_path / "cache").exists()


def test_dry_run_lists_missing_weights_of_a_further_teacher(train, capsys):
    with refuses("the dry run found missing"):
        train("--dry-run", "--teacher", "resnet8", "--teacher-weights", "nowhere.pth")
    out = capsys.readouterr().out
    assert "--teacher-weights nowhere.pth: no such file" in out
    assert "teacher 2  resnet8" in out and out.count("its weights are missing") == 1


def test_program_evaluates_each_teacher(pair, tmp_path, monkeypatch, capsys):
    evaluate([str(pair), "--json", str(tmp_path / "figures.json")])
    rows = {row["output"]: row for row in json.loads((tmp_path / "figures.json").read_text())["outputs"]}
    last = json.loads((pair / "result.json").read_text())["last"]
    assert rows[LABEL]["r2"] == pytest.approx(last[LABEL]["r2"], abs=1e-3)
    assert f"{LABEL} is compared with toy:wide" in capsys.readouterr().out
    assert gendd.evaluate(pair)[LABEL]["cosine"] == pytest.approx(last[LABEL]["cosine"], abs=1e-3)


def test_heads_are_not_compared_with_teachers_that_are_lost(train, teacher, tmp_path):
    file = tmp_path / "teacher.pth"
    file.write_bytes((teacher / "checkpoints" / "last.pt").read_bytes())
    run = tmp_path / "run"
    train("--epochs", "1", "--teacher-weights", str(file), *SECOND, "--out", str(run))
    file.unlink()
    assert set(gendd.evaluate(run)) == {"head", "probe"}
    evaluate([str(run)])
    rows = json.loads((run / "evaluation.json").read_text())["outputs"]
    assert [row["output"] for row in rows] == ["head", "probe"]


def test_loaded_run_generates_the_features_of_each_teacher(pair):
    run, images = gendd.load(pair, with_teacher=True), torch.randn(3, 3, 32, 32)
    assert run.outputs == ("head", "probe", LABEL)
    generated = run.predict(images, LABEL)
    torch.testing.assert_close(generated, run.model.sample(images, teacher=1))
    assert generated.shape == (3, 100)
    assert run.dense(images).shape == run.dense(images, "toy:wide").shape == (3, 4, 8, 8)
    assert not torch.equal(run.dense(images), run.dense(images, "toy.wide"))
    with pytest.raises(InvalidSetting, match="the run's teachers are toy:network, toy:wide; name one"):
        run.dense(images, "toy:third")


def test_probes_name_the_teacher_and_choose_its_head(pair, capsys):
    for teacher, file in (([], "knn-generated.json"), (["--teacher", "toy:wide"], "knn-generated-toy.wide.json")):
        main("gendd", ["knn", str(pair), "--features", "generated", *teacher])
        name = "toy:wide" if teacher else "toy:network"
        assert f"features generated, teacher {name}, " in capsys.readouterr().out
        assert json.loads((pair / file).read_text())["teacher"] == name
    first, second = (load_file(pair / "features" / f"digits-test-generated{end}.safetensors") for end in ("", "-2"))
    assert (first["features"].shape[1], second["features"].shape[1]) == (64, 100)
    with refuses("--teacher toy:wide: selects a head; give --features generated, or leave it out"):
        main("gendd", ["knn", str(pair), "--teacher", "toy:wide"])


@pytest.mark.parametrize("program", ["evaluate", "knn", "probe", "zero-shot"])
def test_evaluations_refuse_the_flag_of_a_teacher_twice(program):
    with refuses("^--teacher toy:wide: .*give (it|the flag) once"):
        main("gendd_cifar", [program, "run", "--teacher", "toy:network", "--teacher", "toy:wide"])


def test_report_names_each_teacher(pair, whole, tmp_path):
    main("gendd", ["report", str(pair), str(whole), "--output", str(tmp_path / "report")])
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| head of toy.wide |" in text and "| ema head of toy.wide |" in text
    assert "toy:network + toy:wide (" in text and "*head of NAME* to the further teacher NAME" in text
    assert (tmp_path / "report" / "comparison.png").exists()


def test_published_student_needs_no_teacher(pair, tmp_path):
    main("gendd", ["publish", str(pair), "--folder", str(tmp_path / "published")])
    card = (tmp_path / "published" / "README.md").read_text()
    assert "distilled from toy:network and toy:wide" in card and "| license of the teacher 2's weights |" in card
    run, published, images = gendd.load(pair), gendd.load(tmp_path / "published"), torch.randn(3, 3, 32, 32)
    assert published.outputs == run.outputs
    for name in run.outputs:
        torch.testing.assert_close(published.predict(images, name), run.predict(images, name))


def test_exported_head_leaves_further_heads_out(pair, tmp_path):
    run, images = gendd.load(pair), torch.randn(3, 3, 32, 32)
    module = torch.export.load(run.export(tmp_path, to="torch-export", num_images=50)).module()
    assert not [name for name in module.state_dict() if "branches" in name]
    torch.testing.assert_close(module(images), run.predict(images, "head"))
