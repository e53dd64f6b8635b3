#!/usr/bin/env bash
# Distills resnet50 from resnext101_32x4d on ImageNet-LT with GenDD by the paper's recipe: stage 2 only, contraction 0.
# Published (top-1 %): KL-KD 48.31, IKL-KD 49.29, resnet50 alone 45.47; no result of GenDD.
# Evaluation samples in 2 deterministic steps instead of the paper's 64 ancestral ones, which --paper sets.
#   bash sh/train_imagenetlt_resnext101_resnet50_gendd.sh [flags]
# Flags override the values below: --seed 1, --dry-run, --data-root DIR and others. Relative paths count from the
# current folder. Run the same command again to resume.
# Train the teacher first: bash sh/train_imagenetlt_resnext101_teacher.sh. Its best epoch is used, as in the paper's
# release; --teacher-weights names another run or file.
# ImageNet must be in data/imagenet/, and the lists of ImageNet-LT (OpenLongTailRecognition-OLTR) in data/imagenet_lt/;
# --train-list and --eval-list name other lists. The accuracy is reported for all classes, and separately for classes
# with many, medium and few training images.
# Only the linear probe learns from labels.
set -euo pipefail

recipe=(
  --dataset imagenet
  --train-list data/imagenet_lt/ImageNet_LT_train.txt
  --eval-list data/imagenet_lt/ImageNet_LT_test.txt
  --teacher resnext101_32x4d
  --teacher-weights runs/imagenet/resnext101_32x4d/classification-lt/0/checkpoints/best.pt
  --student resnet50
  --batch-size 256
  --optimizer adamw
  --lr 2e-3
  --weight-decay 2e-1
  --decay head-exempt
  --schedule cosine
  --min-lr 1e-6
  --beta1 0.9
  --beta2-end 0.999
  --epochs 100
  --warmup-epochs 20
  --beta2-start 0.96
  --contraction 0
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
  --name "${METHOD:-gendd}-lt"
)

exec bash "$(dirname "$0")/launch.sh" gendd_imagenet train "${METHOD:-gendd}" "${recipe[@]}" "$@"
