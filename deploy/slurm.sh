#!/bin/bash
# One run of Candor on nodes of a Slurm cluster: Ray's head and the driver on the first node, a worker on each.
#   sbatch --nodes 4 deploy/slurm.sh configs/gpu.yaml /shared/runs/gpu --set model=/shared/models/llama-3.1-8b
# The checkout, its .venv, the models and the run directory must lie on storage that all nodes share. A job that meets
# its time limit gets a signal two minutes before, stops cleanly, and is put back into the queue to go on.
#SBATCH --job-name=candor
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --output=candor-%j.log
set -euo pipefail

if (($# < 2)); then
    echo "usage: sbatch --nodes N $0 CONFIG RUN_DIR [--set key=value ...]" >&2
    exit 2
fi
config=$1 out=$2
shift 2

cd "${SLURM_SUBMIT_DIR:?this script is meant for sbatch}"
source .venv/bin/activate
export RAY_USAGE_STATS_ENABLED=0 CANDOR_CACHE=${CANDOR_CACHE:-$PWD/.cache}

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
port=$((20000 + SLURM_JOB_ID % 20000)) # so that two jobs on one node do not meet
address=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}'):$port

# Ray's token, for this job alone.
umask 077
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')

srun --nodes=1 --ntasks=1 --overlap -w "$head" \
    ray start --head --port="$port" --dashboard-host=127.0.0.1 --block &
for _ in {1..60}; do
    ray health-check --address "$address" && break
    sleep 1
done
for node in "${nodes[@]:1}"; do
    srun --nodes=1 --ntasks=1 --overlap -w "$node" ray start --address="$address" --block &
done

# In the background, so that bash hears Slurm's signal and can pass it on. Candor waits for nodes that are not there yet.
candor run "$config" --out "$out" --set cluster.address="$address" "$@" &
driver=$!
trap 'kill -TERM "$driver"' TERM
code=0
wait "$driver" || code=$?
if kill -0 "$driver" 2>/dev/null; then # the signal ended the wait, and the driver is about to stop
    code=0
    wait "$driver" || code=$?
fi
if ((code == 130 || code == 143)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
