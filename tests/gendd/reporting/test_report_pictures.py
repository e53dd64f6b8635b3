"""Pictures of a report: features, curves and comparisons."""

import itertools
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from run_folders import accuracies, costs, report, write_features, write_run

from gendd.core.files import save_tensors
from gendd.reporting.comparison import comparison
from gendd.reporting.cost import cost_picture
from gendd.reporting.curves import curves
from gendd.reporting.features import neighbors, principal_plane
from gendd.reporting.finished import finished_runs
from gendd.reporting.groups import Group, grouped
from gendd.reporting.pictures import log_axis, percent_limits, spread
from gendd.reporting.rows import rows_of


def test_features_are_pictured_for_gendd_runs_only(tmp_path):
    plain = write_run(tmp_path / "plain", "kd", {"classifier": (1.0, 5.0)})
    generative = write_run(tmp_path / "generative", "gendd", {"head": (2.0, 6.0), "probe": (1.0, 5.0)})
    write_features(generative)
    assert "features.png" not in report(tmp_path / "without", plain)
    assert not (tmp_path / "without" / "features.png").exists()
    assert "](features.png)" in report(tmp_path / "with", plain, generative)
    for picture in ("comparison.png", "curves.png", "features.png"):
        assert (tmp_path / "with" / picture).read_bytes().startswith(b"\x89PNG")


def groups_of(folders: list[Path]) -> list[Group]:
    return grouped(finished_runs(list(map(str, folders)))[0])


def overlaps(texts: list[Text]) -> list[tuple[str, str]]:
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    pairs = itertools.combinations(boxes, 2)
    return [(one[0], other[0]) for one, other in pairs if Bbox.intersection(one[1], other[1]) is not None]


def test_comparison_has_one_panel_per_data_set(tmp_path):
    """Groups have headings; a teacher, or a network without a teacher, is a line over its group only."""
    runs = [
        write_run(tmp_path / "alone", "classification", {"classifier": (65.5, 88.0)}, optimizer="sgd"),
        write_run(
            tmp_path / "teacher", "classification", {"classifier": (91.234, 99.0)}, student="large", optimizer="sgd"
        ),
        write_run(tmp_path / "kd", "kd", {"classifier": (70.0, 90.0)}, optimizer="sgd"),
        write_run(tmp_path / "without", "kd", {"classifier": (60.0, 90.0)}, unlabeled=True, optimizer="muon"),
        write_run(tmp_path / "other", "kd", {"classifier": (40.0, 90.0)}, dataset="flowers"),
    ]
    figure = comparison(groups_of(runs))
    figure.draw_without_rendering()
    digits, flowers = figure.findobj(Axes)
    assert digits.get_title(loc="left") == "digits, 32x32 pixels, 500 test images"
    assert [text.get_text() for text in digits.texts if ":" in text.get_text()] == [
        "large alone: sgd, with labels",
        "small from large (91.23): sgd, with labels",
        "small from large (91.23): muon, without labels",
    ]
    lines = [line.get_xdata()[0] for line in digits.lines if line.get_linestyle() in (":", "--")]
    assert sorted(lines) == [65.5, 91.234, 91.234]
    assert not overlaps([*digits.texts, *digits.get_yticklabels()])


def test_comparison_names_settings_that_differ_in_a_section(tmp_path):
    runs = [
        write_run(tmp_path / "kd", "kd", {"classifier": (70.0, 90.0)}, optimizer="sgd", lr=0.1),
        write_run(tmp_path / "dkd", "dkd", {"classifier": (70.0, 90.0)}, optimizer="sgd", lr=0.2),
        write_run(tmp_path / "gendd", "gendd", {"head": (70.0, 90.0)}, optimizer="muon", lr=0.1),
    ]
    (axes,) = comparison(groups_of(runs)).findobj(Axes)
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["kd, 3 epochs\nlr 0.1", "dkd, 3 epochs\nlr 0.2", "gendd, head, 5 + 3 epochs"]


def test_axes_of_percentages_end_at_100(tmp_path):
    runs = [write_run(tmp_path / "kd", "kd", {"classifier": (100.0, 100.0)}, teacher="large")]
    for figure in (comparison(groups_of(runs)), curves(groups_of(runs))):
        assert max(limit for axes in figure.findobj(Axes)[:1] for limit in axes.get_xlim() + axes.get_ylim()) <= 100
    assert percent_limits([90.0, 99.9])[1] == 100 and percent_limits([0.1, 5.0])[0] == 0
    assert percent_limits([-3.0])[0] < -3


