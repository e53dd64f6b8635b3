"""The publish program, for small images: what timm and gendd load from the folder, its card, and the hub."""

import argparse
import json
import re
import shlex
import shutil
import sys
import warnings
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from golden_runs import PAPER
from hub import serving
from lines import refuses
from programs import evaluate_cifar, train_cifar
from run_folders import change_settings
from small_runs import COMMON, HEAD, TOY

import gendd
from gendd.networks.create import create_network
from gendd.programs import publish as program
from gendd.programs.configuration import configuration
from gendd.programs.main import main
from gendd.reporting import published as published_figures
from gendd.reporting.finished import FinishedRun
from gendd.reporting.published import Quoted
from gendd.runs.command import training_command
from gendd.runs.folder import NOT_COMPARED, RunFolder, by_name
from gendd.runs.published import FILES
from gendd_cifar.family import FAMILY

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def publish(run: Path, folder: Path, *flags: str, module: str = "gendd") -> str:
    """Publish a run, and return the text of its card."""
    main(module, ["publish", str(run), "--folder", str(folder), *flags])
    return (folder / "README.md").read_text()


@pytest.fixture(scope="module")
def run(teacher, tmp_path_factory) -> Path:
    """Train a network of the CIFAR zoo with a head."""
    runs = tmp_path_factory.mktemp("zoo")
    words = ["gendd", *COMMON, *HEAD, "--student", "resnet8", "--teacher", TOY, "--teacher-weights", str(teacher)]
    train_cifar([*words, "--epochs", "1", "--runs", str(runs)])
    return runs / "digits" / "toy.network_resnet8" / "gendd" / "0"


@pytest.fixture(scope="module")
def published(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "student"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        publish(run, folder, "--license", "mit")
    return folder


def assert_same_outputs(found: gendd.runs.experiment.Experiment, expected: gendd.runs.experiment.Experiment) -> None:
    assert found.outputs == expected.outputs
    for name in expected.outputs:
        torch.testing.assert_close(found.predict(IMAGES, name), expected.predict(IMAGES, name), rtol=0, atol=0)
    torch.testing.assert_close(found.features(IMAGES), expected.features(IMAGES), rtol=0, atol=0)


def assert_same_logits(name: str, expected: gendd.runs.experiment.Experiment) -> None:
    """Check timm's network of this name; in another memory format its sums would round differently."""
    network = timm.create_model(name, pretrained=True).eval().to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(IMAGES), expected.predict(IMAGES, "probe"), rtol=0, atol=0)


def test_gendd_loads_the_same_student_from_the_folder(run, published):
    expected = gendd.load(run)
    for name in (published, f"local-dir:{published}"):
        found = gendd.load(name)
        assert_same_outputs(found, expected)
        assert (found.class_names, found.epoch) == (expected.class_names, 1)
        assert found.preprocessing == expected.preprocessing


def test_timm_loads_the_same_network_from_the_folder(run, published):
    assert_same_logits(f"local-dir:{published}", gendd.load(run))


def test_evaluation_of_the_folder_equals_the_run_s(run, published, tmp_path):
    scores = {}
    for name in (run, published):
        main("gendd", ["evaluate", str(name), "--json", str(tmp_path / "figures.json")])
        rows = json.loads((tmp_path / "figures.json").read_text())["outputs"]
        scores[name] = {row["output"]: (row["top1"], row["top5"], row["ece"]) for row in rows}
    assert scores[published].keys() >= {"head", "probe"}
    assert scores[published].items() <= scores[run].items()
    assert gendd.evaluate(published)["head"]["top1"] == scores[run]["head"][0]


def test_programs_that_store_features_name_the_run_folder(published):
    for name, *flags in (["knn"], ["probe"], ["zero-shot", "--class-vectors", "none.npy"]):
        with refuses(f"RUN .*: {name} needs a run folder, which stores the features; for this file use evaluate$"):
            main("gendd", [name, str(published), *flags])


def test_folder_holds_no_pickle_and_no_path_of_this_machine(run, published):
    assert {path.name for path in published.iterdir()} == set(FILES)
    for path in published.iterdir():
        assert str(run.parents[3].parent).encode() not in path.read_bytes(), path.name


