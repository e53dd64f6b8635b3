"""Synchronized batch norm: converted layers, and conditions of the conversion."""

import pytest
import torch
from programs import cifar_config, for_head, imagenet_config
from torch import nn

from gendd.config import Config
from gendd.core.distributed import World
from gendd.core.seeding import BatchPlan
from gendd.data.batch import Batch
from gendd.programs.plan import plan_of
from gendd.runs import experiment as programs
from gendd.runs.experiment import build, synchronizes_norms
from gendd_cifar.family import FAMILY

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
FLAGS = ["--dataset", "digits", "--student", "timm/efficientnet_b0", "--teacher", "resnet8"]
HEAD = ["--width", "16", "--depth", "1", "--repeats", "2", "--draw-scheme", "shared"]


def config(*flags: str, method: str = "gendd") -> Config:
    return cifar_config(*FLAGS, *for_head(method, HEAD), *flags, method=method)


def norms(network: nn.Module) -> set[type]:
    """Return the types of layers with running statistics."""
    return {type(layer) for layer in network.modules() if getattr(layer, "running_mean", None) is not None}


@pytest.fixture
def anywhere(monkeypatch):
    """Synchronize batch norm as on GPUs.

    Without a process group, torch's layers compute as plain ones.
    """
    monkeypatch.setattr(programs, "synchronizes_norms", lambda config, device, processes: config.optimizer.sync_bn)


@pytest.mark.parametrize("method", ["gendd", "pretrain", "kd", "feature", "srd", "simkd"])
def test_sync_bn_converts_the_student_not_the_teacher(method, anywhere):
    """The conversion includes timm's norms with activations, and keeps the names of tensors."""
    plain, converted = (
        build(FAMILY, config(flag, method=method), 10, CPU, processes=2) for flag in ("--no-sync-bn", "--sync-bn")
    )
    assert all(issubclass(kind, nn.SyncBatchNorm) for kind in norms(converted.task.trainable_module))
    assert norms(converted.teacher.model) == {nn.BatchNorm2d}
    states = [built.task.trainable_module.state_dict() for built in (plain, converted)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_sync_bn_counts_recomputed_activations_once(anywhere):
    plain, converted = (build(FAMILY, config(*flags), 10, CPU) for flags in ([], ["--sync-bn", "--grad-checkpointing",
                                                                               "student"]))  # fmt: skip
    batch = Batch(torch.randn(4, 3, 32, 32), torch.arange(4), next(BatchPlan(0, 4).micro_batches(0)))
    for built in (plain, converted):
        built.task.train()
        torch.manual_seed(0)
        built.task(batch)["loss"].backward()
    for (name, one), other in zip(
        plain.student.network.named_buffers(), converted.student.network.buffers(), strict=True
    ):
        torch.testing.assert_close(one, other, msg=name)


def test_sync_bn_needs_several_processes_on_gpus():
    assert synchronizes_norms(config("--sync-bn"), GPU, 2)
    assert not synchronizes_norms(config("--sync-bn"), GPU, 1)
    assert not synchronizes_norms(config("--sync-bn"), CPU, 2)
    assert not synchronizes_norms(config(), GPU, 2)
    assert not synchronizes_norms(imagenet_config("--student", "resnet18"), GPU, 2)


def test_plan_states_the_images_of_batch_norm_statistics(tmp_path):
    def line(settings: Config, world: World) -> list[str]:
        built = build(FAMILY, settings, 10, CPU)
        plan = plan_of(
            FAMILY, settings, FAMILY.access.summarize(settings), built, BatchPlan(0, 64, 0, 2), world, "fp32", tmp_path
        )
        return [line for line in plan.splitlines() if line.startswith("  batch norm")]

    alone, two = World(0, 1, 0, CPU), World(0, 2, 0, CPU)
    assert not line(config("--sync-bn"), alone)
    assert "the images of each process; --sync-bn needs GPUs" in line(config("--sync-bn"), two)[0]
    assert line(config(), two)[0].endswith("the images of each process")
