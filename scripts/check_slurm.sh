#!/usr/bin/env bash
# Runs the shipped scripts/slurm.sbatch on a Slurm cluster of two nodes that are both this machine, on CPUs: a job that is
# preempted (SIGUSR1, exit code 3), requeued, and ends; its checkpoint must be the same bytes as one process's.
#
#   cargo build --release && scripts/check_slurm.sh
#
# Needs root, and slurm-wlm (slurmctld, slurmd, srun) and munge installed, no other Slurm on this machine. Everything it writes is
# in a temporary folder; the daemons it starts it ends. docs/distributed.md has the last result.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${IN_NAMESPACE:-}" ]; then
  # The nodes' names must lead to this machine: in a mount namespace of its own, /etc/hosts says so.
  IN_NAMESPACE=1 exec unshare --mount "scripts/$(basename "$0")" "$@"
fi
hosts=$(mktemp)
cp /etc/hosts "$hosts"
echo "127.0.0.1 n1 n2" >>"$hosts"
mount --bind "$hosts" /etc/hosts
rm -f "$hosts"
taper=${TAPER:-$PWD/target/release/taper}
work=$(mktemp -d)
host=$(hostname -s)
pids=()

finish() {
  if [ -f "$work/job" ]; then scancel --full "$(cat "$work/job")" 2>/dev/null || true; fi
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  if [ -f "$work/munge/pid" ]; then kill "$(cat "$work/munge/pid")" 2>/dev/null || true; fi
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT

mkdir -p "$work/state" "$work/spool-n1" "$work/spool-n2" "$work/shared" "$work/dev"
chmod 755 "$work"
for gpu in 0 1 2 3 4 5 6 7; do mknod "$work/dev/gpu$gpu" c 1 3; done
cat >"$work/slurm.conf" <<END
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket
CryptoType=crypto/munge
CredType=cred/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool-%n
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd-%n.pid
SlurmctldPort=16817
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SlurmctldParameters=enable_configless
GresTypes=gpu
ReturnToService=2
KillWait=5
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[17001-17002] CPUs=16 Gres=gpu:8
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
END
echo "NodeName=n[1-2] Name=gpu File=$work/dev/gpu[0-7]" >"$work/gres.conf"
export SLURM_CONF=$work/slurm.conf

# munge with a key and a socket of its own.
dd if=/dev/urandom of="$work/munge.key" bs=1024 count=1 status=none
mkdir -p "$work/munge"
chown munge: "$work/munge.key" "$work/munge"
chmod 400 "$work/munge.key"
cp "$work/munge.key" "$work/munge/key" && chown munge: "$work/munge/key" && chmod 400 "$work/munge/key"
runuser -u munge -- munged --force --key-file "$work/munge/key" --socket "$work/munge/socket" --pid-file "$work/munge/pid" \
  --log-file "$work/munge/log" --seed-file "$work/munge/seed"
ln -s "$work/munge/socket" "$work/munge.socket"

slurmctld -c -D >"$work/slurmctld.log" 2>&1 &
pids+=($!)
for node in n1 n2; do
  slurmd -N "$node" -D >"$work/slurmd-$node.log" 2>&1 &
  pids+=($!)
done
for _ in $(seq 60); do
  [ "$(sinfo -h -o '%T' 2>/dev/null | sort -u)" = idle ] && break
  sleep 1
done
sinfo -o '%P %D %T %c %G'

# A run of some seconds on the CPU, in four lanes or more.
for i in $(seq 3000); do echo -n "the lamp burns low and night is long $((i * i % 97)) but day will come "; done >"$work/shared/text.txt"
cat >"$work/shared/job.toml" <<'END'
[run]
name = "job"
[model]
n_layer = 2
n_head = 2
n_embd = 64
context_length = 32
[tokenizer]
kind = "bytes"
[data]
text = ["text.txt"]
val_fraction = 0.05
[train]
micro_batch = 1
global_batch = 8
max_steps = 600
log_every = 10
[optimizer]
lr = 3e-3
[schedule]
warmup_steps = 10
[eval]
every = "off"
[checkpoint]
every = 100
[sample]
every = "off"
[dist]
timeout = 60
END
cp scripts/slurm.sbatch "$work/shared/"
cd "$work/shared"
export RAYON_NUM_THREADS=1
"$taper" train job.toml --run alone --device cpu >alone.log 2>&1

job=$(TAPER=$taper sbatch --parsable --nodes=2 --ntasks-per-node=2 --gpus-per-node=2 --cpus-per-task=1 \
  slurm.sbatch job.toml --run job --device cpu --set dist.shard_optimizer=true)
echo "$job" >"$work/job"
wait_for() {
  for _ in $(seq 480); do
    if eval "$1"; then return 0; fi
    sleep 0.5
  done
  echo "waited in vain: $1"
  cat "taper-$job.log"
  tail -n 20 "$work"/slurm*.log
  exit 1
}
wait_for "[ -e job/checkpoints/step-00000100 ]"
# What --signal=USR1@120 does before the time limit.
scancel --signal=USR1 "$job"
wait_for "grep -q 'exit code 3' taper-$job.log"
echo "preempted: $(grep -h -o '"event":"end".*' job/events.jsonl | tail -n1)"
# Slurm waits two minutes before it starts a requeued job.
wait_for "grep -q 'exit code 0' taper-$job.log"
grep -h '^job ' "taper-$job.log"
grep -o '"world_size": [0-9]*' job/environment.json
for file in model.safetensors training/arena.safetensors; do
  cmp "alone/checkpoints/step-00000600/$file" "job/checkpoints/step-00000600/$file"
done
echo "the same bytes as one process: model.safetensors and training/arena.safetensors of step 600"
