#!/usr/bin/env bash
# Simulates two hosts, alpha and beta, as network namespaces of this machine. During an epoch beta loses its cable and
# its power, without a message to alpha, and later comes back. The run must end like an undisturbed one, bit for bit.
#   bash tests/two_hosts.sh FOLDER     (an empty folder for logs and runs)
# Exits with code 77 and the reason if the machine does not allow this.
set -euo pipefail

isolated=(unshare --map-root-user --net --mount --pid --fork --kill-child --mount-proc)
if [ -z "${ISOLATED:-}" ]; then
  if ! reason=$({ command -v ip >/dev/null || { echo "the command ip is missing"; false; }; } && "${isolated[@]}" ip netns 2>&1); then
    echo "skipped: no network namespaces here: $reason"
    exit 77
  fi
  # Hosts, cable and programs end with this process.
  ISOLATED=1 exec "${isolated[@]}" bash "$0" "$@"
fi

folder=$(realpath "$1")
source "$(dirname "$0")/../sh/environment.sh"
cd "$root"
export PYTHONPATH=$root:$root/tests/toys OMP_NUM_THREADS=1
flags=(
  --dataset digits --student toy:network --epochs 3 --precision fp32 --hflip 0 --crop-padding 1
)

fail() {
  echo "failed: $1"
  tail -n 40 "$folder"/*.log
  exit 1
}

# await FILE WORDS: wait until the file contains the words.
await() {
  for _ in {1..1800}; do
    if grep -qs -- "$2" "$1"; then return; fi
    sleep 0.1
  done
  fail "timed out waiting for $*"
}

# start HOST RANK LOG: start the host's launcher in the background.
start() {
  ip netns exec "$1" env NNODES=2 NODE_RANK="$2" MASTER=10.0.0.1 CPU_PROCS=1 GLOO_SOCKET_IFNAME=cable \
    PEER_TIMEOUT=15 MAX_RESTARTS=3 FAULT=hang FAULT_MARK="$folder/mark" \
    bash sh/launch.sh faulty classification "${flags[@]}" --runs "$folder/parts" >"$folder/$3.log" 2>&1 &
}

mount -t tmpfs none /run # for ip netns
ip netns add alpha
ip netns add beta
ip link add cable netns alpha type veth peer name cable netns beta
ip -n alpha address add 10.0.0.1/24 dev cable
ip -n beta address add 10.0.0.2/24 dev cable
for host in alpha beta; do
  ip -n $host link set lo up
  ip -n $host link set cable up
done

start alpha 0 alpha
alpha=$!
start beta 1 beta
beta=$!
await "$folder/mark" failed
ip -n beta link set cable down
ip netns pids beta | xargs kill -KILL
wait $beta 2>/dev/null || true

ip link set lo up
CPU_PROCS=2 bash sh/launch.sh gendd_cifar train classification "${flags[@]}" --runs "$folder/whole" >"$folder/whole.log" 2>&1 ||
  fail "the undisturbed run"

await "$folder/alpha.log" "starting again"
ip -n beta link set cable up
start beta 1 beta_again
wait $! || fail "beta, after it came back"
wait $alpha || fail alpha
await "$folder/alpha.log" "resuming after epoch 1"
run=digits/toy.network/classification/0/student.safetensors
# Compare tensors, not files: the order of the files' metadata is not fixed.
same='import sys
from safetensors.torch import load_file
one, other = map(load_file, sys.argv[1:])
sys.exit(one.keys() != other.keys() or not all(one[name].equal(other[name]) for name in one))'
"$python" -c "$same" "$folder/whole/$run" "$folder/parts/$run" || fail "weights differ from those of the undisturbed run"
echo "the same weights, bit for bit"
