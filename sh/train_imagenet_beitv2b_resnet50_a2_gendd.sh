#!/usr/bin/env bash
# Distills resnet50 from BEiTv2-B on ImageNet with GenDD by the paper's recipe, with the augmentation of "A2": stage 1,
# then stage 2. Published: 82.01 % top-1 (a later release of the paper's).
# Evaluation samples in 2 deterministic steps instead of the paper's 64 ancestral ones, which --paper sets.
#   bash sh/train_imagenet_beitv2b_resnet50_a2_gendd.sh [flags]
# Flags override the values below: --seed 1, --dry-run, --data-root DIR, --dataset FOLDER and others. Relative paths
# count from the current folder. Run the same command again to resume. Runs with other names share stage 1.
# ImageNet, or a link to it, must be in data/imagenet/ (train/ and val/ with 1000 class folders each). The teacher has
# timm's published weights; without a network, --dry-run prints which file to put where.
# Color jitter comes first, then RandAugment. Stage 1 has the same augmentation with smaller crops.
# The teacher is large. On a small GPU, --teacher-chunk 64 limits the teacher's memory; --grad-accum-steps 4 and
# --grad-checkpointing student reduce the student's.
set -euo pipefail

pair=(
  --dataset imagenet
  --teacher beitv2_base
  --teacher-weights timm
  --student resnet50
  --batch-size 512
  --optimizer adamw
  --lr 2e-3
  --weight-decay 2e-2
  --decay head-exempt
  --schedule cosine
  --min-lr 1e-6
  --beta1 0.9
  --beta2-end 0.999
  --color-jitter 0.4
  --auto-augment rand-m7-n2-mstd0.5
  --mixup 0.1
  --cutmix 1.0
)

stage1=(
  --pretrain-name pretrain-a2
  --pretrain-epochs 20
  --pretrain-crop-scale 0.08 1
)

stage2=(
  --epochs 300
  --warmup-epochs 20
  --beta2-start 0.96
  --contraction 0.9
  --feature-mixup 0
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
  --name "${METHOD:-gendd}-a2"
)

exec bash "$(dirname "$0")/launch.sh" gendd_imagenet train "${METHOD:-gendd}" "${pair[@]}" "${stage1[@]}" "${stage2[@]}" "$@"
