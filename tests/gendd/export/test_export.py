"""Exported students give the results of the original, and say what they are."""

import json
import sys
import time
from pathlib import Path

import pytest
import torch
from lines import refuses
from programs import train_cifar
from small_runs import COMMON, GENDD, TOY

import gendd
from gendd.core.seeding import BatchPlan
from gendd.export import onnx_file
from gendd.export.check import Agreement, speeds
from gendd.export.student import CPU
from gendd.programs.main import main
from gendd.runs.experiment import Experiment

SHORT = ["--epochs", "1", "--eval-images", "50"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, str]:
    """Train a teacher and students of several kinds for one epoch; return their folders."""
    root = tmp_path_factory.mktemp("runs")
    folders = {name: str(root / name) for name in ("teacher", "gendd", "kd", "unlabeled", "paper")}
    train_cifar(["classification", *COMMON, *SHORT, "--out", folders["teacher"]])
    teacher = ["--teacher-weights", folders["teacher"]]
    train_cifar([*GENDD, *SHORT, *teacher, "--out", folders["gendd"]])
    train_cifar([*GENDD, *SHORT, *teacher, "--contraction", "0", "--unlabeled", "--no-teacher-classifier",
                 "--out", folders["unlabeled"]])  # fmt: skip
    train_cifar(["kd", *COMMON, *SHORT, "--teacher", TOY, *teacher, "--out", folders["kd"]])
    noisy = ["--sampler", "ancestral", "--sampling-steps", "2", "--num-samples", "2"]
    train_cifar([*GENDD, *SHORT, *teacher, *noisy, "--out", folders["paper"]])
    return folders


@pytest.fixture
def runtime():
    return pytest.importorskip("onnxruntime", reason="needs the optional package onnxruntime")


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def export(*words: str) -> None:
    main("gendd", ["export", *words, "--num-images", "60"])


def figures(file: Path) -> dict:
    return json.loads(file.with_name(f"{file.name}.json").read_text())


def assert_equals_original(run: Experiment, name: str, function, **tolerance) -> None:
    backbone = run.backbone.eval()
    original = {
        "features": run.features,
        "backbone": torch.inference_mode()(backbone.forward_features),
    }.get(name, lambda batch: run.predict(batch, name))
    for count in (1, 5):
        torch.testing.assert_close(function(images(count)), original(images(count)), **tolerance)


@pytest.mark.parametrize("output", ["head", "probe", "features", "backbone"])
def test_onnx_file_gives_the_results_of_each_output(runs, runtime, output, tmp_path):
    export(runs["gendd"], "--output", output, "--folder", str(tmp_path))
    file = tmp_path / f"{output}.onnx"
    assert_equals_original(gendd.load(runs["gendd"]), output, onnx_file.opened(file), rtol=1e-4, atol=1e-5)
    inputs, results = runtime.InferenceSession(file).get_inputs(), runtime.InferenceSession(file).get_outputs()
    assert [one.name for one in inputs] == ["images"] and inputs[0].shape[1:] == [3, 32, 32]
    assert results[0].name == ("logits" if output in ("head", "probe") else "features")


def test_torch_file_gives_the_results_of_the_head(runs, tmp_path):
    file = gendd.load(runs["gendd"]).export(tmp_path, to="torch-export", num_images=60)
    extra = {"origin": "", "preprocessing": "", "class_names": ""}
    module = torch.export.load(file, extra_files=extra).module()
    assert_equals_original(gendd.load(runs["gendd"]), "head", module)
    assert json.loads(extra["origin"])["output"] == "head" and json.loads(extra["class_names"]) == [*"0123456789"]


def test_file_states_preprocessing_classes_and_origin(runs, runtime):
    export(runs["gendd"])
    file = Path(runs["gendd"], "export", "head.onnx")
    texts = runtime.InferenceSession(file).get_modelmeta().custom_metadata_map
    about, run = {name: json.loads(text) for name, text in texts.items()}, gendd.load(runs["gendd"])
    assert about["class_names"] == list(run.class_names) and about["preprocessing"]["interpolation"] == "bicubic"
    assert about["preprocessing"]["mean"] == list(run.preprocessing.mean)
    record = json.loads(Path(runs["gendd"], "environment.json").read_text())["teacher"]
    origin = about["origin"]
    assert origin["teacher"]["tensors_sha256"] == record["tensors_sha256"] and origin["teacher"]["network"] == TOY
    assert (origin["method"], origin["epoch"], origin["family"]) == ("gendd", 1, "gendd_cifar")
    assert origin["gendd"] == gendd.__version__ and str(Path(runs["gendd"]).parent) not in texts["origin"]


