#!/usr/bin/env bash
# Ablations of GenDD. Each command writes a table, a CSV file and a picture of top-1 against the setting and its cost.
#   bash sh/ablate.sh contraction|token-dim|repeats|feature-mixup SCRIPT [flags]    trains a pair once per value
#   bash sh/ablate.sh contraction -- --dataset FOLDER [flags]                       the same without a script
#   bash sh/ablate.sh guidance|sampling RUN [flags]                                 evaluates a run with many values
# --help explains the settings, and the variables VALUES, SEEDS, METHOD and OUTPUT.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
exec "$python" -m gendd ablate "$@"