def test_card_states_the_record_of_the_run(run, published):
    card = (published / "README.md").read_text()
    result, environment = (json.loads((run / f"{name}.json").read_text()) for name in ("result", "environment"))
    for output, scores in result["last"].items():
        cost = result["outputs"][output]["parameters"] / 1e6
        assert f"| {output} | {scores['top1']:.2f} | {scores['top5']:.2f} | {cost:.2f} M | " in card
    for checksum in ("sha256", "tensors_sha256"):
        assert environment["teacher"][checksum] in card
    for line in ("| data | digits, 32 x 32 pixels; 1198 images to train on |", "| labels | used |", "| epochs | 1 |"):
        assert line in card
    assert "| initial weights | random |" in card
    assert f"| plain network | {result['student']['parameters'] / 1e6:.2f} M parameters, " in card
    assert "dense term" not in card
    for text in ("Last epoch, 599 test images, n = 1 run", "seed 0", "| license | mit |", "(curves.png)"):
        assert text in card


def test_metadata_of_card_is_the_hub_s(run, published):
    data = huggingface_hub.ModelCard.load(published / "README.md").data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "timm", "image-classification")
    last = json.loads((run / "result.json").read_text())["last"]
    found = {result.metric_name: result.metric_value for result in data.eval_results}
    assert found == {f"top-1 of {output} (%)": round(scores["top1"], 2) for output, scores in last.items()}
    assert {result.dataset_split for result in data.eval_results} == {"test"}


