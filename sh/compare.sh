#!/usr/bin/env bash
# Compares methods on a pair of networks: trains each with each seed, then writes the report of all these runs.
#   bash sh/compare.sh DATA TEACHER STUDENT "METHODS" "SEEDS" [flags for all runs]
#   bash sh/compare.sh cifar100 resnet56 resnet20 "classification kd dkd gendd" "0 1 2"
# A method is trained by sh/train_DATA_TEACHER_STUDENT_METHOD.sh where there is one (such as gendd_short), else by
# sh/train_DATA_baseline.sh METHOD TEACHER STUDENT, which lists its methods; classification is the student alone.
# The same command again keeps what is done and goes on with the rest. A run that fails does not stop the others: it is
# named at the end. The environment overrides what is found:
#   GPUS=2         so many GPUs of this machine, each with a run of its own (all of them unless given)
#   JOBS=2         so many runs at a time where there is no GPU (1 unless given)
#   OUTPUT=FOLDER  for the report and a log file a run (runs/comparisons/DATA_TEACHER_STUDENT unless given)
set -euo pipefail
source "$(dirname "$0")/environment.sh"

if [ $# -lt 5 ]; then
  echo 'error: what is compared? bash sh/compare.sh DATA TEACHER STUDENT "METHODS" "SEEDS" [flags]' >&2
  exit 2
fi
export data=$1 teacher=$2 student=$3
read -ra methods <<<"$4"
read -ra seeds <<<"$5"
export output=${OUTPUT:-runs/comparisons/${data}_${teacher}_$student}

# The command that trains a method, in `command`.
command_of() {
  command=(bash "sh/train_${data}_${teacher}_${student}_$1.sh")
  if [ ! -f "${command[1]}" ]; then
    command=(bash "sh/train_${data}_baseline.sh" "$1" "$teacher" "$student")
  fi
}
for method in "${methods[@]}"; do
  command_of "$method"
  if [ ! -f "${command[1]}" ]; then
    echo "error: METHODS $method: neither sh/train_${data}_${teacher}_${student}_$method.sh nor ${command[1]} is" \
      "there; see ls sh/" >&2
    exit 2
  fi
done

mkdir -p "$output"
# Inherited by all that is started here: held until the last of it has ended, even if this script is killed alone.
exec 9>"$output/lock"
if ! flock --nonblock 9; then
  echo "error: OUTPUT $output: runs of this comparison are still at work; wait for them, or end them" >&2
  exit 2
fi
rm -f "$output"/*.run

gpus=()
if [ -z "${CPU_PROCS:-}" ]; then
  names='import os, torch; n = torch.cuda.device_count(); print(*os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(
  map(str, range(n)))).split(",")[: int(os.environ.get("GPUS", n))])'
  read -ra gpus <<<"$("$python" -c "$names")"
fi
export gpu_names="${gpus[*]}" jobs=${JOBS:-1}
if [ ${#gpus[@]} -gt 0 ]; then
  jobs=${#gpus[@]}
elif [ "$jobs" -gt 1 ]; then
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(($(nproc) / jobs > 0 ? $(nproc) / jobs : 1))}
fi

# One run: FLAGS... METHOD SEED. What it prints goes to a log, its folder, once it is complete, to a file beside.
train() {
  local method=${*: -2:1} seed=${*: -1} flags=("${@:1:$#-2}") gpus log
  log=$output/$method-$seed
  read -ra gpus <<<"$gpu_names"
  if [ ${#gpus[@]} -gt 0 ]; then
    export CUDA_VISIBLE_DEVICES=${gpus[SLOT]} GPUS=1
  fi
  command_of "$method"
  # These go on from the same stage 1: with one seed, they take turns.
  if [[ $method == gendd* || $method == regression* ]]; then
    exec 8>"$output/lock-$seed"
    flock 8
  fi
  echo "$method, seed $seed: begins${gpus:+ on GPU $CUDA_VISIBLE_DEVICES}, $log.log"
  if "${command[@]}" "${flags[@]}" --seed "$seed" >"$log.log" 2>&1; then
    sed -n 's/^results in //p' "$log.log" | tail -n 1 >"$log.run"
    echo "$method, seed $seed: complete"
  else
    echo "$method, seed $seed: failed, $(tail -n 1 "$log.log")"
  fi
}
export -f train command_of

for seed in "${seeds[@]}"; do
  printf '%s\n' "${methods[@]/%/ $seed}"
done | xargs --max-lines=1 --max-procs="$jobs" --process-slot-var=SLOT bash -c 'train "$@"' train "${@:6}" || true

runs=() failed=()
for seed in "${seeds[@]}"; do
  for method in "${methods[@]}"; do
    if [ -s "$output/$method-$seed.run" ]; then
      runs+=("$(cat "$output/$method-$seed.run")")
    else
      failed+=("$output/$method-$seed.log")
    fi
  done
done
if [ ${#runs[@]} -gt 0 ]; then
  "$python" -m gendd.reporting "${runs[@]}" --output "$output"
fi
if [ ${#failed[@]} -gt 0 ]; then
  echo "error: ${#failed[@]} of the runs failed: ${failed[*]}; mend what their logs say and give the command again" >&2
  exit 1
fi
