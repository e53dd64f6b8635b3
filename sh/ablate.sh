#!/usr/bin/env bash
# Ablations of GenDD, one command each: a table, a CSV file and a picture of top-1 over the setting and over its cost.
# Of the training: trains a pair by its script once for every value, then draws. What is done is not trained again; a
# run that fails does not stop the others, and is named at the end.
#   bash sh/ablate.sh contraction SCRIPT [flags]    lambda
#   bash sh/ablate.sh token-dim SCRIPT [flags]      width of a token, up to the whole feature as one
#   bash sh/ablate.sh repeats SCRIPT [flags]        K, with each scheme of timesteps
#   bash sh/ablate.sh feature-mixup SCRIPT [flags]  off and on
# such as
#   bash sh/ablate.sh contraction sh/train_cifar100_resnet56_resnet20_gendd_short.sh --lr 1e-2
# Flags may take the place of the script, for any data: bash sh/ablate.sh contraction -- --dataset FOLDER [flags]
# (METHOD=regression for the control; FAMILY as for sh/compare.sh). Runs of earlier seeds and values are drawn too.
# Of a trained head: measures a run under many settings.
#   bash sh/ablate.sh guidance RUN [flags]
#   bash sh/ablate.sh sampling RUN [flags]          sampler, steps, samples, start
# The environment overrides:
#   VALUES="0 0.5"    the values that are trained
#   SEEDS="0 1 2"     train each with these seeds (0 unless given)
#   OUTPUT=FOLDER     where results and logs go: unless given, runs/ablations/SCRIPT (or DATA), or the run's own folder
#   GPUS, JOBS        so many runs at a time, as for sh/compare.sh, whose --on slurm goes here too
set -euo pipefail
source "$(dirname "$0")/environment.sh"
exec "$python" -m gendd ablate "$@"
