#!/usr/bin/env bash
# Trains a student on CIFAR-100 by a method that GenDD is compared with, by the protocol of RepDistiller and mdistiller.
#   bash sh/train_cifar100_baseline.sh METHOD TEACHER STUDENT [flags]
# METHOD: classification (the student alone), kd, dkd, ikl, feature, simkd, or kl (no labels). Flags override the values below.
set -euo pipefail

usage="usage: bash sh/train_cifar100_baseline.sh METHOD TEACHER STUDENT [flags], such as dkd resnet56 resnet20"
method=${1:?$usage}; teacher=${2:?$usage}; student=${3:?$usage}; shift 3
source "$(dirname "$0")/environment.sh"

case $student in
  MobileNetV2|ShuffleV1|ShuffleV2) lr=0.01 ;;
  *) lr=0.05 ;;
esac

recipe=(
  --dataset cifar100
  --method "$method"
  --student "$student"
  --epochs 240
  --batch-size 64
  --optimizer sgd
  --lr "$lr"
  --momentum 0.9
  --weight-decay 5e-4
  --schedule step
  --milestones 150 180 210
)

# Weights of the terms: DKD's of mdistiller (where it has none for a pair, those of the nearest), IKL-KD's of its paper.
case $method:$teacher:$student in
  classification:*) ;;
  dkd:resnet56:* | dkd:resnet110:*) weights=(--alpha 1 --beta 2) ;;
  *) ;;
esac
