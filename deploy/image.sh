#!/bin/sh
# Builds the image from a base of its own, where no registry is at hand: Debian by debootstrap, wheels by `infl bundle`, buildah.
# As root, from the repository's root: deploy/image.sh [WHEEL]; WHEEL is a wheel of infl (default: made from this tree).
set -eu
suite=bookworm mirror=${MIRROR:-http://deb.debian.org/debian} work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
wheel=${1:-}
if [ -z "$wheel" ]; then
    python3 -m pip wheel --quiet --no-deps --wheel-dir "$work" .
    wheel=$(ls "$work"/infl-*.whl)
fi
python3 -m infl bundle "$work/infl_bundle" --requirement "$wheel[flare]" --constraint constraints.txt \
    --extra-index-url https://download.pytorch.org/whl/cpu
debootstrap --variant=minbase "$suite" "$work/base" "$mirror"
rm -rf "$work"/base/var/cache/apt/archives/*.deb
tar -C "$work/base" -c . | podman import - localhost/infl-base
buildah bud --isolation "${ISOLATION:-oci}" -f deploy/Containerfile --build-arg BASE=localhost/infl-base -t localhost/infl "$work"
