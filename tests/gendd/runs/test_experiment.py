"""Runs in Python: a run loads from its folder or from one checkpoint file."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from lines import refuses
from programs import train_cifar

import gendd
from gendd.methods import METHODS
from gendd.programs.evaluate import evaluate_checkpoint
from gendd.programs.main import main
from gendd.runs.folder import RunFolder, embedded_record
from gendd_cifar.family import FAMILY

FLAGS = ["--dataset", "digits", "--epochs", "1", "--eval-every", "1", "--eval-images", "50", "--precision", "fp32"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Train GenDD and its teacher for one epoch; return GenDD's folder."""
    root = tmp_path_factory.mktemp("runs")
    train_cifar(["classification", *FLAGS, "--student", "toy:network", "--runs", str(root)])
    teacher = root / "digits" / "toy.network" / "classification" / "0"
    pair = ["--teacher", "toy:network", "--teacher-weights", str(teacher), "--student", "toy:network"]
    train_cifar(["gendd", *FLAGS, *pair, "--width", "16", "--repeats", "2", "--runs", str(root)])
    return root / "digits" / "toy.network_toy.network" / "gendd" / "0"


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_load_of_folder_or_file_gives_the_same_student(run, tmp_path, images):
    file = shutil.copy(run / "checkpoints" / "last.pt", tmp_path / "alone.pt")
    ours, alone = gendd.load(run), gendd.load(file)
    assert ours.config == alone.config and ours.epoch == alone.epoch == 1
    assert torch.equal(ours.model.sample(images), alone.model.sample(images))
    assert ours.model.sample(images).shape == (3, ours.model.head.feature_dim)


@pytest.mark.parametrize("method", ["features", "predict"])
def test_only_preprocessed_images_are_accepted(run, images, method):
    function = getattr(gendd.load(run), method)
    for given, kind in (("cat.jpg", "str"), (images[0], r"torch.float32 .3, 32, 32."), (images.byte(), "torch.uint8")):
        with refuses(f"images: {kind}.*; give preprocessed ones"):
            function(given)


