"""Runs on a folder of images that changes between start and resume."""

import io
import json
import shutil
from pathlib import Path

import pytest
import safetensors
from lines import refuses
from PIL import Image
from programs import train_cifar as main
from small_images import write_folder
from small_runs import COMMON, contents, ctrl_c


def add_image(data: Path) -> None:
    shutil.copy(data / "train" / "a" / "0.png", data / "train" / "a" / "new.png")


def exchange_image(data: Path) -> None:
    Image.effect_noise((8, 8), 99).convert("RGB").save(data / "train" / "a" / "0.png")


def rename_image(data: Path) -> None:
    (data / "train" / "a" / "0.png").rename(data / "train" / "a" / "new.png")


def add_class(data: Path) -> None:
    for part in ("train", "test"):
        shutil.copytree(data / part / "a", data / part / "c")


def rename_class(data: Path) -> None:
    for part in ("train", "test"):
        (data / part / "a").rename(data / part / "z")


def add_test_image(data: Path) -> None:
    shutil.copy(data / "test" / "a" / "0.png", data / "test" / "a" / "new.png")


@pytest.fixture
def on_a_folder(tmp_path):
    """Write a folder of data; return it with the command of a run on it."""
    data = write_folder(tmp_path / "set")
    return data, ["classification", *COMMON, "--epochs", "2", "--batch-size", "16", "--dataset", str(data),
                  "--runs", str(tmp_path / "runs")]  # fmt: skip


def interrupted_on(data: Path, command: list[str], epoch: int) -> Path:
    with ctrl_c("train_epoch", epoch=epoch):
        main(command)
    return data.parent / "runs" / "set" / "toy.network" / "classification" / "0"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (add_image, "16 training images there, 17 here"),
        (exchange_image, "as many training images, but their files have other names or sizes"),
        (rename_image, "as many training images, but their files have other names or sizes"),
        (add_class, "only in one of them: c"),
        (rename_class, "only in one of them: a, z"),
    ],
)
def test_resume_refuses_changed_training_data(on_a_folder, capsys, change, told):
    data, command = on_a_folder
    run = interrupted_on(data, command, epoch=1)
    change(data)
    before = contents(run)
    for again in (command, ["--resume", str(run)]):
        with refuses() as refused:
            main(again)
        assert told in str(refused.value) and str(run) in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1
    with refuses("listed above"):
        main([*command, "--dry-run"])
    assert str(refused.value) in capsys.readouterr().out.partition("missing or wrong:")[2]
    assert contents(run) == before


def test_exchanged_content_of_equal_size_is_refused(on_a_folder, capsys):
    data, command = on_a_folder
    image, other = data / "train" / "b" / "0.png", io.BytesIO()
    Image.effect_noise((8, 8), 99).convert("RGB").save(other, "png")
    padded = image.read_bytes().ljust(2000, b"\0")
    image.write_bytes(padded)
    run = interrupted_on(data, command, epoch=1)
    image.write_bytes(other.getvalue().ljust(2000, b"\0"))
    for again in (command, [*command, "--check-data"], ["--resume", str(run), "--check-data"]):
        with refuses(f"{run} holds a run of other data: .*of the same names and sizes, but with other contents; use"):
            main(again)
    image.write_bytes(padded)
    capsys.readouterr()
    main([*command, "--check-data"])
    assert capsys.readouterr().out.endswith(f"compared with the start of {run}: the same images\n")
    main(command)
    assert (run / "result.json").exists()


def test_resume_accepts_and_prints_more_evaluation_images(on_a_folder, capsys):
    data, command = on_a_folder
    run = interrupted_on(data, command, epoch=1)
    add_test_image(data)
    main(command)
    assert "4 evaluation images there, 5 here" in capsys.readouterr().out
    assert json.loads((run / "result.json").read_text())["images"] == 5


def test_resume_accepts_and_prints_exchanged_evaluation_images(on_a_folder, capsys):
    data, command = on_a_folder
    interrupted_on(data, command, epoch=1)
    (data / "test" / "a" / "0.png").rename(data / "test" / "a" / "new.png")
    main(command)
    assert "as many evaluation images, but their files have other" in capsys.readouterr().out


def test_resume_accepts_moved_images(on_a_folder):
    data, command = on_a_folder
    run = interrupted_on(data, command, epoch=1)
    (data.parent / "moved").mkdir()
    moved = data.rename(data.parent / "moved" / "set")
    config = json.loads((run / "config.json").read_text())
    config["data"]["dataset"] = str(moved)
    (run / "config.json").write_text(json.dumps(config))
    main(["--resume", str(run)])
    assert (run / "result.json").exists()


def test_run_older_than_the_checksums_resumes(on_a_folder):
    data, command = on_a_folder
    run = interrupted_on(data, command, epoch=1)
    recorded = json.loads((run / "data.json").read_text())
    del recorded["training files"], recorded["training contents"], recorded["evaluation files"]
    (run / "data.json").write_text(json.dumps(recorded))
    exchange_image(data)
    main(command)
    assert len(json.loads((run / "data.json").read_text())["training files"]) == 64


def test_resume_refuses_a_damaged_record_of_the_data(on_a_folder):
    data, command = on_a_folder
    run = interrupted_on(data, command, epoch=1)
    recorded = json.loads((run / "data.json").read_text())
    for damage in ({"classes": 5}, {"training images": "16"}, {"training images of each class": [None]}):
        (run / "data.json").write_text(json.dumps(recorded | damage))
        with refuses(f"{run}: its data.json is damaged; name the folder of a run"):
            main(command)


def test_data_may_change_before_the_first_epoch_ends(on_a_folder):
    data, command = on_a_folder
    run = interrupted_on(data, command, epoch=0)
    add_class(data)
    main(command)
    assert json.loads((run / "data.json").read_text())["classes"] == ["a", "b", "c"]
    with safetensors.safe_open(run / "student.safetensors", "pt") as student:
        assert json.loads(student.metadata()["config"])["label_names"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--batch-size", "512"], "--batch-size 512: more than the 16 training images"),
        (["--holdout", "0.01"], "--holdout 0.01: leaves none of 16 images"),
        (["--imbalance", "0.01"], "--batch-size 16: more than the 9 training images"),
        (["--label-fraction", "0.5"], "--batch-size 16: more than the 8 training images"),
        (["--dataset", "uneven"], "only in one of them: c"),
        (["--dataset", "hollow"], "for the classes b"),
    ],
)
def test_dry_run_finds_all_errors_in_the_data(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "set")
    shutil.copytree(write_folder(tmp_path / "uneven") / "train" / "a", tmp_path / "uneven" / "train" / "c")
    for image in (write_folder(tmp_path / "hollow") / "train" / "b").iterdir():
        image.unlink()
    command = ["classification", *COMMON, "--batch-size", "16", "--dataset", "set", *flags]
    with refuses() as refused:
        main(command)
    assert message in str(refused.value)
    before = contents(tmp_path)
    with refuses("listed above"):
        main([*command, "--dry-run"])
    output = capsys.readouterr().out
    assert str(refused.value) in output.partition("missing or wrong:")[2] and "nothing is missing" not in output
    assert contents(tmp_path) == before and not Path("runs").exists()


def test_dry_run_decodes_no_image(tmp_path, capsys):
    folder = write_folder(tmp_path / "set")
    (folder / "train" / "a" / "0.png").write_bytes(b"no image")
    main(["classification", *COMMON, "--batch-size", "16", "--dataset", str(folder), "--dry-run"])
    output = capsys.readouterr().out
    assert "16 to train on, 4 of test to evaluate on" in output and "nothing is missing" in output
