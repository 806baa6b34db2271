#!/usr/bin/env bash
# Runs a command beside a real Slurm of one node, this machine, and stops it again.
# As root, on Debian:
#
#   apt-get install -y slurm-wlm munge
#   tests/benchmarks/slurm_node.sh sbatch --wait --gres=none --nodes=1 \
#     --ntasks-per-node=2 launch/slurm.sbatch --config=configs/quickstart.py:smoke
#
# munged, slurmctld and slurmd run without systemd, with all their files in a temporary
# folder and on ports of their own; a Slurm that is installed here is not touched.
set -euo pipefail

for tool in munged slurmctld slurmd sbatch; do
  if ! command -v "$tool" >/dev/null; then
    echo "slurm_node.sh: no $tool; on Debian: apt-get install slurm-wlm munge" >&2
    exit 77
  fi
done
if [[ $EUID -ne 0 ]]; then
  echo "slurm_node.sh: the daemons need root" >&2
  exit 77
fi
folder="$(mktemp -d)"
host="$(hostname -s)"
port=$((20000 + RANDOM % 20000))
pids=()
stop() {
  # A step that is still completing would be left behind.
  for _ in $(seq 50); do
    [[ -n "$(squeue -h 2>/dev/null)" ]] && sleep 0.2 || break
  done
  sleep 1
  kill "${pids[@]}" 2>/dev/null || true
  wait "${pids[@]}" 2>/dev/null || true
  rm -rf "$folder"
}
trap stop EXIT

chmod 755 "$folder"
mkdir -m 700 "$folder/key"
mkdir -m 755 "$folder/munge" "$folder/state" "$folder/spool"
head -c 1024 /dev/urandom >"$folder/key/munge.key"
chmod 400 "$folder/key/munge.key"
munged --foreground --force --key-file="$folder/key/munge.key" \
  --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
  --seed-file="$folder/key/seed" --log-file="$folder/key/log" 2>/dev/null &
pids+=($!)

cat >"$folder/slurm.conf" <<EOF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=$port
SlurmdPort=$((port + 1))
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
EOF
export SLURM_CONF="$folder/slurm.conf"
for _ in $(seq 50); do [[ -S "$folder/munge/socket" ]] && break || sleep 0.2; done
slurmctld -D -f "$SLURM_CONF" 2>/dev/null &
pids+=($!)
slurmd -D -f "$SLURM_CONF" -N "$host" 2>/dev/null &
pids+=($!)
for _ in $(seq 150); do
  sinfo -h -o %T 2>/dev/null | grep -q idle && break || sleep 0.2
done
if ! sinfo -h -o %T 2>/dev/null | grep -q idle; then
  echo "slurm_node.sh: the node did not come up" >&2
  tail -n 20 "$folder"/*.log >&2
  exit 1
fi
"$@"
