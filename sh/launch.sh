#!/usr/bin/env bash
# Starts a program, such as gendd_cifar train, by torchrun: on all GPUs of this machine, or on its CPU.
#   bash sh/launch.sh MODULE [arguments]
# Relative paths, of flags and of data/, pretrained/ and runs/, count from the folder you are in.
# The environment overrides what is found:
#   GPUS=2            use 2 GPUs of each machine
#   CPU_PROCS=2       use 2 processes on the CPU
#   NNODES=4 NODE_RANK=0 MASTER=host[:port]
#                     use several machines: give the same command on each. MASTER is the machine of rank 0 (default
#                     port: 29400). All see one folder of runs. Slurm's job step sets them, see sh/slurm.sh
#   MAX_RESTARTS=3    after a failure, start the processes of all machines again, at most 3 times (default: 0). They
#                     resume from the last checkpoint. Failures are crashes, kills and faults of disk, network or data
#                     workers (exit code 1). An error that only the user can correct (exit code 2) starts nothing again
#   PEER_TIMEOUT=600  seconds until a process that waits for the others gives up. It alone detects a machine that
#                     vanished. It must exceed the time of what the first process does alone (downloads, reports).
#                     Data workers that send nothing for nine tenths of it end the run too
set -euo pipefail
source "$(dirname "$0")/environment.sh"
if [ -z "${NNODES:-}" ] && [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ]; then
  if [ "${SLURM_STEP_NUM_TASKS:-}" != "${SLURM_STEP_NUM_NODES:-none}" ]; then
    echo "error: a Slurm job of several nodes: start one launcher on each, srun --ntasks-per-node=1" \
      "bash sh/launch.sh ..., or choose this node alone with NNODES=1" >&2
    exit 2
  fi
  # Jobs that share a node must not share a port.
  MASTER=${MASTER:-$(scontrol show hostnames "$SLURM_STEP_NODELIST" | sed -n 1p):$((29400 + SLURM_JOB_ID % 1000))}
  export MASTER NNODES=$SLURM_STEP_NUM_NODES NODE_RANK=$SLURM_NODEID
fi
exec "$python" -m gendd.launch "$@"
