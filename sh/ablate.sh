#!/usr/bin/env bash
# Ablations of GenDD. Each command writes a table, a CSV file and a picture of top-1 against the setting and its cost.
# Training settings: trains a pair by its script once per value. Finished runs are kept. A failed run does not stop the
# others; the last lines name it.
#   bash sh/ablate.sh contraction SCRIPT [flags]    lambda
#   bash sh/ablate.sh token-dim SCRIPT [flags]      width of a token, up to the whole feature as one
#   bash sh/ablate.sh repeats SCRIPT [flags]        K, with each scheme of timesteps
#   bash sh/ablate.sh feature-mixup SCRIPT [flags]  off and on
# For example:
#   bash sh/ablate.sh contraction sh/train_cifar100_resnet56_resnet20_gendd_short.sh --lr 1e-2
# Flags can replace the script, for any data: bash sh/ablate.sh contraction -- --dataset FOLDER [flags]
# METHOD=regression runs the control. FAMILY is as for sh/compare.sh. The picture includes runs of earlier seeds and
# values.
# Sampling settings: evaluates a trained run with many settings.
#   bash sh/ablate.sh guidance RUN [flags]
#   bash sh/ablate.sh sampling RUN [flags]          sampler, steps, samples, start
# Environment variables:
#   VALUES="0 0.5"    values to train with
#   SEEDS="0 1 2"     seeds to train each value with (one, seed 0, if not set)
#   OUTPUT=FOLDER     folder for results and logs (if not set: runs/ablations/SCRIPT or DATA, or the run's folder)
#   GPUS, JOBS        number of simultaneous runs, as for sh/compare.sh; --on slurm works here too
set -euo pipefail
source "$(dirname "$0")/environment.sh"
exec "$python" -m gendd ablate "$@"
