#!/usr/bin/env bash
# Debian packages that some tests use: a game to record, a display to record it on, a compiler, a browser, an older
# PostgreSQL beside the one that pip installs, a network of one's own.
# Without them those tests are skipped, so a machine that cannot install them is no error.
set -euo pipefail

packages=(
  minetest minetest-server xvfb libgl1-mesa-dri
  gcc libc6-dev libx11-dev libxtst-dev libgl-dev
  chromium postgresql
  iproute2 util-linux
)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi
if ! command -v apt-get >/dev/null; then
  echo "no apt-get here: tests that need ${missing[*]} will be skipped"
  exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "not root: tests that need ${missing[*]} will be skipped (sudo $0 installs them)"
  exit 0
fi

export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } </dev/null >/dev/null; then
  echo "apt-get could not install ${missing[*]}: tests that need them will be skipped" >&2
fi
