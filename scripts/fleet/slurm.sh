#!/usr/bin/env bash
# A Slurm of one node, this machine, for tests: `slurm.sh up FOLDER`, `slurm.sh down FOLDER`. It listens on loopback alone,
# and needs root, and Debian's packages slurm-wlm and munge; no systemd, no control groups. Clients need
# SLURM_CONF=FOLDER/slurm.conf.
set -euo pipefail
verb=$1
folder=$(realpath -m "$2")
port=${SLURM_PORT:-16840}
export SLURM_CONF="$folder/slurm.conf"

up() {
  mkdir -p "$folder"/{state,spool,log,munge}
  chmod 700 "$folder/munge"
  (umask 077; head -c 1024 /dev/urandom > "$folder/munge/key")
  munged --force --socket="$folder/munge/socket" --key-file="$folder/munge/key" --pid-file="$folder/munge/pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" --num-threads=2
  # cred_expire: a requeued task waits for that and a second more. KillWait: from TERM to KILL.
  cat > "$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort=$port
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdPort=$((port + 1))
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/ctld.pid
SlurmdPidFile=$folder/d.pid
SlurmctldLogFile=$folder/log/ctld
SlurmdLogFile=$folder/log/d
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ReturnToService=2
KillWait=5
OverTimeLimit=0
MaxArraySize=${SLURM_MAX_ARRAY:-1001}
JobRequeue=1
MailProg=/bin/true
JobCompType=jobcomp/filetxt
JobCompLoc=$folder/log/jobcomp
NodeName=localhost CPUs=$(nproc) State=UNKNOWN
PartitionName=p Nodes=localhost Default=YES MaxTime=INFINITE State=UP
CONF
  slurmctld -f "$SLURM_CONF"
  slurmd -f "$SLURM_CONF"
  for _ in $(seq 100); do
    [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ] && return
    sleep 0.1
  done
  echo "Slurm's node did not come up" >&2
  tail -n 5 "$folder"/log/* >&2
  return 1
}

down() {
  timeout 5 scancel --quiet --user "$(id -un)" 2>/dev/null || true
  for file in "$folder/d.pid" "$folder/munge/pid"; do
    [ -s "$file" ] && kill "$(cat "$file")" 2>/dev/null || true
  done
  # TERM takes it seconds, and nothing of its state is needed again.
  [ -s "$folder/ctld.pid" ] && kill -9 "$(cat "$folder/ctld.pid")" 2>/dev/null || true
}

"$verb"
