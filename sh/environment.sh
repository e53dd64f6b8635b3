# shellcheck shell=bash
# The other scripts source this file. It sets $root, the checkout, and $python: from VENV, else from .venv (created by
# sh/setup.sh), else the active Python. It does not change the current folder, which relative paths count from.
root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
if [ -n "${VENV:-}" ]; then
  python=$VENV/bin/python
elif [ -x "$root/.venv/bin/python" ]; then
  python=$root/.venv/bin/python
else
  python=$(command -v python || command -v python3 || true)
fi
needed='import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("torch", "timm", "tyro"))))'
if ! "${python:-false}" -c "$needed" 2>/dev/null; then
  echo "error: ${python:-python} lacks what the project needs; run once: bash $root/sh/setup.sh" >&2
  exit 2
fi
