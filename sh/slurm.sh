#!/usr/bin/env bash
# A Slurm job, as an example: a script of this folder on all GPUs of the job's nodes, one launcher per node.
#   sbatch --nodes=2 --gpus-per-node=8 sh/slurm.sh sh/train_cifar100_resnet56_resnet20_gendd.sh [flags]
# Submit it from the repository root; add what your cluster asks for (--partition, --account, modules, containers).
# A killed process is started again in place. If a node fails, Slurm queues the job again. Either way the run goes on
# from its last checkpoint; the output is one file.
#SBATCH --job-name=gendd
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8  # the cores of a node's launcher: for all its GPUs
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
set -euo pipefail
export MAX_RESTARTS=${MAX_RESTARTS:-3}
exec srun --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 bash "$@"
