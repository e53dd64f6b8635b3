#!/usr/bin/env bash
# Compares methods on a pair of networks: trains each method with each seed, then writes a report of all runs.
#   bash sh/compare.sh DATA TEACHER STUDENT "METHODS" "SEEDS" [flags for all runs]
#   bash sh/compare.sh cifar100 resnet56 resnet20 "classification kd dkd gendd" "0 1 2"
# With flags instead of the pair's scripts, for any data and any method:
#   bash sh/compare.sh "METHODS" "SEEDS" -- --dataset FOLDER [flags]
# --help explains both, the flag --on slurm, and the variables GPUS, JOBS and OUTPUT.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
exec "$python" -m gendd compare "$@"
