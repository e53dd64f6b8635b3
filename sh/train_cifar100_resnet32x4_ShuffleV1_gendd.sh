#!/usr/bin/env bash
# Distills ShuffleV1 from resnet32x4 on CIFAR-100 with GenDD: stage 1, then stage 2.
# No recipe is published for this pair. Its contraction comes from resnet32x4 > resnet8x4, which has the same teacher.
# Training uses 8 antithetic draws instead of the paper's 30 independent ones. Evaluation samples in 2 deterministic
# steps instead of the paper's 100 ancestral ones. --paper sets the paper's draws and sampler. The other values are
# the paper's.
# ShuffleV1's learning rate is 0.01 in stage 2 and 0.003 in stage 1, as in the paper's release.
#   bash sh/train_cifar100_resnet32x4_ShuffleV1_gendd.sh [flags]
# Flags override the values below: --seed 1, --dry-run, --data-root DIR, --dataset FOLDER and others. Relative paths
# count from the current folder. Run the same command again to resume. Runs with other names share stage 1.
set -euo pipefail

pair=(
  --dataset cifar100
  --teacher resnet32x4
  --teacher-weights pretrained/resnet32x4_vanilla/ckpt_epoch_240.pth
  --student ShuffleV1
  --batch-size 64
  --optimizer adamw
  --weight-decay 5e-2
  --decay head-exempt
  --beta1 0.9
  --beta2-end 0.999
)

stage1=(
  --pretrain-epochs 50
  --pretrain-lr 3e-3
)

stage2=(
  --epochs 240
  --lr 1e-2
  --schedule step
  --milestones 150 180 210
  --warmup-epochs 50
  --beta2-start 0.95
  --contraction 0.7
  --feature-mixup 1
  --condition-dropout 0.2
  --token-dim 64
  --width 1024
  --depth 3
  --trunk-depth 0
  --prediction noise
  --timestep-density uniform
  --repeats 8
  --draw-scheme antithetic
  --sampling-steps 2
  --guidance 2
  --sampling-start 800
)

exec bash "$(dirname "$0")/launch.sh" gendd_cifar train "${METHOD:-gendd}" "${pair[@]}" "${stage1[@]}" "${stage2[@]}" "$@"
