#!/usr/bin/env bash
# Evaluates a run or a checkpoint, by the teacher, the head and the linear probe, on all GPUs of this machine.
#   bash sh/evaluate.sh RUN_OR_CHECKPOINT [flags]
# With the paper's sampler, 100 ancestral steps (64 for ImageNet) and 5 samples:
#   bash sh/evaluate.sh runs/cifar100/resnet56_resnet20/gendd/0 --paper
# A run folder records its family and its networks. For a file, FAMILY names the family (gendd_cifar if not set), and
# flags name the networks:
#   FAMILY=gendd_imagenet bash sh/evaluate.sh FILE --student resnet18 --teacher resnet34 --teacher-weights timm
# Relative paths count from the current folder.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
export FAMILY=${FAMILY:-gendd_cifar}
exec bash "$root/sh/launch.sh" gendd evaluate "$@"
