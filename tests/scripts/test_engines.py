"""The manifests of docs/engines.md start a training that the programs accept."""

import shlex

import pytest
import yaml
from photos import write_photos
from shell import ROOT

EXAMPLES = ROOT / "docs" / "examples"
SKYPILOT = {"SKYPILOT_NUM_NODES": 2, "SKYPILOT_NODE_RANK": 1, "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}


def read(name: str) -> dict:
    return yaml.safe_load((EXAMPLES / name).read_text())


def commands() -> dict[str, str]:
    """Return the shell command of each machine's role, by manifest and role."""
    replicas = read("pytorchjob.yaml")["spec"]["pytorchReplicaSpecs"]
    roles = {role: machine["template"]["spec"]["containers"][0]["command"] for role, machine in replicas.items()}
    trainer = read("trainjob.yaml")["spec"]["trainer"]
    return {
        **{f"pytorchjob {role}": shlex.join(words) for role, words in roles.items()},
        "trainjob": shlex.join([*trainer["command"], *trainer["args"]]),
        "skypilot": read("skypilot.yaml")["run"],
    }


@pytest.mark.parametrize("name", ["pytorchjob Master", "pytorchjob Worker", "trainjob", "skypilot"])
def test_manifest_starts_a_training(name, recorded, dry_run, tmp_path):
    photos = write_photos(tmp_path / "photos")
    [(module, arguments)] = recorded(commands()[name].replace("/shared/imagenet", str(photos)), **SKYPILOT)
    assert module == "gendd_imagenet train"
    assert "teacher    resnet50" in dry_run(module, arguments)


def test_restart_follows_exit_code_75():
    """`ExitCode` of the training operator takes codes below 128 for permanent errors."""
    replicas = read("pytorchjob.yaml")["spec"]["pytorchReplicaSpecs"]
    assert {machine["restartPolicy"] for machine in replicas.values()} == {"OnFailure"}
    assert read("skypilot.yaml")["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]


def test_containers_have_shared_memory_for_workers():
    pod = read("pytorchjob.yaml")["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    mounted = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes[mounted["/dev/shm"]]["emptyDir"] == {"medium": "Memory"}
