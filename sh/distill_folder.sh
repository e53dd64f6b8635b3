#!/usr/bin/env bash
# Distills a small network from a large one on a folder of images, without labels, classes or an evaluation set.
#   bash sh/distill_folder.sh FOLDER [flags]
# FOLDER holds images, at any depth. Flags override the values below: --teacher (timm/..., hub:..., transformers:...,
# open_clip:...; repeated for several teachers), --student, --dry-run and others. Run the same command again to resume.
# STEPS=5000 in the environment trains for about 5,000 steps; METHOD=gendd trains by GenDD. Without METHOD a linear layer
# predicts the teacher's feature: it came closest to the teacher in docs/results/folder_cifar100/README.md, and costs least.
# 2 % of the images are held out, but at least 50 or a tenth, and at most 1,000; --holdout sets another share. On these
# images the student's features are compared with the teacher's: cosine, explained variance, agreement of nearest
# neighbors. Each checkpoint also writes the student to student/ in the run folder, in timm's format. With few images,
# --teacher-cache FOLDER saves the teacher's time.
set -euo pipefail

folder=${1:-}
if [[ -z $folder || $folder == -* ]]; then
  echo "error: FOLDER is missing: bash sh/distill_folder.sh FOLDER [flags]" >&2
  exit 2
fi

steps=${STEPS:-20000} method=${METHOD:-regression}
if [[ ! $steps =~ ^[1-9][0-9]*$ ]]; then
  echo "error: STEPS=$steps: not a number of steps; give a whole number from 1 on" >&2
  exit 2
fi
# Batch size: a power of two from 8 to 256 that gives at least ten steps per epoch, estimated from the number of files.
# Epochs: as many as give the steps. Shards and downloads have no files to count.
batch=256 epochs=100
if [[ -d $folder ]]; then
  # find fails at a loop of links, which the training leaves out.
  files=$({ find -L "$folder" -type f 2>/dev/null || true; } | wc -l)
  while ((batch > 8 && batch * 10 > files * 9 / 10)); do batch=$((batch / 2)); done
  epochs=$((files ? (steps * batch + files - 1) / files : 1))
fi

# Each --teacher among the flags names one teacher.
teacher=(--teacher timm/vit_small_patch14_dinov2.lvd142m)
for flag in "${@:2}"; do
  if [[ $flag == --teacher || $flag == --teacher=* ]]; then teacher=(); fi
done

recipe=(
  --images "$folder"
  "${teacher[@]}"
  --student timm/mobilenetv4_conv_small
  --image-size 224
  --epochs "$epochs"
  --batch-size "$batch"
  --optimizer adamw
  --lr 2e-3
  --weight-decay 2e-2
  --schedule cosine
  --warmup-epochs "$(((epochs + 19) / 20))"
  --crop-scale 0.2 1
  --eval-every "$(((epochs + 19) / 20))"
)
options=()
case $method in
  regression) options=(--predictor linear --feature-mixup 0) ;;
  gendd) options=(--token-dim 64 --width 1024 --repeats 16 --feature-mixup 0 --probe-gradient 1) ;;
esac

exec bash "$(dirname "$0")/launch.sh" gendd_imagenet train "$method" "${recipe[@]}" "${options[@]}" "${@:2}"