def test_published_student_exports_with_its_teacher(runs, runtime, tmp_path):
    main("gendd", ["publish", runs["gendd"], "--folder", str(tmp_path / "published")])
    export(str(tmp_path / "published"), "--folder", str(tmp_path))
    found = figures(tmp_path / "head.onnx")
    assert found["origin"]["teacher"]["tensors_sha256"] and found["agreement"]["top1"] == 100


def test_table_compares_the_file_with_the_original(runs, runtime, tmp_path, capsys):
    export(runs["gendd"], "--folder", str(tmp_path))
    file = tmp_path / "head.onnx"
    found, text = figures(file), (tmp_path / "head.onnx.md").read_text()
    assert text in capsys.readouterr().out and "| same top-1 on 60 images |" in text
    assert found["agreement"]["images"] == 60 and found["agreement"]["top1"] == 100
    assert found["bytes"]["head.onnx"] == file.stat().st_size
    for name in ("original", "head.onnx"):
        speed = found["speed"][name]
        assert 0 < speed["latency_ms"]["min"] <= speed["latency_ms"]["median"] <= speed["latency_ms"]["max"]
        assert speed["images_per_second"]["batches"] == 5


def test_int8_file_is_scored_on_all_evaluation_images(runs, runtime, tmp_path):
    export(runs["gendd"], "--to", "int8", "--folder", str(tmp_path), "--calibration-images", "40")
    file = tmp_path / "head.int8.onnx"
    session, found = onnx_file.opened(file), figures(file)
    run = gendd.load(runs["gendd"])
    data = run.family.access.open_evaluation(run.config, BatchPlan(0, 1), CPU, run.backbone)
    right = sum(int((session(given).argmax(1) == labels).sum()) for _, given, labels in data.batches())
    assert found["accuracy"]["images"] == data.size
    assert found["accuracy"]["head.int8.onnx"] == pytest.approx(100 * right / data.size, abs=1e-3)
    assert found["accuracy"]["original"] == pytest.approx(gendd.evaluate(runs["gendd"])["head"]["top1"], abs=1e-3)
    assert found["agreement"]["difference"] > 0 and found["calibration_images"] == 40


def test_calibration_images_are_counted(runs, tmp_path, monkeypatch):
    run, seen = gendd.load(runs["kd"]), []
    replaced = {
        "library": lambda *_: None,
        "convert": lambda *_: None,
        "quantized": lambda _, batches: seen.extend(map(len, batches)),
        "serialized": lambda *_: b"",
        "opened": lambda _: run.predict,
    }
    for name, function in replaced.items():
        monkeypatch.setattr(onnx_file, name, function)
    file = run.export(tmp_path, to="int8", num_images=60, calibration_images=10**4)
    assert figures(file)["calibration_images"] == sum(seen) == 1198


def test_student_of_logits_has_all_outputs_but_the_head(runs, runtime, tmp_path):
    export(runs["kd"], "--folder", str(tmp_path))
    run = gendd.load(runs["kd"])
    function = onnx_file.opened(tmp_path / "probe.onnx")
    torch.testing.assert_close(function(images(3)), run.predict(images(3)), rtol=1e-4, atol=1e-5)
    with refuses("--output head: this student does not have this output; choose probe, features, backbone"):
        export(runs["kd"], "--output", "head")
    with refuses("--guidance 2.0: kd does not sample; leave it out"):
        export(runs["kd"], "--guidance", "2")


@pytest.mark.parametrize("output, unneeded", [("head", {"linear"}), ("probe", {"head", "norm"})])
def test_file_lacks_parts_that_its_output_does_not_need(runs, output, unneeded, tmp_path):
    run = gendd.load(runs["unlabeled"])
    file = run.export(tmp_path, to="torch-export", output=output, num_images=60)
    parts = {name.split(".")[1] for name in torch.export.load(file).state_dict}
    assert dict(run.model.named_children()).keys() - parts == unneeded | {"branches"}
    assert figures(file)["bytes"]["original"] < sum(value.nbytes for value in run.model.state_dict().values())


def test_file_of_a_student_of_features_lacks_the_projector(runs, tmp_path):
    flags = [*COMMON, *SHORT, "--teacher", TOY, "--teacher-weights", runs["teacher"], "--out", str(tmp_path / "run")]
    train_cifar(["srd", *flags])
    run = gendd.load(tmp_path / "run")
    file = run.export(tmp_path, to="torch-export", num_images=60)
    assert len(torch.export.load(file).state_dict) == len(run.backbone.state_dict())
    assert figures(file)["bytes"]["original"] == sum(value.nbytes for value in run.backbone.state_dict().values())


