#!/usr/bin/env bash
# Trains MobileNetV1 on the photographs of CC3M, which have no labels, by the teacher's probabilities alone: the paper's
# baseline, KL(teacher || student). Published: 51.60 % top-1 (GenDD 67.89).
#   bash sh/train_cc3m_resnet50_mobilenetv1_kl.sh [flags]
# Flags override the values below (--seed 1, --dry-run, --data-root DIR); paths in them count from the folder
# you are in. The same command again resumes.
# The shards are those of pixparse/cc3m-wds, in data/cc3m/; others go by --dataset PATTERN. No label and no caption is
# read. ImageNet's val/, which the student is tested on, lies in data/imagenet/; the teacher's weights are the ones that
# timm publishes; without a network, --dry-run says which file to put where.
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

bash "$(dirname "$0")/launch.sh" gendd_imagenet train kl "${recipe[@]}" "$@"
