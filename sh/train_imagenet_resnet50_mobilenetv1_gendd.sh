#!/usr/bin/env bash
# Distills MobileNetV1 from resnet50 on ImageNet with GenDD by the paper's recipe: stage 1, then stage 2.
# Evaluation samples in 2 deterministic steps instead of the paper's 64 ancestral ones, which --paper sets.
# Published: 73.78 % top-1 by the head, 73.76 by a probe fitted afterwards (KD 71.44, IKL-KD 73.19, the teacher 76.16).
#   bash sh/train_imagenet_resnet50_mobilenetv1_gendd.sh [flags]
# Flags override the values below: --seed 1, --dry-run, --data-root DIR, --dataset FOLDER and others. Relative paths
# count from the current folder. Run the same command again to resume. Runs with other names share stage 1.
# ImageNet, or a link to it, must be in data/imagenet/ (train/ and val/ with 1000 class folders each). The teacher has
# timm's published weights; without a network, --dry-run prints which file to put where.
set -euo pipefail

pair=(
  --dataset imagenet
  --teacher resnet50
  --teacher-weights timm
  --student mobilenetv1
  --batch-size 512
  --optimizer adamw
  --lr 2e-3
  --weight-decay 2e-2
  --decay head-exempt
  --schedule cosine
  --min-lr 1e-6
  --beta1 0.9
  --beta2-end 0.999
)

stage1=(
  --pretrain-epochs 20
  --pretrain-crop-scale 0.08 1
)

stage2=(
  --epochs 100
  --warmup-epochs 20
  --beta2-start 0.96
  --contraction 0.9
  --feature-mixup 1
  --condition-dropout 0.2
  --token-dim 64
  --width 1024
  --depth 3
  --trunk-depth 0
  --prediction noise
  --timestep-density uniform
  --repeats 10
  --draw-scheme independent
  --sampling-steps 2
  --guidance 2
  --sampling-start 800
  --crop-scale 0.6 1
)

exec bash "$(dirname "$0")/launch.sh" gendd_imagenet train "${METHOD:-gendd}" "${pair[@]}" "${stage1[@]}" "${stage2[@]}" "$@"
