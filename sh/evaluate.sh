#!/usr/bin/env bash
# Evaluates a run or a checkpoint: teacher, head read-out and linear probe, on all GPUs of this machine.
#   bash sh/evaluate.sh RUN_OR_CHECKPOINT [flags]
# With the paper's sampler, 100 or 64 (ImageNet) ancestral steps x 5 samples:
#   bash sh/evaluate.sh runs/cifar100/resnet56_resnet20/gendd/0 --paper
# A run folder knows its tree and its networks. For a file, TREE names the tree (gendd_cifar if it does not), and flags
# the networks:
#   TREE=gendd_imagenet bash sh/evaluate.sh FILE --student resnet18 --teacher resnet34 --teacher-weights timm
# Paths count from the folder you are in.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
export TREE=${TREE:-gendd_cifar}
exec bash "$root/sh/launch.sh" gendd evaluate "$@"
