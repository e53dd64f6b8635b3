"""Reports of archives of runs."""

import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from lines import refuses
from run_folders import csv_rows, report, write_run


def packed_runs(tmp_path: Path) -> list[Path]:
    """Write two complete run folders and an incomplete one to tmp_path/runs; return the complete ones."""
    runs = [
        write_run(tmp_path / "runs" / str(seed), "kd", {"classifier": (60.0 + seed, 90.0)}, seed=seed)
        for seed in (0, 1)
    ]
    write_run(tmp_path / "runs" / "2", "kd", {"classifier": (50.0, 80.0)}, complete=False, seed=2)
    return runs


@pytest.mark.parametrize("kind", ["tar", "gztar", "bztar", "xztar", "zip"])
def test_archive_of_runs_gives_report_of_its_folders(tmp_path, kind):
    runs = packed_runs(tmp_path)
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path, "runs"))
    assert report(tmp_path / "out", archive) == report(tmp_path / "plain", *runs)
    assert csv_rows(tmp_path / "out") == csv_rows(tmp_path / "plain")


def test_archive_without_runs_is_refused(tmp_path):
    (tmp_path / "damaged.tar.xz").write_bytes(b"no archive")
    with tarfile.open(tmp_path / "empty.tar", "w") as archive:
        archive.add(__file__, "file.py")
    with tarfile.open(tmp_path / "outside.tar", "w") as archive:
        archive.add(__file__, "../file.py")
    with zipfile.ZipFile(tmp_path / "outside.zip", "w") as archive:
        archive.write(__file__, "../file.py")
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        link = zipfile.ZipInfo("runs")
        link.external_attr = stat.S_IFLNK << 16
        archive.writestr(link, "/etc")
    for name, reason in (
        ("damaged.tar.xz", "cannot be read"),
        ("absent.tar.xz", "cannot be read"),
        ("empty.tar", "does not hold a complete run"),
        ("outside.tar", "cannot"),
        ("outside.zip", "leads outside"),
        ("link.zip", "not a plain file"),
    ):
        with refuses(f"^RUN .*{name}: .*{reason}"):
            report(tmp_path / "out", tmp_path / name)
    assert not (tmp_path.parent / "file.py").exists()


@pytest.mark.parametrize("kind", ["tar", "gztar", "bztar", "xztar", "zip"])
@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, "headers"])
def test_damaged_archives_are_refused(tmp_path, kind, share):
    """Cut the archive at several places, or break the header of a later file: no report covers only some runs."""
    packed_runs(tmp_path)
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path, "runs"))
    whole = archive.read_bytes()
    if share == "headers":
        at = whole.rindex(b"runs/") if kind in ("tar", "zip") else len(whole) // 2
        archive.write_bytes(whole[:at] + b"\xff" * 64 + whole[at + 64 :])
    else:
        # A tar cut between two files is damaged only by its missing end.
        archive.write_bytes(whole[: int(share * len(whole)) // 512 * 512 if kind == "tar" else int(share * len(whole))])
    with refuses("^RUN .*damaged"):
        report(tmp_path / "out", archive)


def test_other_file_than_archive_is_refused_in_one_line(tmp_path):
    for name in ("result.json", "runs.tar.xz"):
        (tmp_path / name).write_text("{}")
        with refuses(f"^RUN .*{name}: .*name run folders") as refused:
            report(tmp_path / "out", tmp_path / name)
        assert "method gz" not in str(refused.value)
