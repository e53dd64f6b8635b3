"""The sampling and equal-cost programs, on the run of a toy student."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from forked import ends_of_two
from lines import refuses
from programs import equal_cost_cifar as equal_cost
from programs import evaluate_cifar as evaluate
from programs import sampling_cifar as main
from programs import train_cifar as train
from run_folders import change_settings

from gendd.diffusion.objective import Objective
from gendd.methods import GenDD
from gendd.methods.options import SamplingOptions
from gendd.programs import equal_cost as equal_cost_module
from gendd.programs import sampling
from gendd.programs.equal_cost import nearest
from gendd_cifar.family import FAMILY

COMMON = ["--dataset", "digits", "--epochs", "1", "--hflip", "0", "--precision", "fp32", "--lr", "0.01"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    train(["gendd", *COMMON, "--student", "toy:network", "--teacher", "toy:network", "--teacher-weights",
           "random", "--token-dim", "32", "--width", "16", "--depth", "1", "--repeats", "2",
           "--draw-scheme", "shared", "--condition-dropout", "0.2", "--feature-space", "standardized",
           "--runs", str(root)])  # fmt: skip
    return root / "digits" / "toy.network_toy.network" / "gendd" / "0"


@pytest.mark.parametrize("noisy_images", ["250", "0"])
def test_sampling_rows_agree_with_the_evaluation(noisy_images, run, tmp_path, monkeypatch):
    grid = [SamplingOptions(guidance=3.0), SamplingOptions("ancestral", 5, 2), SamplingOptions(guidance=1.0)]
    monkeypatch.setattr(sampling, "grid", lambda what, settings: grid)
    main(["guidance", str(run), "--precision", "fp32", "--output", str(tmp_path), "--noisy-images", noisy_images])
    with open(tmp_path / "guidance.csv", newline="") as file:
        found = list(csv.DictReader(file))
    for row, setting in zip(found, grid, strict=True):
        steps, samples = str(setting.sampling_steps), str(setting.num_samples)
        flags = ["--sampler", setting.sampler, "--sampling-steps", steps, "--num-samples", samples]
        images = [] if setting.sampler == "deterministic" else ["--eval-images", noisy_images]
        evaluate([str(run), *flags, "--guidance", str(setting.guidance), *images, "--precision", "fp32",
                  "--json", str(tmp_path / "evaluation.json")])  # fmt: skip
        content = json.loads((tmp_path / "evaluation.json").read_text())
        head = next(row for row in content["outputs"] if row["output"] == "head")
        assert int(row["images"]) == content["images"]
        assert float(row["top-1 %"]) == pytest.approx(head["top1"], abs=0.5)
        assert float(row["MFLOPs per image"]) == pytest.approx(head["flops"] / 1e6)
        assert 0 < float(row["least"]) <= float(row["ms per image"]) <= float(row["greatest"])
    unguided, guided = float(found[2]["MFLOPs per image"]), float(found[0]["MFLOPs per image"])
    assert unguided < guided < float(found[1]["MFLOPs per image"])
    assert (tmp_path / "guidance.png").read_bytes().startswith(b"\x89PNG")
    assert "Linear probe: " in (tmp_path / "guidance.md").read_text()


@pytest.mark.parametrize(
    "prediction, path, samplers",
    [
        ("noise", "cosine", {"deterministic", "ancestral"}),
        ("feature", "cosine", {"deterministic", "ancestral"}),
        ("velocity", "straight", {"deterministic"}),
    ],
)
def test_every_setting_of_the_grids_can_be_sampled(prediction, path, samplers):
    settings = GenDD(prediction=prediction, noise_path=path, condition_dropout=0.2)
    objective = Objective(prediction, path=path)
    for what in ("guidance", "sampling"):
        for setting in sampling.grid(what, settings):
            setting.check_sampling()
            objective.check_sampling(setting.sampler, setting.sampling_start)
    assert {setting.sampler for setting in sampling.grid("sampling", settings)} == samplers


def test_guidance_without_dropped_conditions_is_refused():
    with refuses("guidance: the run was trained with --condition-dropout 0"):
        sampling.grid("guidance", GenDD())


def test_nearest_networks_come_first():
    found = nearest(FAMILY, ("resnet8", "resnet14", "vgg8"), 100, 32, 50e6)
    assert [name for name, *_ in found] == ["resnet14", "resnet8", "vgg8"]
    assert found[1][2] == 83892


def test_equal_cost_compares_head_and_probe_with_networks(run, capsys):
    capsys.readouterr()
    equal_cost([str(run), "--batch-size", "4", "--rounds", "3"])
    first, table = capsys.readouterr().out.split("\n\n")
    assert "fp32, 3 batches of 4 images" in first
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert [row[0] for row in rows[:2]] == ["toy:network, head", "toy:network, probe"] and len(rows) == 7
    outputs = json.loads((run / "result.json").read_text())["outputs"]
    for row, name in zip(rows, ("head", "probe"), strict=False):
        assert float(row[1]) == pytest.approx(outputs[name]["flops"] / 1e6, abs=0.051)
        assert float(row[3]) == pytest.approx(outputs[name]["parameters"] / 1e6, abs=0.0051)
    for row in rows:
        median, least, greatest = map(float, re.fullmatch(r"(\d+) \((\d+)-(\d+)\)", row[4]).groups())
        assert 0 < least <= median <= greatest


@pytest.fixture
def one_network(monkeypatch):
    """Compare with one network: the whole family takes seconds."""
    monkeypatch.setattr(equal_cost_module, "nearest", lambda *_: [("resnet8", 1, 1)])


@pytest.mark.usefixtures("one_network")
def test_only_the_first_process_measures(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sampling, "grid", lambda what, settings: [SamplingOptions()])
    for rank in ("1", "0"):
        for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        main(["guidance", str(run), "--images", "100", "--output", str(tmp_path / rank)])
        equal_cost([str(run), "--batch-size", "1", "--rounds", "1"])
        words = capsys.readouterr().out
        if rank == "1":
            assert not words and not (tmp_path / rank).exists()
    assert "| toy:network, head |" in words and (tmp_path / "0" / "guidance.md").exists()


@pytest.mark.usefixtures("one_network")
def test_two_processes_print_one_table(run, tmp_path):
    ends = ends_of_two(lambda: equal_cost([str(run), "--rounds", "1"]), tmp_path)
    assert [end.code for end in ends] == [0, 0]
    assert [end.output.count("| toy:network, head |") for end in ends] == [1, 0]


def test_noise_follows_the_seed_of_the_run(run, tmp_path, monkeypatch):
    copy, seeds = shutil.copytree(run, tmp_path / "copy"), []
    change_settings(copy, seed=5)

    def note(student, batches, world, seed, image):
        seeds.append(seed)
        raise KeyboardInterrupt

    monkeypatch.setattr(sampling, "_Head", note)
    for flags in ([], ["--seed", "7"]):
        with pytest.raises(KeyboardInterrupt):
            main(["guidance", str(copy), *flags])
    assert seeds == [5, 7]


def test_sampling_refuses_unwritable_folder_before_measuring(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sampling, "_Head", lambda *arguments: pytest.fail("measured"))
    with refuses("--output .*: cannot be written .*; choose another folder"):
        main(["guidance", str(run), "--output", str(tmp_path / "file" / "out")])


@pytest.mark.parametrize("flag", ["--rounds", "--batch-size"])
def test_equal_cost_refuses_zero_rounds_or_batch_size(run, flag):
    with refuses(f"{flag} 0: must be at least 1"):
        equal_cost([str(run), flag, "0"])


def test_sampling_programs_refuse_a_run_without_head(tmp_path):
    train(["classification", *COMMON, "--student", "toy:network", "--runs", str(tmp_path)])
    run = str(tmp_path / "digits" / "toy.network" / "classification" / "0")
    with refuses("does not train a generative head"):
        main(["guidance", run])
    with refuses("does not train a head"):
        equal_cost([run])


def test_equal_cost_refuses_a_head_that_does_not_classify(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    change_settings(copy, teacher_classifier=False, contraction=0.0)
    environment = json.loads((copy / "environment.json").read_text())
    environment["teacher"]["classifies"] = False
    (copy / "environment.json").write_text(json.dumps(environment))
    with refuses("its head does not classify, as its teacher does not; name another run"):
        equal_cost([str(copy)])
