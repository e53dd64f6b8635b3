"""The compare program, with train scripts that only record their arguments."""

import fcntl
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from forked import PATIENCE, Forked
from lines import refuses

from gendd.core.errors import PassingFault
from gendd.methods import METHODS
from gendd.programs import compare, jobs, plain_flags

BASELINE = """
echo "$* on GPU ${CUDA_VISIBLE_DEVICES-none}, GPUS=${GPUS-none}" >>calls
[ "$1" != broken ] || [ -e fixed ] || { echo "error: broken" >&2 && exit 2; }
if [ "$1" = paired ]; then
  mkdir "gpu-$CUDA_VISIBLE_DEVICES" || exit 1
  for _ in {1..200}; do [ "$(wc -l <calls)" -ge 2 ] || sleep 0.05; done
  [ "$(wc -l <calls)" -ge 2 ] && rmdir "gpu-$CUDA_VISIBLE_DEVICES" || exit 1
fi
[ "$1" != slow ] || for _ in {1..400}; do [ -e go ] || sleep 0.05; done
echo "$1 is complete"
echo "results in runs/$1/${*: -1}"
"""
GENDD = """
echo "gendd $*" >>calls
echo "results in runs/pretrain/0"
echo "results in runs/gendd/${*: -1}"
"""
LAUNCH = """
echo "$*" >>calls
mkdir -p "runs/$3/${*: -1}" && touch "runs/$3/${*: -1}/result.json"
echo "results in runs/$3/${*: -1}"
"""
PAIR = ("toys", "large", "small")


class Comparison:
    """A folder with scripts, and the reports that compare requests."""

    def __init__(self, project: Path, monkeypatch):
        self.project, self.output, self.reports = project, project / "runs" / "comparisons" / "toys_large_small", []
        (project / "sh").mkdir()
        (project / "sh" / "train_toys_baseline.sh").write_text(BASELINE)
        (project / "sh" / "launch.sh").write_text(LAUNCH)
        for name in ("gendd", "gendd_short"):
            (project / "sh" / f"train_toys_large_small_{name}.sh").write_text(GENDD)
        monkeypatch.chdir(project)
        monkeypatch.setattr(compare, "SCRIPTS", project / "sh")
        for module in (compare, plain_flags):
            monkeypatch.setattr(module, "LAUNCHER", ("bash", "sh/launch.sh"))
        for name in ("broken", "paired", "slow"):
            monkeypatch.setitem(METHODS, name, METHODS["kd"])
        monkeypatch.setattr(compare, "write_report", self.reports.append)
        for name in ("CUDA_VISIBLE_DEVICES", "GPUS", "JOBS", "OUTPUT", "FAMILY"):
            monkeypatch.delenv(name, raising=False)

    def run(self, methods: str, seeds: str, *flags: str) -> None:
        compare.main([*PAIR, methods, seeds, *flags])

    def calls(self) -> list[str]:
        """Return the recorded calls of train scripts, and delete the record."""
        lines = (self.project / "calls").read_text().splitlines()
        (self.project / "calls").unlink()
        return lines


@pytest.fixture
def comparison(tmp_path, monkeypatch) -> Comparison:
    return Comparison(tmp_path, monkeypatch)


def test_compare_trains_and_reports_each_method_and_seed(comparison):
    comparison.run("kd gendd", "0 7", "--epochs", "2")
    where = "on GPU none, GPUS=none"
    assert comparison.calls() == [
        f"kd large small --epochs 2 --seed 0 {where}",
        "gendd --epochs 2 --seed 0",
        f"kd large small --epochs 2 --seed 7 {where}",
        "gendd --epochs 2 --seed 7",
    ]
    (report,) = comparison.reports
    assert report.runs == ("runs/kd/0", "runs/gendd/0", "runs/kd/7", "runs/gendd/7")
    assert Path(report.output) == comparison.output.relative_to(comparison.project)
    assert (comparison.output / "kd-7.log").read_text() == "kd is complete\nresults in runs/kd/7\n"


def test_compare_names_failed_runs_and_continues(comparison, capsys):
    with pytest.raises(
        PassingFault, match="2 of the runs failed, see runs/comparisons/toys_large_small/broken-0.log"
    ) as told:
        comparison.run("broken kd", "0 1")
    assert "kd-0" not in str(told.value)
    assert "broken, seed 1: failed, error: broken" in capsys.readouterr().out
    assert comparison.reports.pop().runs == ("runs/kd/0", "runs/kd/1")
    (comparison.project / "fixed").touch()
    comparison.run("broken kd", "0 1")
    assert comparison.reports.pop().runs == ("runs/broken/0", "runs/kd/0", "runs/broken/1", "runs/kd/1")


