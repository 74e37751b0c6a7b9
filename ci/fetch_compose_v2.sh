#!/bin/bash
# Puts `docker compose` v2 into DIRECTORY/cli-plugins, for the container tests: Debian 12 has only
# docker-compose 1.29. It is the program of Debian 13, which needs nothing that Debian 12 lacks.
#   ci/fetch_compose_v2.sh DIRECTORY; DOCKER_CONFIG=DIRECTORY docker compose version
set -euo pipefail
directory=$1
package=docker-compose_2.26.1-4_amd64.deb
sum=47681197cb2b1ab88206b42a1a92fc75f50d9530a6322d03494a473eed0408ea
sources=(http://deb.debian.org/debian/pool/main/d/docker-compose
         https://snapshot.debian.org/archive/debian/20250520T000000Z/pool/main/d/docker-compose)

plugin=$directory/cli-plugins/docker-compose
[[ -x $plugin ]] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for source in "${sources[@]}"; do
  curl -fsSL --retry 3 -o "$work/deb" "$source/$package" || continue
  echo "$sum  $work/deb" | sha256sum --check --quiet || continue
  dpkg-deb -x "$work/deb" "$work/root"
  mkdir -p "$directory/cli-plugins"
  install -m 755 "$work/root/usr/libexec/docker/cli-plugins/docker-compose" "$plugin"
  exit 0
done
echo "docker compose v2 could not be fetched: $package is at none of ${sources[*]}" >&2
exit 1
