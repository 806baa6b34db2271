#!/usr/bin/env bash
# Trains on every worker of a Cloud TPU VM, be it a single host or a pod:
#
#   NAME=my-tpu ZONE=us-east5-b PROJECT=my-project \
#     launch/tpu_vm.sh --config=configs/bair.py --workdir=/mnt/shared/bair
#
# Copies this working tree to each worker (tracked and new files, nothing that git
# ignores), installs it there, and runs python -m lamd_jax.main --distributed with the
# given arguments. The processes of a pod find each other; one host is a pod of one.
set -euo pipefail

NAME="${NAME:-}"        # Name of the TPU VM.
ZONE="${ZONE:-}"        # Its zone.
PROJECT="${PROJECT:-}"  # Its project.
PYTHON="${PYTHON:-python3.11}"  # Interpreter on the workers; 3.11 or later.

for variable in NAME ZONE PROJECT; do
  if [[ -z "${!variable}" ]]; then
    echo "launch/tpu_vm.sh: $variable is not set; expected NAME=... ZONE=... PROJECT=..." >&2
    exit 2
  fi
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
git ls-files -z --cached --others --exclude-standard |
  tar --null -czf "$folder/lamd_jax.tar.gz" -T -

set -- python -m lamd_jax.main --distributed "$@"
command="$(printf '%q ' "$@")"  # Quoted again for the shell of the worker.
workers=(--zone="$ZONE" --project="$PROJECT" --worker=all)
echo "on every worker of $NAME: $command"
gcloud compute tpus tpu-vm scp "$folder/lamd_jax.tar.gz" "$NAME:" "${workers[@]}"
gcloud compute tpus tpu-vm ssh "$NAME" "${workers[@]}" --command="set -e
rm -rf lamd_jax_run && mkdir lamd_jax_run && cd lamd_jax_run
tar -xzf ../lamd_jax.tar.gz && $PYTHON -m venv .venv && . .venv/bin/activate
pip install --quiet -e '.[tpu]' && exec $command"