def test_each_gpu_has_one_run_at_a_time(comparison, monkeypatch):
    """The second run starts before the first one ends, on the other GPU."""
    monkeypatch.setattr(jobs, "found_gpus", lambda: ["2", "5"])
    comparison.run("paired", "0 1 2 3")
    calls = comparison.calls()
    assert {call.split(" on ")[1] for call in calls} == {"GPU 2, GPUS=1", "GPU 5, GPUS=1"}
    assert len(calls) == 4


def test_shared_stage_1_is_trained_once_at_a_time(comparison, monkeypatch):
    """Both recipes share one stage 1; the train script fails if another process trains it."""
    monkeypatch.setenv("JOBS", "4")
    comparison.run("gendd gendd_short", "0 1")
    assert len(comparison.calls()) == 4


def test_killed_compare_waits_for_its_run_before_it_resumes(comparison):
    process = Forked(lambda: comparison.run("slow", "0"), comparison.project)
    deadline = time.monotonic() + PATIENCE
    while not (comparison.project / "calls").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send(signal.SIGKILL)
    assert process.wait().code == -signal.SIGKILL
    assert len(comparison.calls()) == 1
    with refuses("runs of another command still write there"):
        comparison.run("slow kd", "0")
    (comparison.project / "go").touch()
    with open(comparison.output / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    comparison.run("slow kd", "0")
    assert comparison.reports.pop().runs == ("runs/slow/0", "runs/kd/0")


def test_found_gpus_follow_the_environment(monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "GPUS", "CPU_PROCS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jobs.torch.cuda, "device_count", lambda: 2)
    assert jobs.found_gpus() == ["0", "1"]
    monkeypatch.setenv("GPUS", "1")
    assert jobs.found_gpus() == ["0"]
    monkeypatch.delenv("GPUS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert jobs.found_gpus() == ["GPU-a", "GPU-b"]
    monkeypatch.setenv("CPU_PROCS", "2")
    assert jobs.found_gpus() == []


def test_compare_refuses_invalid_commands(comparison):
    with refuses("SEEDS"):
        compare.main([*PAIR, "kd"])
    with refuses("SEEDS 0,1: not a whole number; give seeds such as 0 1 2"):
        comparison.run("kd", "0,1")
    with refuses("METHODS kdd: no such name"):
        comparison.run("kd kdd", "0 1")
    for flags in (["--on", "moon"], ["--on=moon"]):
        with refuses("--on moon: choose slurm, choose local"):
            comparison.run("kd", "0", *flags)
    (comparison.project / "sh" / "train_toys_baseline.sh").unlink()
    with refuses("METHODS kd: no script and no recipe trains"):
        comparison.run("gendd kd", "0")
    comparison.output.mkdir(parents=True)
    with open(comparison.output / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with refuses("runs of another command still write there"):
            comparison.run("gendd", "0")


def test_cluster_trains_the_same_runs(comparison):
    """submitit's local executor replaces Slurm's."""
    pytest.importorskip("submitit", reason="submitit, an extra, is not installed")
    with pytest.raises(PassingFault, match="1 of the runs failed, see .*broken-0.log"):
        comparison.run("gendd gendd_short kd broken", "0", "--on", "local", "--epochs", "2")
    assert sorted(call.split()[0] for call in comparison.calls()) == ["broken", "gendd", "gendd", "kd"]
    assert comparison.reports.pop().runs == ("runs/gendd/0", "runs/gendd/0", "runs/kd/0")


def test_repeated_seed_is_trained_once(comparison):
    comparison.run("kd", "0 1 0")
    assert len(comparison.calls()) == 2


def test_another_seed_reports_earlier_runs_too(comparison):
    """The report omits incomplete runs."""
    plain = ("--", "--dataset", "digits")
    compare.main(["kd dkd", "0 1", *plain])
    compare.main(["kd", "2", *plain])
    assert sorted(comparison.reports.pop().runs) == [
        "runs/dkd/0", "runs/dkd/1", "runs/kd/0", "runs/kd/1", "runs/kd/2",
    ]  # fmt: skip
    (comparison.project / "runs" / "dkd" / "1" / "result.json").unlink()
    compare.main(["kd", "2", *plain])
    assert len(comparison.reports.pop().runs) == 4


@pytest.mark.parametrize(
    ("method", "pair", "family", "name"),
    [
        ("gendd", ("cifar100", "resnet56", "resnet20"), "gendd_cifar", "resnet56_resnet20"),
        ("gendd_short", ("cifar100", "resnet56", "resnet20"), "gendd_cifar", "resnet56_resnet20_short"),
        ("classification", ("cifar100", "resnet56", "resnet20"), "gendd_cifar", "resnet20"),
        ("kd", ("imagenet", "beitv2b", "resnet50_a1"), "gendd_imagenet", "beitv2b_resnet50_a1_kd"),
        ("gendd", ("imagenetlt", "resnext101", "resnet18"), "gendd_imagenet", "imagenetlt_resnext101_resnet18"),
        ("kl", ("cc3m", "resnet50", "mobilenetv1"), "gendd_imagenet", "cc3m_resnet50_mobilenetv1_kl"),
    ],
)
def test_recipe_trains_a_pair_without_scripts(method, pair, family, name, comparison):
    assert compare.command_of(method, *pair) == ("bash", "sh/launch.sh", family, "train", "--recipe", name)


def test_compare_trains_recipes_without_scripts(comparison):
    compare.main(["cifar100", "resnet56", "resnet20", "kd gendd", "3", "--epochs", "2"])
    names = ("resnet56_resnet20_kd", "resnet56_resnet20")
    assert comparison.calls() == [f"gendd_cifar train --recipe {name} --epochs 2 --seed 3" for name in names]


def test_recipe_of_other_data_is_not_used(comparison):
    with refuses("METHODS gendd: no script and no recipe trains resnet56 > resnet20 on digits; choose a pair"):
        compare.main(["digits", "resnet56", "resnet20", "gendd", "0"])


def test_compare_with_plain_flags_needs_no_script(comparison, monkeypatch):
    """Each method gets only the options that it has, and a teacher if it uses one."""
    flags = ["--dataset", "my/photos", "--teacher", "big", "--temperature", "2", "--no-logit-standardization"]
    compare.main(["classification kd gendd", "3", "--", *flags, "--width", "64", "--lr", "1"])
    assert comparison.calls() == [
        "gendd_imagenet train classification --dataset my/photos --lr 1 --seed 3",
        f"gendd_imagenet train kd {' '.join(flags)} --lr 1 --seed 3",
        "gendd_imagenet train gendd --dataset my/photos --teacher big --width 64 --lr 1 --seed 3",
    ]
    assert comparison.reports.pop().output == "runs/comparisons/photos"
    compare.main(["kd", "3", "--", "--dataset=digits"])
    assert comparison.calls() == ["gendd_cifar train kd --dataset=digits --seed 3"]
    monkeypatch.setenv("FAMILY", "gendd_cifar")
    compare.main(["kd", "3", "--", "--dataset", "my/photos"])
    assert comparison.calls() == ["gendd_cifar train kd --dataset my/photos --seed 3"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["kd", "0", "--", "--student", "small"], "--dataset is missing"),
        (["kdd", "0", "--", "--dataset", "digits"], "METHODS kdd: no such name"),
        (["kd", "--", "--dataset", "digits"], "arguments are missing: give"),
        (["kd", "", "--", "--dataset", "digits"], "METHODS and SEEDS: name at least one of each"),
        (["", "0", "--", "--dataset", "digits"], "METHODS and SEEDS: name at least one of each"),
    ],
)
def test_compare_refuses_invalid_plain_flags(comparison, arguments, reason):
    with refuses(reason):
        compare.main(arguments)


def test_on_slurm_without_sbatch_is_refused(comparison, monkeypatch):
    monkeypatch.setenv("PATH", str(comparison.project))
    with refuses("^--on slurm: sbatch or srun is not found"):
        comparison.run("kd", "0", "--on", "slurm")


def test_on_cluster_without_submitit_names_the_extra(comparison, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with refuses(r'^--on local: needs the package submitit .*; pip install "gendd\[slurm\]"$'):
        comparison.run("kd", "0", "--on", "local")


def test_slurm_error_is_one_line(comparison, monkeypatch):
    pytest.importorskip("submitit", reason="submitit, an extra, is not installed")
    for name in ("srun", "sbatch"):
        (comparison.project / name).write_text("#!/bin/sh\necho 'invalid account' >&2\nexit 1\n")
        (comparison.project / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{comparison.project}:{os.environ['PATH']}")
    with refuses("^--on slurm: .*invalid account"):
        comparison.run("kd", "0", "--on", "slurm")
