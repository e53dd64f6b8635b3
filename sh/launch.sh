#!/usr/bin/env bash
# Starts a program, such as gendd_cifar train, with torchrun on all GPUs of this machine, or on its CPU.
#   bash sh/launch.sh MODULE [arguments]
# Relative paths, including data/, pretrained/ and runs/, count from the current folder.
# Environment variables:
#   GPUS=2            use 2 GPUs of each machine
#   CPU_PROCS=2       use 2 processes on the CPU
#   NNODES=4 NODE_RANK=0 MASTER=host[:port]
#                     use several machines: run the same command on each. MASTER is the machine of rank 0 (port 29400
#                     if not given). All machines need the same runs folder. In a Slurm job step they are set
#                     automatically, see sh/slurm.sh
#   MAX_RESTARTS=3    after a failure, restart the processes of all machines, at most 3 times (0 if not set). They
#                     resume from the last checkpoint. Failures are crashes, kills and faults of disk, network or data
#                     workers (exit code 1). An error that the user must correct (exit code 2) causes no restart
#   PEER_TIMEOUT=600  seconds that a process waits for the others before it stops. Only this detects a machine that
#                     vanished. It must be longer than the first process works alone (downloads, reports). The run also
#                     stops if data workers send nothing for nine tenths of it
set -euo pipefail
source "$(dirname "$0")/environment.sh"
if [ -z "${NNODES:-}" ] && [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ]; then
  if [ "${SLURM_STEP_NUM_TASKS:-}" != "${SLURM_STEP_NUM_NODES:-none}" ]; then
    echo "error: this Slurm job has several nodes; start one launcher on each, srun --ntasks-per-node=1" \
      "bash sh/launch.sh ..., or use only this node with NNODES=1" >&2
    exit 2
  fi
  # Jobs that share a node must not share a port.
  MASTER=${MASTER:-$(scontrol show hostnames "$SLURM_STEP_NODELIST" | sed -n 1p):$((29400 + SLURM_JOB_ID % 1000))}
  export MASTER NNODES=$SLURM_STEP_NUM_NODES NODE_RANK=$SLURM_NODEID
fi
exec "$python" -m gendd.launch "$@"
