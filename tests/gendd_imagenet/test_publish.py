"""The publish program, for photographs: a network of timm, with classes and without."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from lines import refuses
from programs import train_imagenet

import gendd
from gendd.networks.checkpoint import metadata
from gendd.programs.main import main

COMMON = ["--student", "timm/test_vit", "--image-size", "96", "--crop-pct", "0.75", "--precision", "fp32"]
COMMON += ["--workers", "0", "--batch-size", "20", "--epochs", "1", "--warmup-epochs", "0"]
HEAD = ["--width", "16", "--depth", "1", "--repeats", "4", "--token-dim", "8", "--feature-mixup", "0"]
TEACHER = ["--teacher", "timm/test_resnet", "--teacher-weights", "random"]
IMAGES = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))


def trained(words: list[str], runs: Path) -> Path:
    train_imagenet([*words, *COMMON, *HEAD, *TEACHER, "--runs", str(runs)])
    return next(runs.rglob("result.json")).parent


def published(run: Path, folder: Path) -> str:
    main("gendd", ["publish", str(run), "--folder", str(folder)])
    return (folder / "README.md").read_text()


def assert_same(folder: Path, run: Path, plain_output: str | None) -> None:
    """Compare gendd's and timm's student from the folder with the run's."""
    found, expected = gendd.load(f"local-dir:{folder}"), gendd.load(run)
    for name in expected.outputs:
        torch.testing.assert_close(found.predict(IMAGES, name), expected.predict(IMAGES, name), rtol=0, atol=0)
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval().to(memory_format=torch.channels_last)
    output = expected.predict(IMAGES, plain_output) if plain_output else expected.features(IMAGES)
    torch.testing.assert_close(network(IMAGES), output, rtol=0, atol=0)
    data = timm.data.resolve_model_data_config(network)
    assert (data["input_size"], data["crop_pct"]) == ((3, 96, 96), 0.75)


def test_timm_student_with_classes_is_loaded_as_trained(photos, tmp_path):
    run = trained(["gendd", "--dataset", str(photos)], tmp_path / "runs")
    card = published(run, tmp_path / "student")
    assert_same(tmp_path / "student", run, "probe")
    assert "import gendd_imagenet.models" not in card and str(tmp_path) not in card and str(photos) not in card
    assert gendd.load(tmp_path / "student").class_names == ("n01", "n02", "n03")
    scores = gendd.evaluate(tmp_path / "student", dataset=str(photos))
    assert scores["head"]["top1"] == gendd.evaluate(run)["head"]["top1"]


@pytest.fixture(scope="module")
def alone(photos, tmp_path_factory) -> Path:
    return trained(["gendd", "--images", str(photos / "train")], tmp_path_factory.mktemp("alone"))


def test_timm_student_of_features_is_loaded_as_trained(alone, tmp_path):
    card = published(alone, tmp_path / "student")
    assert_same(tmp_path / "student", alone, None)
    data, result = huggingface_hub.ModelCard(card).data, json.loads((alone / "result.json").read_text())
    assert data.pipeline_tag == "image-feature-extraction" and "| labels | not used |" in card
    assert "| sampling of the head |" in card and "The method is [Generative" in card
    found = {score.metric_name: (score.metric_type, score.metric_value) for score in data.eval_results}
    expected = {f"cosine of {name} (%)": ("cosine", round(s["cosine"], 2)) for name, s in result["last"].items()}
    assert found == expected and found.keys() == {"cosine of head (%)", "cosine of linear (%)"}


def test_features_are_not_compared_with_an_absent_teacher(alone, photos, tmp_path):
    """A cosine with another teacher would be a wrong number."""
    published(alone, tmp_path / "student")
    file = tmp_path / "student" / "gendd.safetensors"
    assert gendd.load(file).predict(IMAGES).shape == (2, gendd.load(alone).predict(IMAGES).shape[1])
    words = ["--images", str(photos / "train"), "--teacher-weights", str(tmp_path / "gone.pth")]
    with refuses("--teacher-weights .*gone.pth: no such file"):
        main("gendd", ["evaluate", str(file), *words])


def test_published_file_never_runs_code_of_torch_hub(alone, photos, tmp_path):
    """A file of a stranger may name any repository as its teacher or student."""
    published(alone, tmp_path / "student")
    folder = tmp_path / "dinov2"
    folder.mkdir()
    (folder / "hubconf.py").write_text("raise RuntimeError('ran')")
    name, file = f"hub:{folder}:entry", tmp_path / "student" / "gendd.safetensors"
    content, tensors = json.loads(metadata(file)["config"]), safetensors.torch.load_file(file)
    networks = content["gendd"]["run"]["networks"]

    def rewrite(**named: str) -> None:
        content["gendd"]["run"]["networks"] = networks | named
        safetensors.torch.save_file(tensors, file, {"config": json.dumps(content)})

    for role in ("teacher", "student"):
        rewrite(**{role: name})
        with refuses(f"--{role} {name}: a published file may not run code of torch.hub"):
            main("gendd", ["evaluate", str(file), "--images", str(photos / "train"), "--eval-images", "20"])
        with refuses(f"--{role} {name}: a published file may not run code of torch.hub"):
            gendd.load(file, with_teacher=True)
    del content["gendd"]["teacher"]
    rewrite(teacher=name)
    with refuses("may not run code of torch.hub"):
        gendd.load(file)


def test_card_registers_a_network_of_the_family(photos, tmp_path):
    runs = tmp_path / "runs"
    words = ["classification", "--dataset", str(photos), *COMMON, "--student", "mobilenetv1", "--image-size", "32"]
    train_imagenet([*words, "--runs", str(runs)])
    card = published(next(runs.rglob("result.json")).parent, tmp_path / "student")
    assert "import gendd_imagenet.models  # registers the network\nimport timm" in card


def test_student_of_a_local_folder_is_published_whole(alone, photos, tmp_path):
    shutil.copytree(alone / "student", tmp_path / "start")
    words = ["regression", "--images", str(photos / "train"), *COMMON, *HEAD, *TEACHER]
    train_imagenet([*words, "--student", f"local-dir:{tmp_path / 'start'}", "--runs", str(tmp_path / "runs")])
    run = next((tmp_path / "runs").rglob("result.json")).parent
    expected = gendd.load(run)
    card = published(run, tmp_path / "student")
    assert "sampling of the head" not in card and "The method is" not in card
    shutil.rmtree(tmp_path / "start")
    found = gendd.load(tmp_path / "student")
    torch.testing.assert_close(found.predict(IMAGES), expected.predict(IMAGES), rtol=0, atol=0)
