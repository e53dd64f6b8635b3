#!/usr/bin/env bash
# Distills resnet20 from resnet56 on CIFAR-100 with GenDD in 15 epochs: not the paper's protocol, but a recipe for a
# short budget, without a stage 1. The README says what mattered.
#   bash sh/train_cifar100_resnet56_resnet20_gendd_short.sh [flags]
# Flags override the values below (--seed 1, --dry-run, --data-root DIR, --dataset FOLDER); paths in them count from the
# repository root. The same command again goes on. EPOCHS=60 in the environment makes it longer.
set -euo pipefail

recipe=(
  --dataset cifar100
  --teacher resnet56
  --teacher-weights pretrained/resnet56_vanilla/ckpt_epoch_240.pth
  --student resnet20
  --method "${METHOD:-gendd}"
  --epochs "${EPOCHS:-15}"
  --batch-size 128
  --optimizer muon
  --momentum 0.95
  --lr 2e-2
  --head-lr 3e-3
  --weight-decay 5e-2
  --schedule cosine
  --warmup-epochs 1
  --contraction 0.5
  --feature-mixup 0
  --width 448
  --eval-every 5
  --name "${METHOD:-gendd}-short"
)

bash "$(dirname "$0")/launch.sh" gendd_cifar train "${recipe[@]}" "$@"
