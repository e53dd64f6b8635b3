#!/usr/bin/env bash
# Distills resnet20 from resnet56 on CIFAR-100 with GenDD in 15 epochs, without stage 1. This is a recipe for a small
# budget, not the paper's. docs/results/cifar100_tuned_15_epochs/README.md has its results.
#   bash sh/train_cifar100_resnet56_resnet20_gendd_short.sh [flags]
# Flags override the values below: --seed 1, --dry-run, --data-root DIR, --dataset FOLDER and others. Relative paths
# count from the current folder. Run the same command again to resume. EPOCHS=60 in the environment trains longer.
# METHOD=kd trains by another method, with the same optimizer and budget.
set -euo pipefail

method=${METHOD:-gendd} epochs=${EPOCHS:-15}
teacher=(
  --teacher resnet56
  --teacher-weights pretrained/resnet56_vanilla/ckpt_epoch_240.pth
)
recipe=(
  --dataset cifar100
  --student resnet20
  --epochs "$epochs"
  --batch-size 128
  --optimizer muon
  --momentum 0.95
  --lr 8e-2
  --head-lr 3e-3
  --weight-decay 5e-2
  --schedule cosine
  --warmup-epochs 1
  --eval-every 5
  --name "$method-short"
)
options=()
case $method in
  gendd | regression) options=(--contraction 0.5 --feature-mixup 0 --width 448 --probe-gradient 0.05) ;;
  kd) options=(--temperature 2) ;;
  kd-head) options=(--temperature 2 --width 448 --probe-gradient 1) ;;
  dkd) options=(--alpha 1 --beta 2 --distill-warmup-epochs 1.25) ;;
  ikl) options=(--alpha 1 --beta 4 --distill-warmup-epochs 1.25) ;;
  kl) options=(--unlabeled) ;;
  classification) teacher=() ;;
esac

exec bash "$(dirname "$0")/launch.sh" gendd_cifar train "$method" "${teacher[@]}" "${recipe[@]}" "${options[@]}" "$@"