@pytest.mark.parametrize("method", ["features", "predict"])
def test_images_that_are_not_normalized_are_named(run, method):
    function, pixels = getattr(gendd.load(run), method), torch.rand(3, 3, 32, 32)
    with pytest.warns(UserWarning, match="^images: .* to 1, but images normalized with mean 0.5071 .* have -1.9"):
        function(pixels)
    mean, std = (gendd.load(run).backbone.pretrained_cfg[name] for name in ("mean", "std"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function((pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))


def test_run_is_shown_in_one_line(run):
    assert repr(gendd.load(run)) == f"<Experiment {run}, after epoch 1: gendd, toy:network > toy:network>"


def test_load_reads_the_teacher_on_request(run):
    without, with_teacher = gendd.load(run), gendd.load(run, with_teacher=True)
    assert without.teacher.loaded.file is None and with_teacher.teacher.loaded.file
    for name, value in gendd.load(with_teacher.config.networks.teacher_weights).model.state_dict().items():
        assert torch.equal(value, with_teacher.teacher.model.state_dict()[name])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_evaluate_gives_the_scores_of_the_program(run, precision):
    scores = gendd.evaluate(run, precision=precision)
    assert list(scores) == ["teacher", "head", "probe"]
    evaluate_checkpoint(FAMILY, [str(run), "--precision", precision])
    rows = json.loads((run / "evaluation.json").read_text())["outputs"]
    assert [(row["output"], row["top1"], row["ece"]) for row in rows] == [
        (name, score["top1"], score["ece"]) for name, score in scores.items()
    ]


def test_evaluate_takes_the_average_or_refuses_its_lack(run):
    with refuses("--eval-weights ema: .* holds no averaged weights"):
        gendd.evaluate(run, eval_weights="ema")
    with refuses("--eval-images -1: must be 0 or more"):
        gendd.evaluate(run, eval_images=-1)


def test_evaluate_runs_the_teacher_in_the_precision_of_run(run):
    teachers = [gendd.load(run, with_teacher=True, precision=name).teacher for name in ("bf16", "fp32")]
    assert [teacher.precision for teacher in teachers] == ["bf16", "fp32"]


def test_evaluate_refuses_a_lost_teacher_that_is_the_target(run, tmp_path):
    changes = {"teacher_classifier": False, "unlabeled": True, "contraction": 0.0}
    alone = gendd.load(run).config.changed(**changes, runs=str(tmp_path))
    trained = gendd.train(alone)
    lost = RunFolder(tmp_path / "digits" / "toy.network_toy.network" / "gendd" / "0")
    content = lost.read("config.json")
    content["networks"]["teacher_weights"] = str(tmp_path / "lost.pt")
    lost.write("config.json", content)
    assert trained.epoch == 1
    with refuses("lost.pt"):
        gendd.evaluate(lost.path)


def test_load_of_a_run_without_family_names_its_version(run, tmp_path):
    older = RunFolder(Path(shutil.copytree(run, tmp_path / "older")))
    content = older.read("config.json")
    older.write("config.json", {"tree": content.pop("family"), **content})
    with refuses("does not name a family.*; use the version that made it"):
        main("gendd", ["evaluate", str(older.path)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guidance": 2.0}, "--guidance 2: needs a head that is trained with condition dropout"),
        ({"guidance": "2"}, "--guidance '2': is not of type float"),
        ({"eval_weights": "EMA"}, "--eval-weights 'EMA': choose one of trained, ema"),
        ({"prediction": "velocity"}, "--prediction velocity: the head was trained with feature; leave it out"),
        ({"noise_path": "straight"}, "--noise-path straight: the head was trained with cosine; leave it out"),
    ],
)
def test_values_a_run_was_not_trained_for_are_refused(run, changes, message):
    for use in (gendd.load, gendd.evaluate):
        with refuses(message):
            use(run, **changes)
    if changes.keys() & {"prediction", "noise_path"}:
        ((flag, value),) = changes.items()
        with refuses(message):
            evaluate_checkpoint(FAMILY, [str(run), f"--{flag.replace('_', '-')}", value])


def test_train_repeats_a_run_from_its_configuration(run, tmp_path):
    again = gendd.train(gendd.load(run).config.changed(runs=str(tmp_path)))
    for name, value in gendd.load(run).model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_load_takes_other_values_and_refuses_unknown_ones(run):
    assert gendd.load(run, trained=False, batch_size=7).config.optimizer.batch_size == 7
    with pytest.raises(TypeError, match="no field of the configuration: batchsize"):
        gendd.load(run, batchsize=7)


def test_load_refuses_a_file_without_a_configuration(run, tmp_path):
    torch.save({"model": {}}, tmp_path / "bare.pt")
    with refuses("bare.pt: the file does not hold a configuration; name the run folder"):
        gendd.load(tmp_path / "bare.pt")


def test_config_survives_a_json_round_trip():
    config = FAMILY.config(
        METHODS["gendd"](), milestones=(3, 5), contraction=0.25, teacher_mean=(0.1, 0.2, 0.3), seed=4
    )
    content = json.loads(json.dumps(config.content()))
    assert FAMILY.config(type(config.method)()).filled(content) == config


def test_student_file_is_recorded_as_a_plain_network(run):
    record = embedded_record(run / "student.safetensors")
    assert record["method"] == {"name": "classification"} and record["networks"]["teacher"] is None
    assert record["classes"] == RunFolder(run).read("data.json")["classes"]
    assert embedded_record(run / "checkpoints" / "best.pt")["method"]["name"] == "gendd"


@pytest.mark.parametrize("name", gendd.__all__)
def test_public_name_is_there(name):
    assert getattr(gendd, name)
