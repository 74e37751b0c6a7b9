#!/bin/bash
# Two umblock nodes on this machine, one replicated volume: makes a file system on it, builds real
# software there, moves the Primary to the other node and finds the same bytes. Needs root (or sudo);
# everything it makes is taken away at the end, also after a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
((EUID == 0)) || exec sudo --preserve-env=PATH "$0" "$@"

bin=$PWD/build/release
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
show() { printf '   $ %s\n' "$*"; }

say "Building umblock (build/release)"
make --no-print-directory all

work=$(mktemp -d /var/tmp/umb-demo-XXXX)
declare -A address=([alpha]=10.77.1.1 [beta]=10.77.1.2) id=([alpha]=0 [beta]=1) other=([alpha]=beta [beta]=alpha)
declare -A daemon
mnt=$work/mnt
loop=

clean_up() {
  local status=$?
  set +e
  say "Cleaning up"
  mountpoint -q "$mnt" && umount "$mnt"
  [[ -n $loop ]] && losetup -d "$loop"
  for node in "${!daemon[@]}"; do
    kill "${daemon[$node]}" 2>/dev/null && wait "${daemon[$node]}" 2>/dev/null
    mountpoint -q "$work/$node/exports" && umount -l "$work/$node/exports"
  done
  for node in alpha beta; do ip netns del "umb-demo-$node" 2>/dev/null; done
  if ((status != 0)); then
    for node in alpha beta; do
      [[ -e $work/$node/log ]] && { echo "--- last lines of $node's log"; tail -20 "$work/$node/log"; }
    done
  fi
  rm -rf "$work"
  ((status == 0)) && say "Done" || say "The demo failed"
  exit $status
}
trap clean_up EXIT

# umctl of a node, shown as one would type it there.
on() {
  local node=$1
  shift
  printf '   %s$ umctl %s\n' "$node" "$*"
  "$bin/ctl/umctl" --socket "$work/$node/umblockd.sock" "$@" | sed 's/^/     /'
}
attach() { # node: the exported file becomes a block device
  show losetup --find --show "$work/$1/exports/r0-0"
  loop=$(losetup --find --show "$work/$1/exports/r0-0")
  show "mount $loop $mnt"
}
detach() {
  show "umount $mnt; losetup -d $loop"
  umount "$mnt"
  losetup -d "$loop"
  loop=
}

say "Two nodes: a network namespace each, joined by a cable"
for node in alpha beta; do ip netns add "umb-demo-$node"; done
ip link add link0 netns umb-demo-alpha type veth peer name link0 netns umb-demo-beta
for node in alpha beta; do
  ip -n "umb-demo-$node" link set lo up
  ip -n "umb-demo-$node" addr add "${address[$node]}/24" dev link0
  ip -n "umb-demo-$node" link set link0 up
  mkdir -p "$work/$node/"{state,disks,exports}
  show "umblockd --node-name $node --fuse-dir exports   (${address[$node]})"
  nsenter --net="/run/netns/umb-demo-$node" -- "$bin/server/umblockd" --node-name "$node" \
    --state-dir "$work/$node/state" --socket "$work/$node/umblockd.sock" \
    --fuse-dir "$work/$node/exports" >"$work/$node/log" 2>&1 &
  daemon[$node]=$!
done
for node in alpha beta; do
  for _ in $(seq 200); do
    "$bin/ctl/umctl" --socket "$work/$node/umblockd.sock" node show >/dev/null 2>&1 && break
    sleep 0.05
  done
done

say "A volume of 256 MiB, replicated between them"
for node in alpha beta; do
  peer=${other[$node]}
  on "$node" backend create disk0 --path "$work/$node/disks/disk0.img" --size 256MiB --create
  on "$node" resource create r0 --node-id "${id[$node]}"
  on "$node" volume create r0/0
  on "$node" metadata create r0/0 --backend disk0
  on "$node" volume attach r0/0 --backend disk0
  on "$node" connection create "r0/${id[$peer]}" --peer-name "$peer" \
    --path "${address[$node]}:7789" "${address[$peer]}:7789"
  on "$node" export create r0-0 --volume r0/0
  on "$node" connection connect "r0/${id[$peer]}"
done
on alpha wait connected r0 --for 30s

say "Both disks are new and empty: no need to copy one to the other"
on alpha volume new-current-uuid r0/0 --clear-bitmap
on alpha resource promote r0
on alpha status

say "A file system on alpha, and the source of Lua from Debian"
archive=$(/usr/bin/python3 -c 'import sys; sys.path.insert(0, "e2e"); from harness.software import source_archive; print(source_archive())')
mkdir -p "$mnt"
attach alpha
mkfs.ext4 -q "$loop"
mount "$loop" "$mnt"
show "tar -xf $(basename "$archive") && make"
tar -C "$mnt" -xf "$archive"
tree=$(echo "$mnt"/lua-*)
make -C "$tree" -j2 linux >/dev/null
"$tree/src/lua" -e 'print("     built on alpha: " .. _VERSION)'
(cd "$tree" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$work/before"
echo "     $(wc -l <"$work/before") files"

say "While it is open alpha cannot be demoted, and says why"
on alpha resource demote r0 2>&1 || true

say "Moving to beta"
detach
on alpha resource demote r0
on beta resource promote r0
attach beta
fsck.ext4 -fn "$loop" >/dev/null
mount "$loop" "$mnt"

say "The same bytes"
(cd "$tree" && sha256sum --quiet -c "$work/before") && echo "     all $(wc -l <"$work/before") files are the same"
"$tree/src/lua" -e 'print("     runs on beta: " .. _VERSION)'
first=$(sha256sum <"$tree/src/lua")
make -C "$tree" clean >/dev/null
make -C "$tree" -j2 linux >/dev/null
[[ $(sha256sum <"$tree/src/lua") == "$first" ]] && echo "     built again on beta: the same binary"
detach
on beta resource demote r0
on beta status
