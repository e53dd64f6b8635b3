#!/usr/bin/env bash
# Creates .venv and installs requirements.lock, piplist.txt and the project into it, if not yet done.
#   bash sh/setup.sh
#   PYTHON=python3.12 bash sh/setup.sh    chooses the Python of a new .venv
#   VENV=path                             uses your environment instead, in all scripts, and installs nothing
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "${VENV:-}" ]; then
  exit 0
fi

refuse() {
  echo "error: $1" >&2
  exit 2
}

venv_python=.venv/bin/python
if ! "$venv_python" -c 'import pip' 2>/dev/null; then
  python=${PYTHON:-python3}
  command -v "$python" >/dev/null || refuse "$python: not found; install Python 3.11 or newer, or name it: PYTHON=..."
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    refuse "$("$python" --version) is too old; name a Python 3.11 or newer: PYTHON=python3.12 bash sh/setup.sh"
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    refuse "$python cannot create virtual environments; install its venv package (Debian, Ubuntu: python3-venv)"
  "$python" -m venv .venv
fi

# The state includes the folder, since an editable install points to it.
state=$(echo "$PWD" | cat - requirements.lock piplist.txt pyproject.toml | cksum)
if [ "$(cat .venv/installed 2>/dev/null)" != "$state" ]; then
  echo "installing the project and its dependencies into .venv (once; 1 to 5 minutes, mostly PyTorch)"
  install=("$venv_python" -m pip --disable-pip-version-check install)
  # One line per package.
  shown='s/^\(Collecting\|Downloading\|Installing\) \([^ ]*\).*/  \1 \2/p'
  "${install[@]}" --no-deps --require-hashes -r requirements.lock | sed -u -n "$shown"
  # The lock does not contain torch and torchvision.
  "${install[@]}" -r piplist.txt | sed -u -n "$shown"
  "${install[@]}" -qq --no-deps --no-build-isolation -e .
  echo "$state" >.venv/installed
  cat <<END
Installed. Next:
  bash sh/quickstart.sh        trains and compares five small networks, in minutes
  source .venv/bin/activate    once per shell, for commands such as python -m gendd and tensorboard
END
fi
