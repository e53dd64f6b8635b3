"""The commit on record is the one of this code."""

import subprocess

from gendd.runs import environment


def test_commit_of_an_enclosing_repository_is_not_recorded(tmp_path, monkeypatch):
    """The package may be installed into a folder of another project's checkout."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init"], [*identity, "commit", "--allow-empty", "--message", "first"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True, capture_output=True)
    for place, recorded in (("gendd/runs", True), ("site-packages/gendd/runs", False)):
        monkeypatch.setattr(environment, "__file__", str(tmp_path / place / "environment.py"))
        (tmp_path / place).mkdir(parents=True)
        assert (environment.git_commit() is not None) == recorded
