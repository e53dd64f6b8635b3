#!/usr/bin/env bash
# Trains resnext101_32x4d alone on ImageNet-LT, the teacher of the paper's long-tailed pairs.
#   bash sh/train_imagenetlt_resnext101_teacher.sh [flags]
# Flags override the values below: --seed 1, --dry-run, --data-root DIR and others. Relative paths count from the
# current folder. Run the same command again to resume.
# ImageNet must be in data/imagenet/, and the lists of ImageNet-LT (OpenLongTailRecognition-OLTR) in data/imagenet_lt/;
# --train-list and --eval-list name other lists. The accuracy is reported for all classes, and separately for classes
# with many, medium and few training images.
# --student resnet50 trains a student alone in the same way (published top-1 %: resnet50 45.47, resnet18 41.15).
set -euo pipefail

recipe=(
  --dataset imagenet
  --train-list data/imagenet_lt/ImageNet_LT_train.txt
  --eval-list data/imagenet_lt/ImageNet_LT_test.txt
  --student resnext101_32x4d
  --epochs 100
  --batch-size 256
  --optimizer sgd
  --lr 0.1
  --momentum 0.9
  --weight-decay 5e-4
  --decay head-exempt
  --schedule cosine
  --warmup-epochs 10
  --crop-scale 0.08 1
  --name classification-lt
)

exec bash "$(dirname "$0")/launch.sh" gendd_imagenet train classification "${recipe[@]}" "$@"
