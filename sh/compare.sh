#!/usr/bin/env bash
# Compares methods on a pair of networks: trains each method with each seed, then writes a report of all runs.
#   bash sh/compare.sh DATA TEACHER STUDENT "METHODS" "SEEDS" [flags for all runs]
#   bash sh/compare.sh cifar100 resnet56 resnet20 "classification kd dkd gendd" "0 1 2"
# With flags instead of the pair's scripts, for any data and any method:
#   bash sh/compare.sh "METHODS" "SEEDS" -- --dataset FOLDER [flags]
#   bash sh/compare.sh "classification kd gendd" "0 1 2" -- --dataset digits --student resnet8 --teacher resnet14 ...
# Each method gets the flags that it supports, and the teacher if it uses one. The images are photographs, unless the
# data set is digits, cifar10 or cifar100, or FAMILY=gendd_cifar is set.
# With a pair, sh/train_DATA_TEACHER_STUDENT_METHOD.sh trains the method if it exists (such as gendd_short). Otherwise
# sh/train_DATA_baseline.sh METHOD TEACHER STUDENT trains it and lists the methods; classification is the student
# alone.
# Run the same command again to keep finished runs and train the rest. The report includes earlier runs, such as other
# seeds; OUTPUT/runs.txt lists all. A failed run does not stop the others; the last lines name it.
# Environment variables:
#   GPUS=2         number of GPUs of this machine, with one run on each (all if not set)
#   JOBS=2         number of simultaneous runs without a GPU (1 if not set)
#   OUTPUT=FOLDER  folder for the report and one log file per run (if not set: runs/comparisons/DATA_TEACHER_STUDENT,
#                  or runs/comparisons/DATA with plain flags)
# The flag --on slurm submits each run as a Slurm job with one GPU and a limit of HOURS=72. It needs pip install
# submitit; sbatch reads SBATCH_PARTITION and similar variables. --on local tests this on the current machine.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
exec "$python" -m gendd compare "$@"
