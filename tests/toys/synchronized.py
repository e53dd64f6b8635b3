"""Run a training step of resnet8 in several processes on one GPU. This needs gloo, since NCCL does not allow it."""

from pathlib import Path

import torch
import torch.distributed as dist
from programs import cifar_config
from torch import Tensor

from gendd.core.seeding import BatchPlan
from gendd.data.batch import Batch
from gendd.runs.experiment import build
from gendd_cifar.family import FAMILY

BATCH = 16


def step(rank: int, processes: int, *flags: str) -> dict[str, Tensor]:
    """Return the network's gradients and running statistics after this process's share of the batch."""
    device = torch.device("cuda", 0)
    # TF32 rounds to 10 bits, so sums would depend on the number of images per process.
    torch.backends.cudnn.allow_tf32 = False
    arguments = ["--dataset", "digits", "--student", "resnet8", *flags]
    config = cifar_config(*arguments, method="classification")
    built = build(FAMILY, config, 10, device, processes=processes)
    task, network = built.task, built.student.network
    if processes > 1:
        task.prepare_distributed()
    noise = torch.Generator().manual_seed(1)
    images, labels = torch.randn(BATCH, 3, 32, 32, generator=noise), torch.arange(BATCH) % 10
    task.train()
    random = next(BatchPlan(0, BATCH, rank, processes).micro_batches(0))
    batch = Batch(images[rank::processes].to(device), labels[rank::processes].to(device), random)
    task(batch)["loss"].backward()
    gradients = {name: parameter.grad.cpu() for name, parameter in network.named_parameters()}
    return gradients | {name: buffer.cpu() for name, buffer in network.named_buffers()}


def step_among(rank: int, processes: int, folder: str, *flags: str) -> None:
    """Run `step` in a process group that connects through a folder, and save each result there."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=processes)
    torch.save(step(rank, processes, *flags), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
