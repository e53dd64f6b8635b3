#!/usr/bin/env bash
# Sets up, then distills a student on scikit-learn's handwritten digits, with and without labels, beside the same
# student alone and with logit distillation, 20 epochs each, and writes a report. What is already done is kept.
#   bash sh/quickstart.sh
#   FRESH=1 bash sh/quickstart.sh    starts over
set -euo pipefail
bash "$(dirname "$0")/setup.sh"
source "$(dirname "$0")/environment.sh"

runs=runs/quickstart
if [ "${FRESH:-0}" = 1 ]; then
  rm -rf "$runs"
fi
teacher_run=$runs/digits/resnet20/classification/0
student_run=$runs/digits/resnet8/classification/0
distilled=$runs/digits/resnet20_resnet8

data=(
  --dataset digits
  --runs "$runs"
  --hflip 0
  --crop-padding 2
  --eval-images 0
  --eval-every 5
)
supervised=(
  --optimizer sgd
  --lr 0.1
  --weight-decay 5e-4
  --schedule cosine
  --epochs 20
)
teacher=(
  --teacher resnet20
  --teacher-weights "$teacher_run"
)
stage1=(
  --epochs 5
  --lr 3e-3
  --schedule cosine
)
stage2=(
  --epochs 15
  --lr 3e-3
  --head-lr 3e-3
  --schedule cosine
  --warmup-epochs 1
  --width 256
)

train() {
  echo
  echo "== $1"
  bash sh/launch.sh gendd_cifar train "$2" "${data[@]}" "${@:3}"
}
train "teacher: resnet20, 20 epochs" classification --student resnet20 "${supervised[@]}"
train "student alone: resnet8, 20 epochs" classification --student resnet8 "${supervised[@]}"
train "student with logit distillation: 20 epochs" kd --student resnet8 "${teacher[@]}" "${supervised[@]}"
train "GenDD, stage 1 of 2: 5 epochs" pretrain --student resnet8 "${teacher[@]}" "${stage1[@]}"
train "GenDD, stage 2: 15 epochs" gendd --student resnet8 "${teacher[@]}" "${stage2[@]}" --after pretrain
train "GenDD without any label, stage 1 of 2: 5 epochs" pretrain --student resnet8 "${teacher[@]}" "${stage1[@]}" \
  --unlabeled --name pretrain-unlabeled
train "GenDD without any label, stage 2: 15 epochs" gendd --student resnet8 "${teacher[@]}" "${stage2[@]}" \
  --contraction 0 --unlabeled --after pretrain-unlabeled --name gendd-unlabeled

compared=("$student_run" "$distilled"/{kd,gendd,gendd-unlabeled}/0)
for run in "${compared[@]}"; do
  echo
  bash sh/evaluate.sh "$run"
done
echo
"$python" -m gendd.reporting "$teacher_run" "${compared[@]}" --output "$runs/report"
cat <<END

The report, with its pictures:  $runs/report/report.md
All runs:                       $runs/digits
Curves as they train:           $python -m tensorboard.main --logdir $runs
END
