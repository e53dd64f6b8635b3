#!/usr/bin/env bash
# Distills a small network from a large one on a folder of images, without a label, a class or an evaluation set.
#   bash sh/distill_folder.sh FOLDER [flags]
# FOLDER holds images in any structure. Flags override the values below: another teacher (--teacher timm/..., hub:...,
# transformers:..., open_clip:...), another student, --epochs, --dry-run. The same command again resumes.
# Some images are held out: 2 %, but at least 50 or a tenth, and at most 1,000 (--holdout sets another share). On these the
# student's features are compared with the teacher's (cosine, explained variance, agreement of nearest neighbors). Each
# checkpoint writes the student to the folder student/ of the run, as timm loads it. With few images, --teacher-cache
# FOLDER saves the teacher's time.
set -euo pipefail

folder=${1:-}
if [[ -z $folder || $folder == -* ]]; then
  echo "error: which folder? bash sh/distill_folder.sh FOLDER [flags]" >&2
  exit 2
fi

# Ten steps per epoch or more, so a thousand in all: a power of two from 8 to 256, by the number of files.
batch=256
if [[ -d $folder ]]; then
  files=$(find -L "$folder" -type f | wc -l)
  while ((batch > 8 && batch * 10 > files * 9 / 10)); do batch=$((batch / 2)); done
fi

recipe=(
  --images "$folder"
  --teacher timm/vit_small_patch14_dinov2.lvd142m
  --student timm/mobilenetv4_conv_small
  --image-size 224
  --epochs 100
  --batch-size "$batch"
  --optimizer adamw
  --lr 2e-3
  --weight-decay 2e-2
  --schedule cosine
  --warmup-epochs 5
  --crop-scale 0.2 1
  --feature-mixup 0
  --token-dim 64
  --width 1024
  --repeats 16
  --eval-every 5
)

exec bash "$(dirname "$0")/launch.sh" gendd_imagenet train gendd "${recipe[@]}" "${@:2}"
