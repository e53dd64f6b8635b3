#!/usr/bin/env bash
# Example of a Slurm job: runs a script of this folder on all GPUs of the job's nodes, with one launcher per node.
#   sbatch --nodes=2 --gpus-per-node=8 sh/slurm.sh sh/train_cifar100_resnet56_resnet20_gendd.sh [flags]
# Submit it from the repository root. Add what your cluster requires (--partition, --account, modules, containers).
# After a killed process the launcher restarts it; after a failed node Slurm queues the job again. Two minutes before its
# time ends, and when Slurm takes its machines away, the run saves a checkpoint and the job is queued again. All resume
# from the last checkpoint and append to the same output file.
#SBATCH --job-name=gendd
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8  # cores per node, shared by all its GPUs
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@120  # to the processes of the run, not to this script
set -euo pipefail
export MAX_RESTARTS=${MAX_RESTARTS:-3}
code=0
srun --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 bash "$@" || code=$?
# 75: saved, start again.
if [[ $code == 75 ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
