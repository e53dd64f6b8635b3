#!/usr/bin/env bash
# Distills MobileNetV1 from resnet50 with GenDD on the unlabeled images of CC3M by the paper's recipe: stage 2 only.
# Published: 67.89 % top-1 (KL 51.60).
# Evaluation samples in 2 deterministic steps instead of the paper's 64 ancestral ones, which --paper sets.
#   bash sh/train_cc3m_resnet50_mobilenetv1_gendd.sh [flags]
# Flags override the values below: --seed 1, --dry-run, --data-root DIR and others. Relative paths count from the
# current folder. Run the same command again to resume.
# The shards of pixparse/cc3m-wds must be in data/cc3m/; --dataset PATTERN names others. Labels and captions are not
# used. ImageNet's val/, the test set, must be in data/imagenet/. The teacher has timm's published weights; without a
# network, --dry-run prints which file to put where.
# Unlike in the paper, a linear probe learns from the teacher's probabilities; it does not affect the student.
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
  --optimizer adamw
  --lr 2e-3
  --weight-decay 2e-2
  --decay head-exempt
  --schedule cosine
  --min-lr 1e-6
  --beta1 0.9
  --beta2-end 0.999
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
)

exec bash "$(dirname "$0")/launch.sh" gendd_imagenet train "${METHOD:-gendd}" "${recipe[@]}" "$@"
