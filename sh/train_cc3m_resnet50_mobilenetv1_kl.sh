#!/usr/bin/env bash
# Trains MobileNetV1 on the unlabeled images of CC3M from the teacher's probabilities only: the paper's baseline,
# KL(teacher || student). Published: 51.60 % top-1 (GenDD 67.89).
#   bash sh/train_cc3m_resnet50_mobilenetv1_kl.sh [flags]
# Flags override the values below: --seed 1, --dry-run, --data-root DIR and others. Relative paths count from the
# current folder. Run the same command again to resume.
# The shards of pixparse/cc3m-wds must be in data/cc3m/; --dataset PATTERN names others. Labels and captions are not
# used. ImageNet's val/, the test set, must be in data/imagenet/. The teacher has timm's published weights; without a
# network, --dry-run prints which file to put where.
set -euo pipefail

recipe=(
  --dataset 'data/cc3m/cc3m-train-{0000..0575}.tar'
  --eval-dataset imagenet
  --unlabeled
  --teacher resnet50
  --teacher-weights timm
  --student mobilenetv1
  --epochs 100
  --steps-per-epoch 5500
  --batch-size 512
  --optimizer sgd
  --lr 0.2
  --momentum 0.9
  --weight-decay 1e-4
  --decay head-exempt
  --schedule cosine
  --min-lr 1e-6
  --temperature 1
  --warmup-epochs 10
  --crop-scale 0.6 1
)

exec bash "$(dirname "$0")/launch.sh" gendd_imagenet train kl "${recipe[@]}" "$@"
