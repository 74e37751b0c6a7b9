#!/bin/bash
# Two umblock nodes on this machine, one replicated volume: makes a file system on it, builds real
# software there, moves the Primary to the other node and finds the same bytes. Needs root (or sudo)
# and the release build (make). Everything it makes is taken away at the end, also after a failure
# or when it is interrupted; what a killed demo left behind goes at the next start.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=$PWD/build/release
for program in "$bin/server/umblockd" "$bin/ctl/umctl"; do
  [[ -x $program ]] || { echo "$program is not there: run make" >&2; exit 1; }
done
((EUID == 0)) || exec sudo "$0" "$@"

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
show() { printf '   $ %s\n' "$*"; }
harness() { PYTHONPATH=e2e PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -c "$1"; }

harness 'from harness.leftovers import remove_leftovers; remove_leftovers("/var/tmp")'
work=$(mktemp -d "/var/tmp/umb$$-demo-XXXX")
declare -A address=([alpha]=10.77.1.1 [beta]=10.77.1.2) id=([alpha]=0 [beta]=1) other=([alpha]=beta [beta]=alpha)
declare -A space=([alpha]=umb$$-demo-alpha [beta]=umb$$-demo-beta)
declare -A daemon
mnt=$work/mnt
loop=

clean_up() {
  local status=$?
  trap '' INT TERM HUP
  set +e
  say "Cleaning up"
  mountpoint -q "$mnt" && umount "$mnt"
  [[ -n $loop ]] && losetup -d "$loop"
  for node in "${!daemon[@]}"; do kill "${daemon[$node]}"; done
  for node in "${!daemon[@]}"; do
    wait "${daemon[$node]}" || echo "     umblockd of $node ended with status $?"
    mountpoint -q "$work/$node/exports" && umount -l "$work/$node/exports"
  done
  for node in alpha beta; do ip netns del "${space[$node]}" 2>/dev/null; done
  if ((status != 0 && status != 130 && status != 143)); then
    for node in alpha beta; do
      [[ -e $work/$node/log ]] && { echo "--- last lines of $node's log"; tail -20 "$work/$node/log"; }
    done
  fi
  rm -rf "$work"
  case $status in
    0) say "Done" ;;
    129 | 130 | 143) say "The demo was interrupted" ;;
    *) say "The demo failed" ;;
  esac
  exit $status
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# umctl of a node, shown as one would type it there.
on() {
  local node=$1
  shift
  printf '   %s$ umctl %s\n' "$node" "$*"
  "$bin/ctl/umctl" --socket "$work/$node/umblockd.sock" "$@" 2>&1 | sed -e '/^$/d' -e 's/^/     /'
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

build() {
  make -C "$tree" -j2 linux AR="ar rcD" >/dev/null
}

say "Two nodes: a network namespace each, joined by a cable"
for node in alpha beta; do ip netns add "${space[$node]}"; done
ip link add link0 netns "${space[alpha]}" type veth peer name link0 netns "${space[beta]}"
for node in alpha beta; do
  ip -n "${space[$node]}" link set lo up
  ip -n "${space[$node]}" addr add "${address[$node]}/24" dev link0
  ip -n "${space[$node]}" link set link0 up
  mkdir -p "$work/$node/"{state,disks,exports}
  # A session of its own: an interrupt from the terminal is not for the daemons.
  show "umblockd --node-name $node --fuse-dir exports   (${address[$node]})"
  setsid nsenter --net="/run/netns/${space[$node]}" -- "$bin/server/umblockd" --node-name "$node" \
    --state-dir "$work/$node/state" --socket "$work/$node/umblockd.sock" \
    --fuse-dir "$work/$node/exports" >"$work/$node/log" 2>&1 &
  daemon[$node]=$!
done
for node in alpha beta; do
  until "$bin/ctl/umctl" --socket "$work/$node/umblockd.sock" node get >/dev/null 2>&1; do
    kill -0 "${daemon[$node]}" || exit 1
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
archive=$(harness 'from harness.software import source_archive; print(source_archive())')
mkdir -p "$mnt"
attach alpha
mkfs.ext4 -q "$loop"
mount "$loop" "$mnt"
show "tar -xf $(basename "$archive") && make"
tar -C "$mnt" -xf "$archive"
tree=$(echo "$mnt"/lua-*)
build
"$tree/src/lua" -e 'print("     built on alpha: " .. _VERSION)'
(cd "$tree" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$work/before"
echo "     $(wc -l <"$work/before") files"

say "While it is open alpha cannot be demoted, and says why"
if on alpha resource demote r0; then
  echo "it was demoted under an open file system" >&2
  exit 1
fi

say "Moving to beta"
detach
on alpha resource demote r0
on beta resource promote r0
attach beta
fsck.ext4 -fn "$loop" &>/dev/null
mount "$loop" "$mnt"

say "The same bytes"
(cd "$tree" && sha256sum --quiet -c "$work/before") && echo "     all $(wc -l <"$work/before") files are the same"
"$tree/src/lua" -e 'print("     runs on beta: " .. _VERSION)'
first=$(sha256sum <"$tree/src/lua")
make -C "$tree" clean >/dev/null
build
[[ $(sha256sum <"$tree/src/lua") == "$first" ]] && echo "     built again on beta: the same binary"
detach
on beta resource demote r0
on beta status
