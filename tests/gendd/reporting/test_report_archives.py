"""Reports of archives of runs."""

import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from lines import refuses
from run_folders import csv_rows, report, write_run

from gendd.reporting import archive as archive_module


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
    for name, reason in (
        ("damaged.tar.xz", "cannot be read"),
        ("absent.tar.xz", "cannot be read"),
        ("empty.tar", "does not hold a complete run"),
    ):
        with refuses(f"^RUN .*{name}: .*{reason}"):
            report(tmp_path / "out", tmp_path / name)


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, target, size
    return member


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (entry("../escaped.json"), "leads outside"),
        (entry("runs/../../escaped.json"), "leads outside"),
        (entry("{outside}/escaped.json"), "leads outside"),
        (entry("runs/escaped.json", tarfile.SYMTYPE, "{outside}/secret"), "not a plain file"),
        (entry("runs/escaped.json", tarfile.SYMTYPE, "0/result.json"), "not a plain file"),
        (entry("runs/escaped.json", tarfile.LNKTYPE, "runs/0/result.json"), "not a plain file"),
        (entry("runs/escaped.json", tarfile.FIFOTYPE), "not a plain file"),
        (entry("runs/escaped.json", tarfile.CHRTYPE), "not a plain file"),
        (entry("runs/escaped.json", size=5 << 30), "unpacks to more than 4 GiB"),
        (entry("runs/escaped.json", tarfile.XHDTYPE, size=1 << 40), "a header states 1099511627776 bytes"),
        (entry("runs/escaped.json", tarfile.GNUTYPE_LONGNAME, size=1 << 40), "a header states 1099511627776 bytes"),
    ],
)
def test_hostile_tar_of_runs_is_refused(member, reason, tmp_path):
    packed_runs(tmp_path)
    (tmp_path / "secret").write_text("{}")
    member.name, member.linkname = (name.format(outside=tmp_path) for name in (member.name, member.linkname))
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz", format=tarfile.GNU_FORMAT) as archive:
        archive.add(tmp_path / "runs", "runs")
        archive.addfile(member)
    with refuses(f"^RUN .*packed.tar.gz: .*{reason}"):
        report(tmp_path / "out", tmp_path / "packed.tar.gz")
    assert not list(tmp_path.rglob("escaped.json")) and not (tmp_path.parent / "escaped.json").exists()


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("../escaped.json", stat.S_IFREG, "leads outside"),
        ("/escaped.json", stat.S_IFREG, "leads outside"),
        ("runs/escaped.json", stat.S_IFLNK, "not a plain file"),
        ("runs/escaped.json", stat.S_IFIFO, "not a plain file"),
        ("runs/escaped.json", stat.S_IFREG, "unpacks to more than 0 GiB"),
    ],
)
def test_hostile_zip_of_runs_is_refused(name, kind, reason, tmp_path, monkeypatch):
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", packed_runs(tmp_path)[0].parents[1], "runs"))
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as archive:
        member = zipfile.ZipInfo(name)
        member.external_attr = kind << 16
        archive.writestr(member, bytes(2**20))
    monkeypatch.setattr(archive_module, "MOST_BYTES", 2**20)
    with refuses(f"^RUN .*packed.zip: .*{reason}"):
        report(tmp_path / "out", packed)
    assert not list(tmp_path.rglob("escaped.json"))


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