def test_logarithmic_axes_have_few_numbers():
    for high in (1.5, 8.0, 90.0, 3e4, 1e9):
        axes = Figure().subplots()
        log_axis(axes.yaxis, [1.2, high])
        axes.plot([0, 1], [1.2, high])
        assert len(axes.get_yticks()) <= 5


def test_logarithmic_axis_of_a_narrow_range_has_numbers():
    for low, high in ((2.05, 2.4), (1.2, 1.7), (0.011, 0.012), (0.5, 0.5)):
        axes = Figure().subplots()
        log_axis(axes.yaxis, [low, high])
        assert 1 <= len(axes.get_yticks()) <= 5
        assert all(low <= tick <= high for tick in axes.get_yticks())


def write_images(folder: Path, count: int) -> None:
    """Write features and thumbnails; the student finds the teacher's neighbors, except for the last image."""
    teacher = torch.randn(count, 8, generator=torch.Generator().manual_seed(0))
    student = teacher.clone()
    student[-1] = -student[0]
    tensors = {"teacher": teacher, "target": 2 * teacher, "generated": student, "labels": torch.full((count,), -1)}
    thumbnails = torch.randint(256, (count, 3, 48, 48), dtype=torch.uint8)
    save_tensors(folder / "features.safetensors", {**tensors, "thumbnails": thumbnails})


def run_without_classes(folder: Path, images: int = 30) -> Path:
    """Write a run on images without classes, with scores of its features."""
    scores = {"cosine": 91.0, "r2": 83.0, "neighbors": 60.0}
    best = {"epoch": 2, "output": "head", **scores, "split": "validation", "images": 30}
    result = {"last": {"head": scores}, "best": best, "split": "validation"}
    run = write_run(folder, "gendd", {"head": (1.0, 5.0)}, unlabeled=True, result=result)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    changed = [{**record, "head": scores} if record["kind"] == "eval" else record for record in records]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in changed))
    write_images(run, images)
    return run


def test_neighbors_come_first_without_labels(tmp_path):
    text = report(tmp_path / "out", run_without_classes(tmp_path / "run"))
    headings = [line for line in text.splitlines() if line.startswith("##")]
    assert headings[0] == "## Neighbors" and headings[-1] == "## How to read"
    ((row,),) = accuracies(text)
    assert list(row)[2] == "Cosine, %" and row["Neighbors (chance 2.0 %), %"] == "60.00"


@pytest.mark.parametrize("method", ["kd", "finetune"])  # Before and after gendd in the table.
def test_runs_with_and_without_classes_share_a_report(method, tmp_path):
    other = write_run(tmp_path / "other", method, {"head": (70.0, 90.0)}, result={"split": "validation"})
    text = report(tmp_path / "out", run_without_classes(tmp_path / "run"), other)
    (rows,), (prices,) = accuracies(text), costs(text)
    assert {row["Method"]: (row["Top-1, %"], row["Cosine, %"]) for row in rows} == {
        "gendd": ("–", "91.00"),
        method: ("70.00", "–"),
    }
    assert {row["Method"]: row["Top-1, %"] for row in prices} == {"gendd": "–", method: "70.00"}


@pytest.mark.parametrize("images", [30, 4])
def test_neighbors_show_cosines_and_frames_for_common_ones(tmp_path, images):
    run = run_without_classes(tmp_path / "run", images)
    figure = neighbors(finished_runs([str(run)])[0][0])
    tensors = safetensors.torch.load_file(run / "features.safetensors")
    sides = []
    for name in ("teacher", "generated"):
        unit = torch.nn.functional.normalize(tensors[name], dim=-1)
        cosines = unit @ unit.T - 2 * torch.eye(images)
        sides.append(cosines.topk(min(5, images - 1)))
    rows = min(6, images)
    pictures = [axes for part in figure.subfigs[1:] for axes in part.axes]
    told = [float(axes.get_xlabel()) for axes in pictures]
    assert told == pytest.approx(
        [cosine for side in sides for cosine in side.values[:rows].flatten().tolist()], abs=0.006
    )
    framed = sum(axes.spines["left"].get_visible() for axes in pictures)
    common = sum(
        len(set(one) & set(other)) for one, other in zip(*(side.indices[:rows].tolist() for side in sides), strict=True)
    )
    assert framed == 2 * common > 0
    assert f"of {images - 1} other validation images" in figure.get_suptitle()


