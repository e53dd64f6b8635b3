#!/usr/bin/env bash
# Distils resnet20 from resnet56 on CIFAR-100 with GenDD in 15 epochs: not the paper's protocol, but a recipe for a
# short budget (5 epochs of stage 1, 10 of stage 2). The README says what mattered.
#   bash sh/train_cifar100_resnet56_resnet20_gendd_short.sh [flags]
# Flags go to both stages and override the values below (--seed 1, --dry-run, --data-root DIR, --dataset FOLDER);
# paths in them count from the repository root. --name renames stage 2 only. The same command again goes on.
# EPOCHS=60 in the environment makes it longer; a third of them are stage 1.
set -euo pipefail
epochs=${EPOCHS:-15}

pair=(
  --dataset cifar100
  --teacher resnet56
  --teacher-weights pretrained/resnet56_vanilla/ckpt_epoch_240.pth
  --student resnet20
  --batch-size 128
  --optimizer muon
  --momentum 0.95
  --lr 1e-2
  --weight-decay 5e-2
  --schedule cosine
  --eval-every 2
)

stage1=(
  --method pretrain
  --epochs $((epochs / 3))
)

stage2=(
  --method "${METHOD:-gendd}"
  --after pretrain-short
  --epochs $((epochs - epochs / 3))
  --head-lr 3e-3
  --warmup-epochs 0.5
  --contraction 0.5
  --width 448
  --repeats 4
  --name "${METHOD:-gendd}-short"
)

launch=$(dirname "$0")/launch.sh
bash "$launch" gendd_cifar.train "${pair[@]}" "${stage1[@]}" "$@" --name pretrain-short
bash "$launch" gendd_cifar.train "${pair[@]}" "${stage2[@]}" "$@"
