"""Scripts that install, download published files, and start from any folder."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from shell import ROOT, bash, refusal


@pytest.mark.parametrize(
    ("fails", "remedy"), [("version_info", "name a Python 3.11 or newer"), ("ensurepip", "python3-venv")]
)
def test_setup_names_missing_requirement(project, fails, remedy):
    python = project / "python"
    python.write_text(f'#!/usr/bin/env bash\n[[ "$*" != *{fails}* ]]\n')
    python.chmod(0o755)
    assert remedy in refusal(bash("sh/setup.sh", cwd=project, VENV="", PYTHON=python))
    assert not (project / ".venv").exists()


def test_setup_prints_next_steps(project):
    python = project / "python"
    python.write_text('#!/usr/bin/env bash\n[[ "$*" != "-m venv .venv" ]] || install -D "$0" .venv/bin/python\n')
    python.chmod(0o755)
    for file in ("requirements.lock", "piplist.txt", "pyproject.toml"):
        shutil.copy(ROOT / file, project)
    done = bash("sh/setup.sh", cwd=project, VENV="", PYTHON=python)
    assert done.returncode == 0, done.stderr
    assert "bash sh/quickstart.sh" in done.stdout and "source .venv/bin/activate" in done.stdout.splitlines()[-1]
    again = bash("sh/setup.sh", cwd=project, VENV="", PYTHON=python)
    assert (again.returncode, again.stdout) == (0, "")


class Sources:
    """Folders in place of the two hosts of published teachers, and the project that downloads from them."""

    def __init__(self, project: Path):
        self.project, self.host, self.release = project, project / "host", project / "release"
        self.release.mkdir()

    def publish(self, name: str, content: float = 0, folder: Path | None = None) -> Path:
        file = (folder or self.host) / f"{name}_vanilla" / "ckpt_epoch_240.pth"
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"epoch": 240, "model": {"fc.weight": torch.full((100, 64), content)}}, file)
        return file

    def archive(self, name: str, folder: Path) -> None:
        content = self.project / "content"
        self.publish(name, folder=content / "cifar_teachers")
        folder.mkdir(exist_ok=True)
        subprocess.run(["tar", "-cf", folder / "cifar_teachers.tar", "-C", content, "cifar_teachers"], check=True)

    def fetched(self, name: str) -> Path:
        return self.project / "pretrained" / f"{name}_vanilla" / "ckpt_epoch_240.pth"

    def fetch(self, *names: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
        cwd = cwd or self.project
        cwd.mkdir(exist_ok=True)
        urls = {"REPDISTILLER_URL": self.host.as_uri(), "MDISTILLER_URL": self.release.as_uri()}
        return bash(self.project / "sh" / "fetch_pretrained_teachers.sh", *names, cwd=cwd, **urls)


@pytest.fixture
def sources(project) -> Sources:
    return Sources(project)


def test_fetch_saves_checksum_and_refuses_changed_file(sources):
    published, fetched = sources.publish("resnet56"), sources.fetched("resnet56")
    assert sources.fetch("resnet56").returncode == 0
    assert fetched.read_bytes() == published.read_bytes()
    subprocess.run(["sha256sum", "--check", "--status", f"{fetched.name}.sha256"], cwd=fetched.parent, check=True)
    assert sources.fetch("resnet56").returncode == 0
    fetched.write_bytes(b"changed")
    assert "delete the file to fetch it again" in refusal(sources.fetch("resnet56"))
    assert fetched.read_bytes() == b"changed"


def test_fetch_refuses_download_with_other_checksum(sources):
    sources.publish("resnet56", content=1)
    fetched = sources.fetched("resnet56")
    note = fetched.with_name(f"{fetched.name}.sha256")
    note.parent.mkdir(parents=True)
    note.write_text("0123  ckpt_epoch_240.pth\n")
    assert "was not kept" in refusal(sources.fetch("resnet56"))
    assert not fetched.exists() and note.read_text().startswith("0123")


def test_fetch_resumes_interrupted_download(sources):
    published = sources.publish("resnet56")
    part = sources.project / "pretrained" / "resnet56.part"
    part.parent.mkdir()
    part.write_bytes(published.read_bytes()[:1000])
    assert sources.fetch("resnet56").returncode == 0
    assert sources.fetched("resnet56").read_bytes() == published.read_bytes()
    assert not part.exists()


@pytest.mark.parametrize("variable", ["REPDISTILLER_URL", "MDISTILLER_URL"])
def test_fetch_refuses_mirror_without_https(sources, variable):
    script = sources.project / "sh" / "fetch_pretrained_teachers.sh"
    line = refusal(bash(script, "resnet56", cwd=sources.project, **{variable: "http://localhost/repo"}))
    assert line == "error: http://localhost/repo: anyone on the way can change it; name https:// or file://"
    assert "http://" not in script.read_text().replace("https://", "")


@pytest.mark.parametrize("where", ["release", "pretrained"])
def test_fetch_unpacks_the_archive(sources, where):
    sources.archive("vgg13", sources.project / where)
    assert sources.fetch("vgg13").returncode == 0
    assert torch.load(sources.fetched("vgg13"), weights_only=True)["epoch"] == 240


def test_fetch_keeps_only_checkpoints(sources):
    published = sources.publish("resnet56")
    published.write_bytes(published.read_bytes()[:-1000])
    sources.publish("vgg13").write_text("<html>moved</html>")
    (sources.release / "cifar_teachers.tar").write_text("<html>moved</html>")
    result = sources.fetch("resnet56", "vgg13")
    assert result.returncode == 2
    assert [line.split(":")[1].strip() for line in result.stderr.splitlines()] == ["resnet56", "vgg13"]
    assert not [path for path in (sources.project / "pretrained").rglob("*") if path.is_file()]


def test_fetch_names_remedy_without_hosts(sources):
    assert "bash sh/train_cifar100_teacher.sh resnet56" in refusal(sources.fetch("resnet56"))
    assert "choose from wrn_40_2" in refusal(sources.fetch("resnet57"))


def test_relative_paths_count_from_the_folder_of_the_command(tmp_path, sources):
    """Paths of flags, of errors, and the folders of runs and teachers count from the current folder."""
    (tmp_path / "own_networks.py").write_text(
        "from timm import create_model\n\n\ndef small(num_classes):\n"
        "    return create_model('test_resnet', num_classes=num_classes)\n"
    )
    launch = [ROOT / "sh" / "launch.sh", "gendd_cifar", "train", "classification"]
    student = ["--dataset", "digits", "--student", "own_networks:small"]
    flags = ["--epochs", "1", "--milestones", "1", "--precision", "fp32"]
    trained = bash(*launch, *student, *flags, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    run = tmp_path / "runs" / "digits" / "own_networks.small" / "classification" / "0"
    assert trained.stdout.splitlines()[-1] == f"results in {run}" and (run / "result.json").exists()

    line = refusal(bash(*launch, "--dataset", "here/photos", "--student", "resnet8", cwd=tmp_path))
    assert "--dataset here/photos: no such f" in line and f", looked for {tmp_path}/here/photos; " in line

    sources.publish("vgg13")
    assert sources.fetch("vgg13", cwd=tmp_path / "elsewhere").returncode == 0
    assert (tmp_path / "elsewhere" / "pretrained" / "vgg13_vanilla" / "ckpt_epoch_240.pth").exists()
