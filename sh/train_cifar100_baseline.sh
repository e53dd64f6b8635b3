#!/usr/bin/env bash
# Trains a student on CIFAR-100 by a method that GenDD is compared with: the protocol of RepDistiller and mdistiller.
#   bash sh/train_cifar100_baseline.sh METHOD TEACHER STUDENT [flags], such as dkd resnet56 resnet20
# METHOD: classification (the student alone), kd, dkd, ikl, dist, feature, srd, vkd, simkd, kl (no labels), gendd (the
# pair's own script), or regression (the same with a deterministic head). Flags override the values below (--seed 1, --dry-run,
# --data-root DIR); paths in them count from the folder you are in. The same command again resumes.
# Weights of the terms: DKD's are mdistiller's, IKL-KD's and DIST's are their papers'. Not stated, and our choice: those
# of other pairs (DKD: beta 8; IKL-KD: alpha 1, beta 8), of feature, SRD and VkD.
# Logit standardization, whose paper takes temperature 2: add --logit-standardization --temperature 2 to kd or dkd.
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
    [[ -f $script ]] || { echo "error: $method $teacher $student: there is no $script to take its recipe from" >&2; exit 2; }
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

bash "$here/launch.sh" gendd_cifar train "$method" "${teacher_flags[@]}" "${recipe[@]}" "${weights[@]}" "${@:4}"