@pytest.mark.filterwarnings("error")
def test_curves_name_predictions_and_start_after_earlier_runs(tmp_path):
    names = [f"gendd-variant-{number}" for number in range(12)]
    two = {"head": (70.0, 90.0), "probe": (60.0, 80.0)}
    folders = [write_run(tmp_path / name, "gendd", two, name=name) for name in names]
    alone = write_run(tmp_path / "alone", "classification", {"classifier": (50.0, 70.0)})
    figure = curves(groups_of([*folders, alone]))
    figure.draw_without_rendering()
    accuracies_by_epoch, *losses = figure.findobj(Axes)
    ends = {text.get_text(): text for text in accuracies_by_epoch.texts}
    told = {f"{name}, {output}" for name in names for output in two}
    assert set(ends) == told | {"classification, classifier", "teacher large"}
    width, height = figure.get_size_inches() * figure.dpi
    assert height < 1800 and not overlaps(list(ends.values()))
    assert all(axes.get_legend() is None for axes in (accuracies_by_epoch, *losses))
    assert all(accuracies_by_epoch.bbox.x1 <= text.get_window_extent().x0 < width for text in ends.values())
    # The student without a teacher comes first; GenDD's curves start after a stage 1 of 5 epochs.
    starts = [axes.lines[0].get_xdata().tolist() for axes in losses]
    assert starts == [[1, 2, 3], *[[6, 7, 8]] * len(names)]
    assert {tuple(line.get_xdata()) for line in accuracies_by_epoch.lines} >= {(1, 2, 3), (6, 7, 8)}


def test_broken_images_are_not_drawn_as_a_loss(tmp_path):
    run = write_run(tmp_path / "run", "classification", {"classifier": (50.0, 70.0)})
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    changed = [{**record, "broken_images": 2} if record["epoch"] == 1 else record for record in records]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in changed))
    _, losses = curves(groups_of([run])).findobj(Axes)
    assert [text.get_text() for text in losses.texts] == ["total"]


@pytest.mark.filterwarnings("error")
def test_pictures_tell_settings_of_one_method_apart(tmp_path):
    settings = [{"dense_grid": grid, "lr": lr} for grid in (0, 4) for lr in (1e-3, 2e-3)]
    two = {"head": (70.0, 90.0), "probe": (60.0, 80.0)}
    groups = groups_of([write_run(tmp_path / str(i), "gendd", two, **chosen) for i, chosen in enumerate(settings)])
    told = {f"gendd (dense grid {grid}, lr {lr}), {out}" for grid in (0, 4) for lr in (0.001, 0.002) for out in two}
    for figure in (curves(groups), cost_picture({"digits": rows_of(groups)})):
        figure.draw_without_rendering()
        ends = [text for text in figure.findobj(Axes)[0].texts if "gendd" in text.get_text()]
        assert {text.get_text() for text in ends} == told and len(ends) == 8
        assert len({text.get_color() for text in ends}) == 4
        assert not overlaps(ends) and all(text.get_window_extent().x1 <= figure.bbox.x1 for text in ends)


def test_curves_of_two_students_have_different_colors(tmp_path):
    scores = {"classifier": (70.0, 90.0)}
    runs = [write_run(tmp_path / name, "kd", scores, student=name) for name in ("small", "tiny")]
    figure = curves(groups_of(runs))
    figure.draw_without_rendering()
    ends = [text for text in figure.findobj(Axes)[0].texts if "kd" in text.get_text()]
    assert len(ends) == 2 and len({text.get_color() for text in ends}) == 2


def test_principal_plane_has_one_orientation():
    random = torch.Generator().manual_seed(1)
    features = torch.randn(200, 6, generator=random) * torch.tensor([5.0, 3, 1, 1, 1, 1]) + 7
    mean, directions, shares = principal_plane(features)
    torch.testing.assert_close(mean, features.mean(0))
    torch.testing.assert_close(directions.T @ directions, torch.eye(2))
    assert directions[:, 0].argmax() == 0 and directions[:, 1].argmax() == 1
    assert (directions.amax(0) == directions.abs().amax(0)).all()
    variances = torch.linalg.eigvalsh(features.T.cov()).flip(0)
    torch.testing.assert_close(shares, variances[:2] / variances.sum())
    # Mirrored data mirrors the points of the picture, not its axes.
    torch.testing.assert_close(principal_plane(-features)[1], directions)


def test_labels_are_spread_without_leaving_the_panel():
    assert spread([0.1, 0.5], 0.1) == [0.1, 0.5]
    assert spread([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.5, 0.6, 0.7])
    assert spread([0.2, 0.99, 1.0], 0.1) == pytest.approx([0.2, 0.9, 1.0])
