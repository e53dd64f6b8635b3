#!/usr/bin/env bash
# Fetches trained CIFAR-100 teachers into pretrained/ of the folder you are in. An interrupted download goes on where
# it stopped.
#   bash sh/fetch_pretrained_teachers.sh [NAME ...]    all published ones if none is named
# First from RepDistiller's host, a file each, then from mdistiller's archive of them all, cifar_teachers.tar, which
# may also be put into pretrained/ by hand. Mirrors: REPDISTILLER_URL=, MDISTILLER_URL=. No checksums are published:
# the SHA-256 of a teacher is noted beside it when it is first seen, and checked from then on.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

repdistiller=${REPDISTILLER_URL:-http://shape2prog.csail.mit.edu/repo}
mdistiller=${MDISTILLER_URL:-https://github.com/megvii-research/mdistiller/releases/download/checkpoints}
published=(wrn_40_2 resnet56 resnet110 resnet32x4 vgg13 ResNet50)
archive=pretrained/cifar_teachers.tar
given_up=" "
progress=--silent
[ ! -t 2 ] || progress=--progress-bar

refuse() {
  echo "error: $1" >&2
  exit 2
}

download() { # SOURCE PATH FILE
  [[ $given_up != *" $1 "* ]] || return 1
  local get=(curl --fail --location --connect-timeout 15 --speed-limit 1 --speed-time 60 "$progress")
  get+=(--output "$3" "$1/$2")
  "${get[@]}" --continue-at - || case $? in
    22 | 33 | 36) # What is there cannot be continued.
      rm -f "$3"
      "${get[@]}" || give_up "$1"
      ;;
    *) give_up "$1" ;;
  esac
}

give_up() { # SOURCE: it is not asked for the next file
  given_up+="$1 "
  return 1
}

is_checkpoint() { # FILE
  "$python" -c '
import sys
from pathlib import Path
from gendd.networks.checkpoint import read
read(Path(sys.argv[1]))' "$1" 2>/dev/null
}

is_noted() { # FILE NOTE: whether it has the SHA-256 of the note, which is written if there is none yet
  local sum
  sum=$(sha256sum "$1" | cut -d' ' -f1)
  [ -f "$2" ] || echo "$sum  ckpt_epoch_240.pth" >"$2"
  [ "$(cut -d' ' -f1 "$2")" = "$sum" ]
}

from_archive() { # NAME FILE
  local members member
  if [ ! -f "$archive" ]; then
    download "$mdistiller" cifar_teachers.tar "$archive.part" || return 1
    if ! tar -tf "$archive.part" >/dev/null 2>&1; then
      rm "$archive.part"
      give_up "$mdistiller"
      return
    fi
    mv "$archive.part" "$archive"
  fi
  members=$(tar -tf "$archive" 2>/dev/null) || refuse "$archive: truncated or no archive; delete it and fetch it again"
  member=$(grep -m 1 -E "(^|/)${1}_vanilla/ckpt_epoch_240.pth$" <<<"$members") && tar -xOf "$archive" "$member" >"$2"
}

adopt() { # PART FILE: what was fetched takes its place, if it is a checkpoint
  is_checkpoint "$1" || {
    rm "$1"
    return 1
  }
  mkdir -p "$(dirname "$2")"
  is_noted "$1" "$2.sha256" || {
    rm "$1"
    refuse "$2: what was fetched is not what $2.sha256 notes, and was not kept; delete the note to accept it"
  }
  mv "$1" "$2"
}

fetch() { # NAME FILE
  local part=pretrained/$1.part
  { [ -f "$archive" ] && from_archive "$1" "$part" && adopt "$part" "$2"; } ||
    { download "$repdistiller" "${2#pretrained/}" "$part" && adopt "$part" "$2"; } ||
    { from_archive "$1" "$part" && adopt "$part" "$2"; }
}

check() { # FILE
  [ -f "$1.sha256" ] || is_checkpoint "$1" || refuse "$1: truncated or no checkpoint; delete it and fetch it again"
  is_noted "$1" "$1.sha256" ||
    refuse "$1: not what $1.sha256 notes; delete the file to fetch it again, or the note to accept it"
}

[ $# -gt 0 ] || set -- "${published[@]}"
for name; do
  [[ " ${published[*]} " == *" $name "* ]] ||
    refuse "$name: not published; published are ${published[*]}; train it: bash sh/train_cifar100_teacher.sh $name"
done
mkdir -p pretrained
absent=0
for name; do
  file=pretrained/${name}_vanilla/ckpt_epoch_240.pth
  if [ -f "$file" ]; then
    check "$file"
  elif ! fetch "$name" "$file"; then
    echo "error: $name: no checkpoint came from $repdistiller or $mdistiller; fetch it later," \
      "or train it: bash sh/train_cifar100_teacher.sh $name" >&2
    absent=2
    continue
  fi
  echo "$name: $file"
done
exit $absent