@pytest.mark.parametrize("place", range(2))
def test_code_of_card_runs(published, tmp_path, monkeypatch, place):
    from PIL import Image

    card = (published / "README.md").read_text().replace("path/to/folder", str(published))
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[place]
    Image.new("RGB", (40, 50)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(code, found)
    assert found["output"].shape == (1, 10)


def test_command_of_card_gives_the_configuration(run, published):
    (command,) = re.findall(r"```bash\n(.*?)\n```", (published / "README.md").read_text())
    _, _, module, program, *words = shlex.split(command)
    assert (module, program) == ("gendd_cifar", "train")
    expected = by_name(json.loads((run / "config.json").read_text()))
    found = by_name(configuration(FAMILY, words).content())
    differing = {name for name in expected if found[name] != expected[name] and name not in NOT_COMPARED}
    assert differing == {"teacher_weights"} and found["teacher_weights"] == "0"


@pytest.mark.parametrize("method, flag", [("kd", "--compile"), ("kl", "--unlabeled"), ("gendd", "--paper")])
def test_command_repeats_options_of_each_method(method, flag):
    words = [method, "--student", "resnet8", "--epochs", "3", "--no-teacher-classifier", "--milestones", "1", "2"]
    config = configuration(FAMILY, [*words, flag])
    assert configuration(FAMILY, shlex.split(training_command(FAMILY, config))[4:]) == config


def test_card_of_stopped_run_says_unfinished(interrupted, tmp_path):
    card = publish(interrupted, tmp_path / "student")
    assert "**Unfinished training**, epoch 1 of 3. They have no final measurement." in card
    assert "| output |" not in card and "unknown: ask the publisher" in card
    assert huggingface_hub.ModelCard(card).data.license == "unknown"
    assert not (tmp_path / "student" / "curves.png").exists()


def test_user_s_network_is_loaded_by_gendd_alone(whole, tmp_path):
    card = publish(whole, tmp_path / "student")
    assert "timm cannot build this network by name. `toy:network` must be importable." in card
    assert "| initial weights | those of toy:network |" in card
    assert "timm.create_model" not in card and huggingface_hub.ModelCard(card).data.library_name == "gendd"
    assert_same_outputs(gendd.load(tmp_path / "student"), gendd.load(whole))


def test_averaged_weights_are_published_with_their_scores(train, teacher, tmp_path):
    run = train("--ema-decay", "0.9", "--eval-weights", "ema", "--student-weights", str(teacher))
    card = publish(run, tmp_path / "student")
    assert f"| initial weights | {teacher.name} |" in card
    last = json.loads((run / "result.json").read_text())["last"]
    assert f"| head | {last['ema_head']['top1']:.2f} |" in card and "| ema_head |" not in card
    assert_same_outputs(gendd.load(tmp_path / "student"), gendd.load(run))


def test_card_states_that_the_student_began_with_stage_1(train, tmp_path):
    card = publish(train("--epochs", "1", "--pretrain-epochs", "1"), tmp_path / "student")
    assert "| initial weights | those of stage 1 (epochs: 1), which began with: those of toy:network |" in card


def test_card_of_finetune_states_the_run_it_began_with(train, tmp_path):
    second = train("--epochs", "1")
    flags = ("--epochs", "1", "--pretrain-epochs", "5", "--optimizer", "sgd")
    third = train(*flags, "--student-weights", str(second), method="finetune")
    assert "stage 1" not in publish(third, tmp_path / "student")
    assert FinishedRun(RunFolder(third)).earlier == FinishedRun(RunFolder(second))


def test_published_figures_of_unknown_length_state_none(run, tmp_path, monkeypatch):
    figures = [Quoted("digits", TOY, "resnet8", "gendd", 71.0, epochs, "a paper", "head") for epochs in (None, 9)]
    monkeypatch.setattr(published_figures, "PUBLISHED", figures)
    card = publish(run, tmp_path / "student")
    assert "not measured here: head 71.00 % (a paper); head 71.00 % (9 epochs, a paper)." in card


@pytest.mark.parametrize("method", ["classification", "kd", "simkd", "srd"])
def test_student_of_any_method_is_published(method, train, teacher, tmp_path):
    run = teacher if method == "classification" else train("--epochs", "1", method=method)
    publish(run, tmp_path / "student")
    assert_same_outputs(gendd.load(tmp_path / "student"), gendd.load(run))


def test_student_is_used_without_its_teacher_s_code(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone.py").write_text("import toy\nnetwork = toy.own\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = ["gendd", *COMMON, *HEAD, "--student", "resnet8", "--teacher", "gone:network", "--epochs", "1"]
    train_cifar([*words, "--runs", str(tmp_path / "runs")])
    (run,) = (tmp_path / "runs").glob("*/*/gendd/0")
    expected = gendd.load(run)
    publish(run, tmp_path / "student")
    shutil.rmtree(run)
    monkeypatch.setitem(sys.modules, "gone", None)
    assert_same_outputs(gendd.load(tmp_path / "student"), expected)
    main("gendd", ["evaluate", str(tmp_path / "student"), "--eval-images", "20"])
    assert "not evaluated, --teacher gone:network" in capsys.readouterr().out
    assert gendd.evaluate(tmp_path / "student", eval_images=20).keys() == {"head", "probe"}


def test_dense_student_is_published_with_its_map(dense, tmp_path):
    card = publish(dense, tmp_path / "dense")
    assert "| dense term | 2x2 locations, weight 0.3, 2 draws per location |" in card
    found, expected = gendd.load(tmp_path / "dense"), gendd.load(dense)
    assert_same_outputs(found, expected)
    torch.testing.assert_close(found.dense(IMAGES), expected.dense(IMAGES), rtol=0, atol=0)


def test_student_of_given_batches_is_published(tmp_path):
    batches = [(IMAGES, torch.tensor([0, 1, 2, 0]))] * 4
    options = {"width": 16, "depth": 1, "repeats": 2, "precision": "fp32", "out": tmp_path / "run"}
    run = gendd.distill(
        "timm/test_resnet", "timm/test_resnet", batches, 1, classes=3, teacher_weights="random", **options
    )
    card = publish(tmp_path / "run", tmp_path / "student")
    assert "by `gendd.distill` on batches" in card and "| preprocessing | by the publisher's code" in card
    assert_same_outputs(gendd.load(tmp_path / "student"), run)


def test_checkpoint_of_a_run_is_published_without_scores(whole, tmp_path):
    card = publish(whole / "checkpoints" / "last.pt", tmp_path / "student")
    assert "The weights are those of epoch 3 of 3. They have no final measurement." in card
    assert json.loads((whole / "environment.json").read_text())["teacher"]["tensors_sha256"] in card
    assert "| output |" not in card


@pytest.mark.parametrize(
    "files, flags, message",
    [
        ({"notes.txt": b""}, [], "--folder .*: holds other files, such as notes.txt; name a new folder"),
        ({}, ["--license", "My license"], "--license My license: is not an identifier of the hub"),
        ({}, ["--push", "alone"], "--push alone: does not name the owner"),
        ({}, ["--push", "a/b/c"], "--push a/b/c: .*; name the repository owner/name"),
        ({}, ["--student", "resnet8"], "--student resnet8: the run has its own; leave it out"),
    ],
)
def test_bad_command_is_refused_before_anything_is_written(files, flags, message, whole, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with refuses(message):
        publish(whole, tmp_path, *flags)
    assert {path.name for path in tmp_path.iterdir()} == files.keys()


def test_run_without_checkpoint_is_refused(tmp_path):
    with refuses("RUN .*last.pt: no such file"):
        publish(tmp_path, tmp_path / "student")
    with refuses("RUN is missing"):
        main("gendd", ["publish"])
    with refuses("--folder is missing"):
        main("gendd", ["publish", str(tmp_path)])


def test_folder_accepts_the_same_run_again_and_no_other(run, whole, tmp_path):
    publish(run, tmp_path)
    (tmp_path / "README.md").write_text("changed")
    assert "| license | apache-2.0 |" in publish(run, tmp_path, "--license", "apache-2.0")
    with refuses("--folder .*: holds another student; name a new folder"):
        publish(whole, tmp_path)
    other = shutil.copytree(run, tmp_path / "other")
    change_settings(other, seed=1)
    with refuses("holds another student"):
        publish(other, tmp_path)


def test_student_that_changes_by_loading_is_refused(whole, tmp_path, monkeypatch):
    tensors = program._tensors
    monkeypatch.setattr(program, "_tensors", lambda module: {name: 2 * t for name, t in tensors(module).items()})
    with refuses("head differs from the run after loading; do not publish it"):
        publish(whole, tmp_path / "student")


@pytest.fixture(scope="module")
def file(teacher, tmp_path_factory) -> tuple[Path, Path]:
    """Train with the paper's head; return the run, and its weights in the container of published checkpoints."""
    root = tmp_path_factory.mktemp("paper")
    paper = [word for name, value in PAPER.items() for word in (f"--{name}", str(value))]
    words = ["gendd", *COMMON, *HEAD, *paper, "--student", "resnet8", "--teacher", TOY, "--epochs", "1"]
    train_cifar([*words, "--teacher-weights", str(teacher), "--runs", str(root), "--eval-images", "20"])
    (run,) = root.glob("*/*/gendd/0")
    theirs = {"backbone.": "model.", "norm.": "cls_projector.0.", "head.net.": "diffloss.net."}
    tensors = {}
    for name, value in torch.load(run / "checkpoints" / "last.pt", weights_only=True)["model"].items():
        prefix = next((prefix for prefix in theirs if name.startswith(prefix)), "")
        tensors[f"module.{theirs.get(prefix, '')}{name.removeprefix(prefix)}"] = value
    torch.save({"state_dict": tensors, "args": argparse.Namespace(lr=0.1)}, root / "published.pth")
    return run, root / "published.pth"


# A teacher with the same feature width as the run's.
NETWORKS = ["--student", "resnet8", "--teacher", "resnet14", "--dataset", "digits"]


def test_published_checkpoint_is_published_with_its_networks(file, tmp_path):
    run, checkpoint = file
    card = publish(checkpoint, tmp_path / "student", *NETWORKS, module="gendd_cifar")
    assert "without a record of its training and accuracy" in card and "| labels | not recorded in the file |" in card
    assert "## Repeat" not in card and "| output |" not in card
    sampling = {"sampler": "deterministic", "sampling_steps": 4, "sampling_start": 800}
    expected = gendd.load(run)
    found, again = gendd.load(tmp_path / "student"), gendd.load(tmp_path / "student", **sampling)
    for name, value in expected.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], value, rtol=0, atol=0)
    torch.testing.assert_close(found.predict(IMAGES), again.predict(IMAGES), rtol=0, atol=0)
    evaluate_cifar([str(tmp_path / "student" / "gendd.safetensors"), "--eval-images", "20"])
    publish(checkpoint, tmp_path / "student", *NETWORKS, module="gendd_cifar")
    other = tmp_path / "other.pth"
    torch.save({**torch.load(checkpoint, weights_only=False), "epoch": 1}, other)
    with refuses("holds another student"):
        publish(other, tmp_path / "student", *NETWORKS, module="gendd_cifar")


@pytest.mark.parametrize(
    "flags, module, message",
    [
        (NETWORKS[2:], "gendd_cifar", "--student is missing: .*published.pth does not name its networks"),
        (NETWORKS[:2], "gendd_cifar", "--teacher is missing"),
        (NETWORKS, "gendd", "PROGRAM publish: the family of images is unknown"),
        (["--student", "resnet20", *NETWORKS[2:]], "gendd_cifar", "RUN .*published.pth: .* tensors loaded"),
    ],
)
def test_checkpoint_without_its_networks_is_refused(flags, module, message, file, tmp_path, monkeypatch):
    monkeypatch.delenv("FAMILY", raising=False)
    with refuses(message):
        publish(file[1], tmp_path / "student", *flags, module=module)
    assert not (tmp_path / "student").exists()


def test_plain_weights_are_refused(tmp_path):
    torch.save(create_network("resnet8", FAMILY.zoo, 10, 32).state_dict(), tmp_path / "plain.pth")
    with refuses("RUN .*plain.pth: neither a run nor a published GenDD checkpoint; name a run folder"):
        publish(tmp_path / "plain.pth", tmp_path / "student", module="gendd_cifar")


def test_pushed_student_is_loaded_from_the_hub(run, tmp_path, monkeypatch, capsys):
    with serving(monkeypatch, tmp_path / "cache") as hub:
        (tmp_path / "student").mkdir()
        card = publish(run, tmp_path / "student", "--push", "someone/student", "--license", "mit")
        (tmp_path / "student" / "private.txt").touch()
        publish(run, tmp_path / "student", "--push", "someone/student")
        assert "/someone/student\n" in capsys.readouterr().out and '"hf-hub:someone/student"' in card
        assert hub.repositories["someone/student"].keys() == set(FILES)
        expected = gendd.load(run)
        assert_same_outputs(gendd.load("hf-hub:someone/student"), expected)
        assert_same_logits("hf-hub:someone/student", expected)
        main("gendd", ["evaluate", "hf-hub:someone/student", "--eval-images", "20"])
        assert "| head |" in capsys.readouterr().out
        with refuses("hf-hub:someone/other: the hub does not give gendd.safetensors"):
            main("gendd", ["evaluate", "hf-hub:someone/other"])


@pytest.mark.parametrize(
    "status, message",
    [
        (401, "--push someone/student: the hub does not take it .*; give a token that may write there"),
        (403, "--push someone/student: the hub does not take it .*; give a token that may write there"),
        (400, "--push someone/student: the hub does not take it .*; the folder is complete; check the network"),
    ],
)
def test_refused_push_is_one_line(status, message, whole, tmp_path, monkeypatch):
    with serving(monkeypatch, tmp_path / "cache") as hub:
        hub.refusal = status
        with refuses(message) as refused:
            publish(whole, tmp_path / "student", "--push", "someone/student")
    assert len(refused.value.splitlines()) == 1
    assert hub.repositories == {} and RunFolder(tmp_path / "student").read("config.json")


def test_push_without_network_is_one_line(whole, tmp_path, monkeypatch):
    with serving(monkeypatch, tmp_path / "cache"):
        pass  # Nothing answers at this address any more.
    with refuses("--push someone/student: the hub does not take it .*check the network"):
        publish(whole, tmp_path / "student", "--push", "someone/student")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with refuses("--push someone/student: the hub does not take it .*HF_HUB_OFFLINE"):
        publish(whole, tmp_path / "student", "--push", "someone/student")


def test_push_without_token_is_refused_first(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with refuses("--push someone/student: no token of the hub; log in with hf auth login, or set HF_TOKEN"):
        publish(whole, tmp_path / "student", "--push", "someone/student")
    assert not (tmp_path / "student").exists()
