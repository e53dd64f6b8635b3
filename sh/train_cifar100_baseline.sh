#!/usr/bin/env bash
# Trains a student on CIFAR-100 by another method, to compare with GenDD. The protocol is RepDistiller's and
# mdistiller's.
#   bash sh/train_cifar100_baseline.sh METHOD TEACHER STUDENT [flags], such as dkd resnet56 resnet20
# METHOD: classification (the student alone), kd, kd-head, dkd, ikl, dist, feature, srd, vkd, simkd, kl (no labels),
# gendd (the pair's script), or regression (GenDD's recipe with a deterministic head).
# Flags override the values below: --seed 1, --dry-run, --data-root DIR and others. Relative paths count from the
# current folder. Run the same command again to resume.
# Loss weights: DKD's are mdistiller's; IKL-KD's and DIST's are from their papers. No weights are published for other
# pairs (chosen here: DKD beta 8; IKL-KD alpha 1, beta 8), nor for feature, SRD and VkD.
# For logit standardization, add --logit-standardization --temperature 2 (its paper's temperature) to kd or dkd.
set -euo pipefail

if [[ $# -lt 3 || "$1$2$3" == *--* ]]; then
  echo "error: METHOD TEACHER STUDENT are missing: bash sh/train_cifar100_baseline.sh kd resnet56 resnet20" >&2
  exit 2
fi
method=$1 teacher=$2 student=$3
here=$(dirname "$0")

case $method in
  gendd | regression)
    script=$here/train_cifar100_${teacher}_${student}_gendd.sh
    if [[ ! -f $script ]]; then
      echo "error: $method $teacher $student: needs $script, which does not exist; choose another pair" >&2
      exit 2
    fi
    METHOD=$method exec bash "$script" "${@:4}"
    ;;
  classification) teacher_flags=() ;;
  *) teacher_flags=(--teacher "$teacher" --teacher-weights "pretrained/${teacher}_vanilla/ckpt_epoch_240.pth") ;;
esac
if [[ $method == kl ]]; then
  teacher_flags+=(--unlabeled)
fi

case $student in
  MobileNetV2 | ShuffleV1 | ShuffleV2) lr=0.01 ;;
  *) lr=0.05 ;;
esac

case $method:$teacher:$student in
  dkd:resnet56:resnet20 | dkd:resnet110:resnet32) weights=(--alpha 1 --beta 2) ;;
  dkd:wrn_40_2:wrn_* | dkd:vgg13:*) weights=(--alpha 1 --beta 6) ;;
  ikl:resnet56:resnet20) weights=(--alpha 1 --beta 4) ;;
  ikl:resnet110:resnet32 | ikl:ResNet50:MobileNetV2) weights=(--alpha 1 --beta 12) ;;
  ikl:resnet32x4:ShuffleV2) weights=(--alpha 3 --beta 12) ;;
  dkd:* | ikl:*) weights=(--alpha 1 --beta 8) ;;
  dist:*) weights=(--beta 2 --gamma 2) ;;
  feature:*) weights=(--feature-weight 8) ;;
  srd:* | vkd:*) weights=(--feature-weight 1) ;;
  kd:*) weights=(--label-share 0.1) ;;
  *) weights=() ;;
esac
case $method in
  dkd | ikl) weights+=(--temperature 4 --distill-warmup-epochs 20) ;;
  kd | kl | dist) weights+=(--temperature 4) ;;
esac

recipe=(
  --dataset cifar100
  --student "$student"
  --epochs 240
  --batch-size 64
  --optimizer sgd
  --lr "$lr"
  --momentum 0.9
  --weight-decay 5e-4
  --decay head-exempt
  --schedule step
  --milestones 150 180 210
)

exec bash "$here/launch.sh" gendd_cifar train "$method" "${teacher_flags[@]}" "${recipe[@]}" "${weights[@]}" "${@:4}"
