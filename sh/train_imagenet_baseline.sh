#!/usr/bin/env bash
# Trains a student on ImageNet or ImageNet-LT by another method, to compare with GenDD.
#   bash sh/train_imagenet_baseline.sh METHOD TEACHER STUDENT [flags], such as dkd resnet34 resnet18
# METHOD: classification (the student alone), kd, kd-head, dkd, ikl, dist, feature, srd, vkd, simkd, gendd (the pair's
# script), or regression (GenDD's recipe with a deterministic head).
# The teacher determines the recipe:
#   resnext101_32x4d             ImageNet-LT; train it first: bash sh/train_imagenetlt_resnext101_teacher.sh
#   beitv2_base, beitv2_large    "A2", or "A1" with RECIPE=a1
#   others                       100 epochs of SGD
# Flags override the values below: --seed 1, --dry-run, --data-root DIR and others. Relative paths count from the
# current folder. Run the same command again to resume.
# Published (top-1 %):
#   resnet34 > resnet18        KD 71.24, IKL-KD 71.91
#   resnet50 > mobilenetv1     KD 71.44, IKL-KD 73.19
#   beitv2_large > resnet50    KD 80.89, DKD 80.77 (A2); KD 81.68, DKD 81.83 (A1)
#   ImageNet-LT, resnet50      alone 45.47, KD 48.31, IKL-KD 49.29
#   ImageNet-LT, resnet18      alone 41.15, KD 44.32, IKL-KD 45.21
# KD and DKD with 100 epochs are mdistiller's; DIST's weights are from its paper. The following values are not
# published and were chosen here: IKL-KD's weights, the optimizer of "A1" and "A2" (as in the GenDD scripts), and all
# weights and temperatures for "A1", "A2" and ImageNet-LT.
set -euo pipefail

if [[ $# -lt 3 || "$1$2$3" == *--* ]]; then
  echo "error: METHOD TEACHER STUDENT are missing: bash sh/train_imagenet_baseline.sh kd resnet34 resnet18" >&2
  exit 2
fi
method=$1 teacher=$2 student=$3
here=$(dirname "$0")

case $method:$teacher in
  kd:* | kd-head:*) weights=(--temperature 1 --label-share 0.5) ;;
  dkd:resnet34) weights=(--temperature 1 --alpha 1 --beta 0.5 --distill-warmup-epochs 1) ;;
  dkd:*) weights=(--temperature 1 --alpha 1 --beta 2 --distill-warmup-epochs 1) ;;
  ikl:*) weights=(--temperature 1 --alpha 1 --beta 1 --distill-warmup-epochs 1) ;;
  dist:*) weights=(--temperature 1 --beta 2 --gamma 2) ;;
  feature:* | srd:* | vkd:*) weights=(--feature-weight 1) ;;
  *) weights=() ;;
esac

sgd=(--optimizer sgd --momentum 0.9 --decay head-exempt --crop-scale 0.08 1)
case $teacher in
  resnext101_32x4d)
    script=imagenetlt_resnext101
    teacher_flags=(--teacher-weights runs/imagenet/resnext101_32x4d/classification-lt/0/checkpoints/best.pt)
    recipe=(
      "${sgd[@]}"
      --train-list data/imagenet_lt/ImageNet_LT_train.txt
      --eval-list data/imagenet_lt/ImageNet_LT_test.txt
      --epochs 100
      --batch-size 256
      --lr 0.1
      --weight-decay 5e-4
      --schedule cosine
      --warmup-epochs 10
      --name "$method-lt"
    )
    ;;
  beitv2_*)
    case $teacher in
      beitv2_base) script=imagenet_beitv2b ;;
      beitv2_large) script=imagenet_beitv2l ;;
    esac
    teacher_flags=(--teacher-weights timm)
    recipe=(
      --batch-size 512
      --optimizer adamw
      --lr 2e-3
      --decay head-exempt
      --schedule cosine
      --min-lr 1e-6
      --warmup-epochs 20
      --crop-scale 0.6 1
      --cutmix 1.0
      --color-jitter 0.4
      --auto-augment rand-m7-n2-mstd0.5
      --name "$method-${RECIPE:-a2}"
    )
    case ${RECIPE:-a2} in
      a1) recipe+=(--epochs 600 --weight-decay 1e-2 --mixup 0.2 --label-smoothing 0.1) ;;
      a2) recipe+=(--epochs 300 --weight-decay 2e-2 --mixup 0.1) ;;
      *) echo "error: RECIPE=$RECIPE: unknown; choose a1 or a2" >&2; exit 2 ;;
    esac
    ;;
  *)
    script=imagenet_$teacher
    teacher_flags=(--teacher-weights timm)
    recipe=(
      "${sgd[@]}"
      --epochs 100
      --batch-size 512
      --lr 0.2
      --weight-decay 1e-4
      --schedule step
      --milestones 30 60 90
    )
    ;;
esac

case $method in
  classification) teacher_flags=() ;;
  gendd | regression)
    [[ $teacher == beitv2_* ]] && student+=_${RECIPE:-a2}
    script=$here/train_${script}_${student}_gendd.sh
    if [[ ! -f $script ]]; then
      echo "error: $method $teacher $student: needs $script, which does not exist; choose another pair" >&2
      exit 2
    fi
    METHOD=$method exec bash "$script" "${@:4}"
    ;;
  *) teacher_flags+=(--teacher "$teacher") ;;
esac

exec bash "$here/launch.sh" gendd_imagenet train "$method" --dataset imagenet --student "$student" \
  "${teacher_flags[@]}" "${recipe[@]}" "${weights[@]}" "${@:4}"
