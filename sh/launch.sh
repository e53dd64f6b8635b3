#!/usr/bin/env bash
# Starts a program, such as gendd_cifar train, with torchrun on all GPUs of this machine, or on its CPU.
#   bash sh/launch.sh MODULE [arguments]
# Relative paths, including data/, pretrained/ and runs/, count from the current folder. The variables GPUS, CPU_PROCS,
# NNODES, NODE_RANK, MASTER, MAX_RESTARTS and PEER_TIMEOUT are explained by python -m gendd launch --help.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
exec "$python" -m gendd.launch "$@"
