#!/usr/bin/env bash
# Installs the project, then trains a student on scikit-learn's handwritten digits for 6 epochs: alone, with logit
# distillation, and with GenDD with and without labels. Writes a report. Finished runs are kept.
#   bash sh/quickstart.sh
#   FRESH=1 bash sh/quickstart.sh    deletes earlier runs first
set -euo pipefail
bash "$(dirname "$0")/setup.sh"
source "$(dirname "$0")/environment.sh"

runs=runs/quickstart
if [ "${FRESH:-0}" = 1 ]; then
  rm -rf "$runs"
fi
teacher_run=$runs/digits/resnet14/classification/0
student_run=$runs/digits/resnet8/classification/0
distilled=$runs/digits/resnet14_resnet8

data=(
  --dataset digits
  --runs "$runs"
  --hflip 0
  --crop-padding 2
  --eval-images 0
  --eval-every 2
)
recipe=(
  --optimizer muon
  --momentum 0.95
  --lr 1e-2
  --head-lr 3e-3
  --weight-decay 5e-2
  --schedule cosine
  --warmup-epochs 1
  --epochs 6
)
teacher=(
  --teacher resnet14
  --teacher-weights "$teacher_run"
)
head=(
  --width 256
  --feature-mixup 0
)

step() {
  number=$((${number:-0} + 1))
  echo
  echo "== $number of 7: $1"
}
train() {
  step "$1"
  bash "$root/sh/launch.sh" gendd_cifar train "$2" "${data[@]}" "${recipe[@]}" "${@:3}"
}
echo "Seven steps, about three minutes on two cores (a run of 6 epochs takes 15 to 40 s). Results go to $runs."
train "train the teacher, a resnet14, from labels" classification --student resnet14
train "train the student alone, a resnet8, from labels" classification --student resnet8
train "train the student with logit distillation (KD)" kd --student resnet8 "${teacher[@]}"
train "train the student with GenDD" gendd --student resnet8 "${teacher[@]}" "${head[@]}" --contraction 0.5
train "train the student with GenDD, without labels" gendd --student resnet8 "${teacher[@]}" "${head[@]}" \
  --contraction 0 --unlabeled --name gendd-unlabeled

compared=("$student_run" "$distilled"/{kd,gendd,gendd-unlabeled}/0)
step "evaluate GenDD's student, by its head and by its linear probe"
bash "$root/sh/evaluate.sh" "$distilled/gendd/0"
step "write a report of all runs"
"$python" -m gendd report "$teacher_run" "${compared[@]}" --output "$runs/report"
cat <<END

Done in $((SECONDS / 60)) min $((SECONDS % 60)) s. Look at
  $runs/report/report.md      table and pictures: accuracy of each student
  $runs/report/features.png   effect of contraction on the features
  $runs/digits                all runs
  $python -m tensorboard.main --logdir $runs
END
