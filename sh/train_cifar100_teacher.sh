#!/usr/bin/env bash
# Trains a network alone on CIFAR-100 by RepDistiller's protocol: a teacher, or a student to compare with.
#   bash sh/train_cifar100_teacher.sh NAME [flags]
# NAME is a CIFAR network such as resnet56. Flags override the protocol's values: --seed 1, --dry-run, --data-root DIR
# and others. Relative paths count from the current folder. To use the trained network as a teacher:
#   bash sh/train_cifar100_resnet56_resnet20_gendd.sh --teacher-weights runs/cifar100/resnet56/classification/0
# With --imbalance 0.01 (long-tailed training set) the run folder is runs/cifar100-lt0.01/resnet56/classification/0.
set -euo pipefail

name=${1:-}
if [[ -z $name || $name == -* ]]; then
  echo "error: NAME is missing: bash sh/train_cifar100_teacher.sh NAME [flags], such as resnet56" >&2
  exit 2
fi

exec bash "$(dirname "$0")/train_cifar100_baseline.sh" classification none "$name" "${@:2}"
