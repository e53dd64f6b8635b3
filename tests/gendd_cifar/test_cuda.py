"""The same on a GPU, where there is one."""

import json

import pytest
import synchronized
import torch

from gendd.head import SplitTokenHead
from gendd_cifar.train import main

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_head_gives_the_same_loss_and_samples_as_on_the_cpu():
    torch.manual_seed(0)
    head = SplitTokenHead(32, 12, token_dim=16, width=32, repeats=4)
    for parameter in head.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    z, target = torch.randn(6, 12), torch.randn(6, 32)
    draws = head.draw(6, torch.Generator().manual_seed(1))
    loss, sample = head(z, target, draws)["loss"], head.sample(z)
    head.cuda()
    on_gpu = type(draws)(draws.t.cuda(), draws.noise.cuda(), draws.dropped.cuda())
    torch.testing.assert_close(head(z.cuda(), target.cuda(), on_gpu)["loss"].cpu(), loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(head.sample(z.cuda()).cpu(), sample, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_teacher_and_student_learn(tmp_path, precision):
    common = ["--dataset", "digits", "--hflip", "0", "--epochs", "4", "--schedule", "cosine", "--lr", "3e-3",
              "--runs", str(tmp_path), "--precision", precision]  # fmt: skip
    main([*common, "--method", "classification", "--student", "resnet8"])
    teacher = tmp_path / "digits" / "resnet8" / "classification" / "0"
    main([*common, "--method", "gendd", "--student", "resnet8", "--teacher", "resnet8", "--teacher-weights",
          str(teacher), "--width", "128", "--repeats", "4"])  # fmt: skip
    result = json.loads((tmp_path / "digits" / "resnet8_resnet8" / "gendd" / "0" / "result.json").read_text())
    assert result["last"]["probe"]["top1"] > 20


@pytest.mark.parametrize("flags", [(), ("--grad-checkpointing", "student")])
def test_two_processes_with_synchronized_batch_norm_step_as_one(tmp_path, flags):
    """Gradients and running statistics; with each process's own statistics they are apart."""
    alone = synchronized.step(0, 1, *flags)
    for flag in ("--sync-bn", "--no-sync-bn"):
        folder = tmp_path / flag.strip("-")
        folder.mkdir()
        torch.multiprocessing.spawn(synchronized.step_among, (2, str(folder), flag, *flags), nprocs=2)
        for rank in (0, 1):
            together = torch.load(folder / f"{rank}.pt", weights_only=True)
            same = all(torch.allclose(together[name], alone[name], rtol=1e-3, atol=1e-4) for name in alone)
            assert same == (flag == "--sync-bn")
