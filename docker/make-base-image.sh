#!/bin/bash
# Makes the image debian:bookworm-slim from the Debian mirror, where no registry is reachable.
#
#   docker/make-base-image.sh [--force]
#
# Needs root, debootstrap and docker. Does nothing if the image is there already. The mirror is the
# one that apt uses; MIRROR=http://… overrides it.
set -euo pipefail

image=debian:bookworm-slim
if [[ ${1:-} != --force ]] && docker image inspect "$image" >/dev/null 2>&1; then
  echo "$image is there"
  exit 0
fi
((EUID == 0)) || { echo "debootstrap needs root" >&2; exit 1; }

mirror=${MIRROR:-}
if [[ -z $mirror ]]; then
  mirror=$(apt-get indextargets --format '$(SITE)' 'Codename: bookworm' 'Created-By: Packages' 2>/dev/null |
    grep -m1 /debian || true)
fi
mirror=${mirror:-http://deb.debian.org/debian}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "making $image from $mirror"
debootstrap --variant=minbase --include=ca-certificates bookworm "$work/root" "$mirror" >"$work/log" 2>&1 ||
  { tail -20 "$work/log" >&2; exit 1; }

# As Debian's own slim images: no documentation, no package lists, no caches.
cat >"$work/root/etc/apt/sources.list" <<SOURCES
deb $mirror bookworm main
deb $mirror bookworm-updates main
deb ${mirror%/debian}/debian-security bookworm-security main
SOURCES
cat >"$work/root/etc/dpkg/dpkg.cfg.d/docker-slim" <<'DPKG'
path-exclude /usr/share/doc/*
path-exclude /usr/share/man/*
path-exclude /usr/share/locale/*
path-include /usr/share/doc/*/copyright
DPKG
printf '#!/bin/sh\nexit 101\n' >"$work/root/usr/sbin/policy-rc.d"
chmod 755 "$work/root/usr/sbin/policy-rc.d"
rm -rf "$work/root/var/lib/apt/lists/"* "$work/root/var/cache/apt/"*.bin \
  "$work/root/var/cache/apt/archives/"*.deb "$work/root/usr/share/"{man,locale}/* "$work/root/dev/"*
tar -C "$work/root" --numeric-owner -c . | docker import --change 'CMD ["bash"]' - "$image" >/dev/null
docker image inspect --format "$image: {{.Size}} bytes" "$image"
