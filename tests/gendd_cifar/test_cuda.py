"""Results on a GPU, compared with results on the CPU."""

import dataclasses
import json

import pytest
import synchronized
import torch
from PIL import Image
from programs import cifar_config, for_head
from programs import train_cifar as main
from training_steps import Steps

from gendd.core.distributed import autocast, missing_for_compile
from gendd.core.seeding import BatchPlan
from gendd.data.batch import Batch
from gendd.diffusion.head import PAPER, SplitTokenHead
from gendd.programs.main import main as programs
from gendd.runs.experiment import build
from gendd_cifar.family import FAMILY

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_head_gives_the_cpus_loss_and_samples_on_gpu():
    torch.manual_seed(0)
    head = SplitTokenHead(32, 12, token_dim=16, width=32, repeats=4, **PAPER)
    for parameter in head.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    z, target = torch.randn(6, 12), torch.randn(6, 32)
    draws = head.draw(6, torch.Generator().manual_seed(1))
    loss, sample = head(z, target, draws)["loss"], head.sample(z, start=800)
    head.cuda()
    on_gpu = dataclasses.replace(draws, **{name: value.cuda() for name, value in vars(draws).items()})
    torch.testing.assert_close(head(z.cuda(), target.cuda(), on_gpu)["loss"].cpu(), loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(head.sample(z.cuda(), start=800).cpu(), sample, rtol=1e-3, atol=1e-3)


def step(method: str, device: str, precision: str = "fp32", compiles: bool = False) -> tuple[float, torch.Tensor]:
    """Return the loss and the flattened gradients of one step, with fixed images, weights and draws."""
    torch.manual_seed(0)
    flags = [
        "--dataset",
        "digits",
        "--student",
        "resnet8",
        *for_head(method, ["--feature-mixup", "0", "--width", "64"]),
    ]
    if method != "classification":
        flags += ["--teacher", "resnet8", "--teacher-weights", "random"]
    config = cifar_config(*flags, method=method)
    task = build(FAMILY, config, 10, torch.device(device), precision=precision).task.train()
    random = next(BatchPlan(0, 32).micro_batches(0))
    images, labels = torch.randn(32, 3, 32, 32), torch.arange(32) % 10
    if method == "gendd":
        # The new head generates zero for every input.
        for parameter in task.head.parameters():
            parameter.data.add_(0.02 * torch.randn(parameter.shape).to(device))
        draws = task.draws(random, torch.device("cpu"), task.head)
        moved = {name: value.to(device) for name, value in vars(draws).items() if isinstance(value, torch.Tensor)}
        task.draws = lambda *_: dataclasses.replace(draws, **moved)
    if compiles:
        task.compile()
    with autocast(precision, torch.device(device)):
        loss = task(Batch(images.to(device), labels.to(device), random))["loss"]
    loss.backward()
    gradients = [p.grad.flatten().cpu() for p in task.trainable_module.parameters() if p.grad is not None]
    return loss.item(), torch.cat(gradients)


METHODS = ("classification", "kd", "regression", "pretrain", "gendd")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("precision", "tolerance", "alike"), [("fp32", 1e-3, 0.999), ("bf16", 0.02, 0.98)])
def test_gpu_step_gives_the_cpus_loss_and_gradients(method, precision, tolerance, alike):
    """Convolutions on the GPU round to TF32 in fp32 too."""
    loss, gradients = step(method, "cpu")
    on_gpu, theirs = step(method, "cuda", precision)
    assert on_gpu == pytest.approx(loss, rel=tolerance)
    assert torch.cosine_similarity(theirs, gradients, dim=0) > alike
    assert theirs.norm().item() == pytest.approx(gradients.norm().item(), rel=2 * tolerance)


@pytest.mark.parametrize("method", ["kd", "gendd"])
def test_compiled_step_gives_the_same_loss_and_gradients(method):
    if missing := missing_for_compile(torch.device("cuda")):
        pytest.skip(f"needs {missing}")
    loss, gradients = step(method, "cuda")
    compiled, theirs = step(method, "cuda", compiles=True)
    assert compiled == pytest.approx(loss, rel=1e-3)
    assert torch.cosine_similarity(theirs, gradients, dim=0) > 0.999


HEAD = ("--width", "64", "--token-dim", "32")


@pytest.mark.parametrize("method", ["kd", "dkd", "regression", "gendd"])
def test_step_does_not_wait_for_the_gpu(method, tmp_path):
    """From the augmentation to the average of the weights; the first step creates the state."""
    step = Steps(method, torch.device("cuda"), tmp_path, "--ema-decay", "0.9", *for_head(method, HEAD))
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", ["kd", "gendd"])
def test_cuda_graphs_give_the_losses_of_eager_steps(method, tmp_path):
    if missing := missing_for_compile(torch.device("cuda")):
        pytest.skip(f"needs {missing}")
    losses = []
    for flag in ("--no-compile", "--compile"):
        step = Steps(method, torch.device("cuda"), tmp_path, flag, *for_head(method, HEAD))
        for _ in range(6):
            step()
        losses.append(step.means.read())
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_teacher_and_student_learn(tmp_path, precision):
    common = ["--dataset", "digits", "--hflip", "0", "--epochs", "4", "--schedule", "cosine", "--lr", "3e-3",
              "--runs", str(tmp_path), "--precision", precision]  # fmt: skip
    main(["classification", *common, "--student", "resnet8"])
    teacher = tmp_path / "digits" / "resnet8" / "classification" / "0"
    main(["gendd", *common, "--student", "resnet8", "--teacher", "resnet8", "--teacher-weights",
          str(teacher), "--width", "128", "--repeats", "4"])  # fmt: skip
    result = json.loads((tmp_path / "digits" / "resnet8_resnet8" / "gendd" / "0" / "result.json").read_text())
    assert result["last"]["probe"]["top1"] > 20


def test_dense_probe_computes_maps_on_gpu(tmp_path):
    flags = ["--dataset", "digits", "--student", "resnet8", "--teacher", "resnet8", "--teacher-weights", "random"]
    main(["kd", *flags, "--epochs", "1", "--dense-grid", "2", "--out", str(tmp_path / "run")])
    for name, values in (("images", torch.randint(256, (10, 32, 32))), ("masks", torch.arange(2).repeat(10, 32, 16))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number, pixels in enumerate(values.byte().numpy()):
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    programs("gendd", ["dense-probe", str(tmp_path / "run"), str(tmp_path / "data")])
    found = json.loads((tmp_path / "run" / "dense-probe-data.json").read_text())
    assert found["mean_iou"].keys() == {"student", "dense", "teacher"}


@pytest.mark.parametrize("flags", [(), ("--grad-checkpointing", "student")])
def test_two_processes_with_sync_bn_step_as_one(tmp_path, flags):
    """Gradients and running statistics are equal; without synchronization they differ."""
    alone = synchronized.step(0, 1, *flags)
    for flag in ("--sync-bn", "--no-sync-bn"):
        folder = tmp_path / flag.strip("-")
        folder.mkdir()
        torch.multiprocessing.spawn(synchronized.step_among, (2, str(folder), flag, *flags), nprocs=2)
        for rank in (0, 1):
            together = torch.load(folder / f"{rank}.pt", weights_only=True)
            same = all(torch.allclose(together[name], alone[name], rtol=1e-3, atol=1e-4) for name in alone)
            assert same == (flag == "--sync-bn")
