#!/usr/bin/env bash
# Ablations of GenDD, one command each: a table, a CSV file and a picture of top-1 over the setting and over its cost.
# Of the training: trains a pair by its script once for every value, then draws. What is done is not trained again.
#   bash sh/ablate.sh contraction SCRIPT [flags]    lambda
#   bash sh/ablate.sh token-dim SCRIPT [flags]      width of a token, up to the whole feature as one
#   bash sh/ablate.sh repeats SCRIPT [flags]        K, with each scheme of timesteps
#   bash sh/ablate.sh feature-mixup SCRIPT [flags]          feature mixup, off and on
# such as
#   bash sh/ablate.sh contraction sh/train_cifar100_resnet56_resnet20_gendd_short.sh --seed 1
# Of a trained head: measures a run under many settings.
#   bash sh/ablate.sh guidance RUN [flags]
#   bash sh/ablate.sh sampling RUN [flags]          sampler, steps, samples, start
# The environment overrides:
#   VALUES="0 0.5"    the values that are trained
#   SEEDS="0 1 2"     train each with these seeds (0 unless given)
#   OUTPUT=FOLDER     where results go: beside the runs, or the run's own folder, unless given
set -euo pipefail
source "$(dirname "$0")/environment.sh"
setting=${1:-} what=${2:-}
case $setting in
  guidance | sampling)
    exec "$python" -m gendd sampling "$setting" "$what" ${OUTPUT:+--output "$OUTPUT"} "${@:3}"
    ;;
  contraction) values="0 0.25 0.5 0.75 0.9" ;;
  token-dim) values="" ;;
  repeats) values="4 8 16 30" ;;
  feature-mixup) values="0 1" ;;
  *)
    echo "error: $setting: choose one of contraction, token-dim, repeats, feature-mixup, guidance, sampling" >&2
    exit 2
    ;;
esac
if [ ! -f "$what" ]; then
  echo "error: $setting: which script trains the pair? ${what:-(none given)} is no file" >&2
  exit 2
fi
if [ -z "${VALUES:-$values}" ]; then
  # Doubled from 8 to the teacher's whole feature; the plan tells how wide that is.
  values=$(bash "$what" "${@:3}" --dry-run | sed -n 's/.* \([0-9]\+\) tokens\? of width \([0-9]\+\);.*/\1 \2/p' |
    awk 'END { for (d = 8; d < $1 * $2; d *= 2) if ($1 * $2 % d == 0) print d; print $1 * $2 }')
fi

runs=()
train() {
  local log run
  log=$(mktemp)
  bash "$what" "$@" | tee "$log"
  run=$(sed -n 's/^results in //p' "$log" | tail -n 1)
  rm "$log"
  if [ -n "$run" ]; then
    runs+=("$run")
  fi
}
for seed in ${SEEDS:-0}; do
  for value in ${VALUES:-$values}; do
    flags=("${@:3}" --seed "$seed" "--$setting" "$value")
    if [ "$setting" = repeats ]; then
      for scheme in independent shared paired; do
        train "${flags[@]}" --timesteps "$scheme" --name "gendd-repeats-$value-$scheme"
      done
    else
      train "${flags[@]}" --name "gendd-$setting-$value"
    fi
  done
done
# None where --dry-run was among the flags.
if [ ${#runs[@]} -gt 0 ]; then
  "$python" -m gendd.reporting.ablate "$setting" "${runs[@]}" \
    --output "${OUTPUT:-$(dirname "$(dirname "${runs[0]}")")/ablation}"
fi
