#!/usr/bin/env bash
# For a GPU machine without a network: packs what it needs, and there runs the tests that need CUDA, measures the works
# of bench/suite.py, and trains runs side by side on one GPU, as long as the machine is at hand.
#   bash bench/gpu.sh pack FOLDER [DATASET [TEACHER]]   here: wheels, images and the teacher, in parts FOLDER/part-*
#   bash bench/gpu.sh run FOLDER [flags]                there, in a copy of this repository; flags go to all runs
# FOLDER counts from the repository root and has the same path there. The parts may come one after another: what needs
# no images is done with the first, training begins with the last. The same command again goes on with what is left. On
# a machine that has lost FOLDER, put $OUT of the last call back as FOLDER/out.
# The environment overrides what is found:
#   MEGABYTES=55        most that a part holds
#   HAVE="torch ..."    packages that the machine has, with all that they need: they are not packed
#   TARGET_PYTHON=3.12  Python of the machine
#   SECONDS_LEFT=570    time of this call; a run keeps its last whole epoch
#   STEPS="tests bench train"
#   METHODS="gendd kd regression classification"   runs of each of SEEDS="0", all side by side
#   EPOCHS=240          of each run; where there are two stages, of both together
#   OUT=FOLDER/out      what comes back: logs, figures, and the runs, as pieces runs.tar.* of 16 MB
#   BACK_MEGABYTES=64   most that these hold together: checkpoints of unfinished runs, in the order of METHODS, as many
#                       as fit; without its checkpoint a run can only go on where it is
set -euo pipefail

cd "$(dirname "$0")/.."
command=${1:-} folder=${2:-}
if [[ ! $command =~ ^(pack|run)$ || -z $folder ]]; then
  echo "error: which FOLDER? bash bench/gpu.sh pack FOLDER [DATASET [TEACHER]], or bash bench/gpu.sh run FOLDER" >&2
  exit 2
fi
shift 2

pack() {
  source sh/environment.sh
  local have wheels=$folder/packing/wheels
  read -ra have <<<"${HAVE-torch torchvision scikit-learn matplotlib}"
  rm -rf "$folder"/{packing,part-*}
  mkdir -p "$wheels"
  "$python" bench/gpu_wheels.py needed "${have[@]}" >"$folder/packing/wheels.txt"
  "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version "${TARGET_PYTHON:-3.12}" \
    --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 --platform manylinux1_x86_64 --dest "$wheels" -r "$folder/packing/wheels.txt"
  "$python" bench/gpu_parts.py pack "$folder" "${1:-cifar100}" \
    "${2:-pretrained/resnet56_vanilla/ckpt_epoch_240.pth}" "${MEGABYTES:-55}"
}

# Seconds until the runs must have ended, so that what they leave can still be put together.
left() { echo $((SECONDS_LEFT - SECONDS - 15)); }

install_wheels() {
  local lacking any=${VENV:+$VENV/bin/python}
  any=${any:-python3}
  export PYTHONPATH=$folder/site${PYTHONPATH:+:$PYTHONPATH}
  [[ $PYTHONPATH == /* ]] || PYTHONPATH=$PWD/$PYTHONPATH
  mapfile -t lacking < <("$any" bench/gpu_wheels.py lacking "$folder")
  if [ ${#lacking[@]} -gt 0 ]; then
    "$any" -m pip install --quiet --no-index --no-deps --target "$folder/site" "${lacking[@]}"
  fi
}

# NAME SECONDS COMMAND...: a step that is done once, where that much time is left, with its log in $OUT/NAME.txt.
once() {
  local name=$1 limit=$2 status=0
  if [[ " $STEPS " != *" $name "* || -e $folder/$name.done ]] || (($(left) < limit)); then
    return
  fi
  echo "== $name"
  timeout --kill-after=5 "$limit" "${@:3}" 2>&1 | tee "$OUT/$name.txt" || status=$?
  echo "$name: ended with $status after $SECONDS s" | tee -a "$OUT/$name.txt"
  touch "$folder/$name.done"
}

# METHOD SEED [flags]: one run with the optimizer of the short recipe, so that only the method differs.
train() {
  local time method=$1 seed=$2 script=(bash sh/train_cifar100_baseline.sh "$1" resnet56 resnet20)
  local flags=(--dataset "$data" --runs "$folder/runs" --seed "$seed" --eval-every 20 "${recipe[@]}")
  if [[ $method == gendd || $method == regression ]]; then
    export METHOD=$method
    script=(bash sh/train_cifar100_resnet56_resnet20_gendd_short.sh)
    flags+=(--lr 4e-2 --head-lr 6e-3)
  else
    flags+=(--decay matrices --epochs "$EPOCHS")
  fi
  if [ "$method" != classification ]; then
    flags+=(--teacher-weights "$teacher")
  fi
  time=$(left)
  # timeout takes 0 for no limit.
  if ((time <= 0)); then
    echo "no time is left"
    exit
  fi
  exec timeout --kill-after=5 "$time" "${script[@]}" "${flags[@]}" "${@:3}"
}

# All runs at once: a small student leaves most of a GPU idle between its many small kernels.
train_all() {
  local method seed
  mkdir -p "$folder/runs/logs"
  echo "== train: $METHODS, seeds $SEEDS, for $(left) s"
  echo "batch 512 for the short recipe's 128, and twice its learning rates: they grow with the root of the batch"
  for seed in $SEEDS; do
    for method in $METHODS; do
      (train "$method" "$seed" "$@") >"$folder/runs/logs/$method-$seed.txt" 2>&1 &
    done
  done
  wait
}

run() {
  SECONDS_LEFT=${SECONDS_LEFT:-570} STEPS=${STEPS:-tests bench train} OUT=${OUT:-$folder/out} SEEDS=${SEEDS:-0}
  METHODS=${METHODS:-gendd kd regression classification}
  export EPOCHS=${EPOCHS:-240}
  if [ ! -e "$folder/runs" ] && compgen -G "$folder/out/runs.tar.*" >/dev/null; then
    cat "$folder"/out/runs.tar.* | tar --extract --directory "$folder"
  fi
  mkdir -p "$OUT"
  install_wheels
  source sh/environment.sh
  once tests 180 "$python" -m pytest -v tests/gendd_cifar/test_cuda.py
  once bench 120 "$python" bench/suite.py --no-compile --folder "$OUT"
  if [[ " $STEPS " == *" train "* ]] && data=$("$python" bench/gpu_parts.py unpack "$folder"); then
    teacher=$(compgen -G "$folder/part-*/teacher.pth")
    local jobs device=CPU_PROCS
    jobs=$(wc -w <<<"$METHODS $SEEDS")
    if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
      device=GPUS
    fi
    export "$device=1" OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((($(nproc) + jobs - 1) / jobs))}
    recipe=(--batch-size 512 --optimizer muon --momentum 0.95 --lr 2e-2 --weight-decay 5e-2 --schedule cosine)
    train_all "$@"
    tail --lines=1 "$folder"/runs/logs/*.txt
    "$python" bench/gpu_parts.py collect "$folder/runs" "$OUT" "$METHODS" "${BACK_MEGABYTES:-64}"
  fi
}

"$command" "$@"
