#!/usr/bin/env bash
# Compares methods on a pair of networks: trains each with each seed, then writes the report of all these runs.
#   bash sh/compare.sh DATA TEACHER STUDENT "METHODS" "SEEDS" [flags for all runs]
#   bash sh/compare.sh cifar100 resnet56 resnet20 "classification kd dkd gendd" "0 1 2"
# With flags in place of the pair's scripts, for any data and any method:
#   bash sh/compare.sh "METHODS" "SEEDS" -- --dataset FOLDER [flags]
#   bash sh/compare.sh "classification kd gendd" "0 1 2" -- --dataset digits --student resnet8 --teacher resnet14 ...
# Each method takes the options that it has, and the teacher if it learns from one. The images are photographs, unless
# the data set is digits, cifar10 or cifar100, or FAMILY=gendd_cifar says so.
# Of a pair, a method is trained by sh/train_DATA_TEACHER_STUDENT_METHOD.sh where there is one (such as gendd_short), else by
# sh/train_DATA_baseline.sh METHOD TEACHER STUDENT, which lists its methods; classification is the student alone.
# The same command again keeps what is done and trains the rest. The report holds earlier runs too, such as those of
# other seeds: OUTPUT/runs.txt lists them. A run that fails does not stop the others: the end names it. The environment
# overrides what is found:
#   GPUS=2         so many GPUs of this machine, each with a run of its own (all of them unless given)
#   JOBS=2         so many runs at a time where there is no GPU (1 unless given)
#   OUTPUT=FOLDER  for the report and a log file a run (unless given: runs/comparisons/DATA_TEACHER_STUDENT,
#                  or runs/comparisons/DATA with plain flags)
# With --on slurm among the flags the runs become Slurm jobs of one GPU each, of at most HOURS=72 (pip install submitit;
# sbatch reads SBATCH_PARTITION and the like); --on local tries that on this machine.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
exec "$python" -m gendd compare "$@"
