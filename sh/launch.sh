#!/usr/bin/env bash
# Starts a program, such as gendd_cifar train, on all GPUs of this machine (on the CPU if there is none).
#   bash sh/launch.sh MODULE [arguments]
# Relative paths count from the folder you are in: those of flags, and data/, pretrained/ and runs/.
# The environment overrides what is found:
#   GPUS=2            so many GPUs of each machine
#   CPU_PROCS=2       so many processes on the CPU
#   NNODES=4 NODE_RANK=0 MASTER=host[:port]
#                     several machines, the same command on each; rank 0 is the master (port 29500 if none is given);
#                     all see one folder of runs. sh/slurm.sh does it for Slurm
#   MAX_RESTARTS=3    after a failure, start the processes of all machines again, so many times (0 unless given): they
#                     go on from the last checkpoint. Failures are crashes, kills and faults of disk, network or data
#                     workers (exit code 1, one line); what the user must mend (exit code 2) is not tried again
#   PEER_TIMEOUT=600  seconds until a process that waits for the others gives them up. Only so is a machine noticed that
#                     vanished; but the first process must not be longer at what it does alone (downloads, reports).
#                     Data workers that send nothing for nine tenths of it are given up too
set -euo pipefail
source "$(dirname "$0")/environment.sh"
exec "$python" -m gendd.launch "$@"
