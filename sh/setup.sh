#!/usr/bin/env bash
# Makes .venv and installs piplist.txt and the project into it; nothing to do when neither has changed since.
#   bash sh/setup.sh
#   PYTHON=python3.12 bash sh/setup.sh    chooses the Python of a new .venv
#   VENV=path                             an environment of your own instead, here and in all scripts; left as it is
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
  command -v "$python" >/dev/null || refuse "$python: not found; install Python 3.10 or newer, or name it: PYTHON=..."
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    refuse "$("$python" --version) is too old; name a Python 3.10 or newer: PYTHON=python3.12 bash sh/setup.sh"
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    refuse "$python cannot make virtual environments; install its venv package (Debian, Ubuntu: python3-venv)"
  "$python" -m venv .venv
fi

# The folder counts as well: an editable install points to it.
state=$(echo "$PWD" | cat - piplist.txt pyproject.toml | cksum)
if [ "$(cat .venv/installed 2>/dev/null)" != "$state" ]; then
  echo "installing piplist.txt and the project into .venv (once; 1 to 5 minutes, most of them PyTorch)"
  install=("$venv_python" -m pip --disable-pip-version-check install)
  # What pip is at, a line each.
  "${install[@]}" -r piplist.txt | sed -u -n 's/^\(Collecting\|Downloading\|Installing\) \([^ ]*\).*/  \1 \2/p'
  "${install[@]}" -qq --no-deps --no-build-isolation -e .
  echo "$state" >.venv/installed
fi
