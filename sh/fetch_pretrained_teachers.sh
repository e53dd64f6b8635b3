#!/usr/bin/env bash
# Downloads trained CIFAR-100 teachers into pretrained/ in the current folder. Interrupted downloads resume.
#   bash sh/fetch_pretrained_teachers.sh [NAME ...]    all published teachers if no NAME is given
# It tries RepDistiller's host first, one file per teacher, then mdistiller's archive of all, cifar_teachers.tar. You
# can also put this archive into pretrained/ yourself. Mirrors: REPDISTILLER_URL=, MDISTILLER_URL= (https:// or file://).
# Checksums are not published. On the first download the script saves the teacher's SHA-256 next to it and verifies it
# from then on.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

repdistiller=${REPDISTILLER_URL:-https://shape2prog.csail.mit.edu/repo}
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
  local get=(curl --fail --location --proto-redir "=https" --connect-timeout 15 --speed-limit 1 --speed-time 60 "$progress")
  get+=(--output "$3" "$1/$2")
  "${get[@]}" --continue-at - || case $? in
    22 | 33 | 36) # The partial file cannot be resumed.
      rm -f "$3"
      "${get[@]}" || give_up "$1"
      ;;
    *) give_up "$1" ;;
  esac
}

give_up() { # SOURCE: do not try it for the next file
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

is_noted() { # FILE NOTE: compare the SHA-256 with the note; write the note if it does not exist
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
  members=$(tar -tf "$archive" 2>/dev/null) ||
    refuse "$archive: truncated or not an archive; delete it and fetch it again"
  member=$(grep -m 1 -E "(^|/)${1}_vanilla/ckpt_epoch_240.pth$" <<<"$members") && tar -xOf "$archive" "$member" >"$2"
}

adopt() { # PART FILE: move the download to FILE, if it is a checkpoint
  is_checkpoint "$1" || {
    rm "$1"
    return 1
  }
  mkdir -p "$(dirname "$2")"
  is_noted "$1" "$2.sha256" || {
    rm "$1"
    refuse "$2: the download does not match $2.sha256 and was not kept; delete the .sha256 file to accept it"
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
  [ -f "$1.sha256" ] || is_checkpoint "$1" || refuse "$1: truncated or not a checkpoint; delete it and fetch it again"
  is_noted "$1" "$1.sha256" ||
    refuse "$1: does not match $1.sha256; delete the file to fetch it again, or the .sha256 file to accept it"
}

for url in "$repdistiller" "$mdistiller"; do
  [[ $url == https://* || $url == file://* ]] || refuse "$url: anyone on the way can change it; name https:// or file://"
done
[ $# -gt 0 ] || set -- "${published[@]}"
for name; do
  [[ " ${published[*]} " == *" $name "* ]] ||
    refuse "$name: not published; choose from ${published[*]}, or train it: bash sh/train_cifar100_teacher.sh $name"
done
mkdir -p pretrained
absent=0
for name; do
  file=pretrained/${name}_vanilla/ckpt_epoch_240.pth
  if [ -f "$file" ]; then
    check "$file"
  elif ! fetch "$name" "$file"; then
    echo "error: $name: neither $repdistiller nor $mdistiller delivered a checkpoint; fetch it later," \
      "or train it: bash sh/train_cifar100_teacher.sh $name" >&2
    absent=2
    continue
  fi
  echo "$name: $file"
done
exit $absent
