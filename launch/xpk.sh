#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster created by xpk (xpk 1.x, logged in):
#
#   NAME=bair-1 CLUSTER=my-cluster ZONE=us-east5-b PROJECT=my-project TPU=v5litepod-16 \
#     launch/xpk.sh --config=configs/bair.py --workdir=/mnt/shared/bair
#
# xpk puts this working tree (tracked and new files, nothing that git ignores) into an
# image and starts it on every host of SLICES slices; the hosts find each other. If one
# is lost, all restart, up to RESTARTS times, and resume from the last checkpoint.
set -euo pipefail

NAME="${NAME:-}"        # Name of the workload.
CLUSTER="${CLUSTER:-}"  # Name of the cluster.
ZONE="${ZONE:-}"        # Its zone.
PROJECT="${PROJECT:-}"  # Its project.
TPU="${TPU:-}"          # Type of a slice, such as v5litepod-16.
SLICES="${SLICES:-1}"
RESTARTS="${RESTARTS:-20}"
IMAGE="${IMAGE:-python:3.12}"  # Base image; Python 3.11 or later.

for variable in NAME CLUSTER ZONE PROJECT TPU; do
  if [[ -z "${!variable}" ]]; then
    echo "launch/xpk.sh: $variable is not set; expected NAME=... CLUSTER=... ZONE=... PROJECT=... TPU=..." >&2
    exit 2
  fi
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
git ls-files -z --cached --others --exclude-standard |
  tar --null -cf - -T - | tar -xf - -C "$folder"

set -- python -u -m lamd_jax.main --distributed "$@"
command="$(printf '%q ' "$@")"  # Quoted again for the shell of the host.
xpk workload create --workload="$NAME" --cluster="$CLUSTER" --zone="$ZONE" \
  --project="$PROJECT" --tpu-type="$TPU" --num-slices="$SLICES" \
  --max-restarts="$RESTARTS" --base-docker-image="$IMAGE" --script-dir="$folder" \
  --command="pip install --quiet -e '.[tpu]' && exec $command"