@pytest.mark.parametrize("output, predicted", [("head", "head"), ("probe", "linear")])
def test_student_without_classes_exports_features(runs, runtime, output, predicted, tmp_path):
    export(runs["unlabeled"], "--output", output, "--folder", str(tmp_path))
    run, file = gendd.load(runs["unlabeled"]), tmp_path / f"{output}.onnx"
    expected = run.predict(images(3), predicted)
    torch.testing.assert_close(onnx_file.opened(file)(images(3)), expected, rtol=1e-4, atol=1e-4)
    assert "| cosine on 60 images |" in (tmp_path / f"{output}.onnx.md").read_text()
    assert figures(file)["class_names"] == [] and figures(file)["agreement"]["cosine"] > 0.9999


def test_random_sampler_is_refused_and_can_be_replaced(runs, runtime, tmp_path):
    with refuses("--sampler ancestral: draws random numbers.*give --sampler deterministic with few --sampling-steps"):
        export(runs["paper"], "--folder", str(tmp_path))
    export(runs["paper"], "--folder", str(tmp_path), "--sampler", "deterministic", "--sampling-steps", "3")
    deterministic = gendd.load(runs["paper"], sampler="deterministic", sampling_steps=3, num_samples=1)
    function = onnx_file.opened(tmp_path / "head.onnx")
    torch.testing.assert_close(function(images(3)), deterministic.predict(images(3)), rtol=1e-4, atol=1e-5)
    assert figures(tmp_path / "head.onnx")["origin"]["sampling"]["steps"] == 3


@pytest.mark.parametrize("wrong", [1.0, float("nan")])
def test_file_with_other_results_is_not_written(runs, runtime, wrong, tmp_path, monkeypatch):
    opened = onnx_file.opened
    monkeypatch.setattr(onnx_file, "opened", lambda file: lambda given: opened(file)(given) + wrong)
    with refuses("head.onnx: not written, its results on 60 images and the original's differ by up to (1|nan)"):
        export(runs["gendd"], "--folder", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_int8_results_of_another_direction_are_refused():
    original = torch.eye(4)
    Agreement.of(original, original + 0.1, True).check(Path("head"), exact=False)
    with refuses("have a mean cosine of 0.000.*more --calibration-images"):
        Agreement.of(original, original.roll(1, 0), True).check(Path("head"), exact=False)


def test_speeds_have_milliseconds_and_images_per_second():
    def slow(given: torch.Tensor) -> torch.Tensor:
        end = time.thread_time() + 0.01
        while time.thread_time() < end:
            pass
        return given

    speed = speeds({"slow": slow}, images(8))["slow"]
    assert 10 <= speed["latency_ms"]["min"] <= speed["latency_ms"]["median"] < 1000
    assert 64 < speed["images_per_second"]["median"] <= 6400


def test_missing_package_is_named_with_its_installation(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with refuses(r'--to onnx: needs the package onnx \(.*\); pip install "gendd\[export\]"'):
        export(runs["gendd"])


def test_given_network_and_batches_export_in_python(runtime, tmp_path):
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, stride=2), torch.nn.ReLU())
    network = gendd.Network(plain, lambda module, batch: module(batch).mean((2, 3)))
    batches, small = [(images(8), torch.arange(8) % 5)] * 5, {"width": 16, "token_dim": 8, "trunk_depth": 0}
    folder, teacher = tmp_path / "run", {"teacher_weights": "random", "warmup_epochs": 0}
    run = gendd.distill(TOY, network, batches, 1, folder, classes=5, **small, **teacher)
    function = onnx_file.opened(run.export(tmp_path, batches=batches))
    torch.testing.assert_close(function(images(3)), run.predict(images(3)), rtol=1e-4, atol=1e-5)
    with refuses(r"these batches are Python objects; give them again, .* or export\(batches=...\)"):
        run.export(tmp_path)
    with refuses(r"this network is a Python object; give it to gendd.load\(..., student=network\)$"):
        export(str(folder))


def test_folder_that_cannot_be_made_is_refused(runs, tmp_path):
    file = tmp_path / "file"
    file.touch()
    with refuses("--folder .*file: File exists; name another folder"):
        gendd.load(runs["gendd"]).export(file, to="torch-export")


def test_network_that_torch_cannot_convert_is_refused(runs, tmp_path, monkeypatch):
    run = gendd.load(runs["gendd"])
    monkeypatch.setattr(run.backbone, "forward_features", lambda given: given * float(given.mean()))
    with refuses("--to torch-export: torch cannot convert this output's network .*; choose another --output"):
        run.export(tmp_path, to="torch-export", output="backbone")
    with refuses("--to tensorrt: no such name"):
        run.export(tmp_path, to="tensorrt")
