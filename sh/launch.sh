#!/usr/bin/env bash
# Starts a program, such as gendd_cifar.train, on all GPUs of this machine (on the CPU if there is none).
#   bash sh/launch.sh MODULE [flags]
# Relative paths in the flags count from the repository root. The environment overrides what is found:
#   GPUS=2            so many GPUs of each machine
#   CPU_PROCS=2       so many processes on the CPU
#   NNODES=4 NODE_RANK=0 MASTER=host[:port]
#                     several machines, the same command on each; rank 0 is the master (port 29500 if none is given)
# In a Slurm job of several nodes: srun --ntasks-per-node=1 bash sh/launch.sh MODULE [flags]
set -euo pipefail
source "$(dirname "$0")/environment.sh"
exec "$python" -m gendd.launch "$@"
