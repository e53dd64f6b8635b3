#!/usr/bin/env bash
# Distills resnet20 from vgg13 on CIFAR-100 with GenDD by the paper's recipe: stage 1, then stage 2.
# Evaluation samples in 2 deterministic steps instead of the paper's 100 ancestral ones, which --paper sets.
# Stage 2 starts from stage 1's best epoch, chosen on the test images, as in the paper's release. For all other pairs
# it starts from the last epoch.
#   bash sh/train_cifar100_vgg13_resnet20_gendd.sh [flags]
# Flags override the values below: --seed 1, --dry-run, --data-root DIR, --dataset FOLDER and others. Relative paths
# count from the current folder. Run the same command again to resume. Runs with other names share stage 1.
set -euo pipefail

pair=(
  --dataset cifar100
  --teacher vgg13
  --teacher-weights pretrained/vgg13_vanilla/ckpt_epoch_240.pth
  --student resnet20
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
  --eval-every 1
  --eval-images 0
  --pretrain-best
)

stage2=(
  --epochs 240
  --lr 1e-3
  --schedule step
  --milestones 150 180 210
  --warmup-epochs 50
  --beta2-start 0.95
  --contraction 0.9
  --feature-mixup 1
  --condition-dropout 0.2
  --token-dim 64
  --width 1024
  --depth 3
  --trunk-depth 0
  --prediction noise
  --timestep-density uniform
  --repeats 30
  --draw-scheme independent
  --sampling-steps 2
  --guidance 2
  --sampling-start 800
)

exec bash "$(dirname "$0")/launch.sh" gendd_cifar train "${METHOD:-gendd}" "${pair[@]}" "${stage1[@]}" "${stage2[@]}" "$@"
