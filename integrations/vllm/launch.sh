#!/usr/bin/env bash
# Policy replicas behind one router, and reward servers, on one machine. Ends them all when it is ended.
#
#   POLICY=Qwen/Qwen3-8B REWARD=Skywork/Skywork-Reward-V2-Qwen3-8B REPLICAS=6 REWARDS=2 GPUS="0 1 2 3 4 5 6 7" ./launch.sh
#
# Settings are environment variables; what is in brackets is taken where one is not given.
set -euo pipefail

: "${POLICY:?set POLICY to a folder or hub id of a causal language model}"
: "${REWARD:?set REWARD to a folder or hub id of a one-logit reward model}"
REPLICAS="${REPLICAS:-2}"            # policy servers [2]
REWARDS="${REWARDS:-1}"              # reward servers [1]
GPUS="${GPUS:-}"                     # one for each replica, then one for each reward server [all see all]
BIND_HOST="${BIND_HOST:-127.0.0.1}"  # where the router and the reward servers listen [this machine only]
PORT="${PORT:-8000}"                 # the router's [8000]
REWARD_PORT="${REWARD_PORT:-8001}"   # the first reward server's; the others' and then the replicas' follow it [8001]
CONTEXT="${CONTEXT:-8192}"           # tokens of a prompt and its answer together [8192]
VLLM="${VLLM:-vllm}"                 # vLLM's command [vllm]
ROUTER="${ROUTER:-vllm-router}"      # vllm-router's command [vllm-router]
WAIT="${WAIT:-900}"                  # seconds until all must be ready [900]
read -r -a POLICY_OPTIONS <<< "${POLICY_OPTIONS:-}"   # more of vLLM's options, e.g. "--tensor-parallel-size 2"
read -r -a REWARD_OPTIONS <<< "${REWARD_OPTIONS:-}"
read -r -a DEVICES <<< "$GPUS"

if ((${#DEVICES[@]} != 0 && ${#DEVICES[@]} != REPLICAS + REWARDS)); then
  echo "GPUS names ${#DEVICES[@]} devices: give $((REPLICAS + REWARDS)), one for each replica and each reward server" >&2
  exit 2
fi

pids=()
end_all() {
  trap - EXIT INT TERM
  ((${#pids[@]} == 0)) || kill "${pids[@]}" 2> /dev/null || true
  wait
}
trap end_all EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

serve() { # device, model, then vLLM's options
  local device="$1"
  shift
  if [[ -n "$device" ]]; then
    CUDA_VISIBLE_DEVICES="$device" "$VLLM" serve "$@" --max-model-len "$CONTEXT" &
  else
    "$VLLM" serve "$@" --max-model-len "$CONTEXT" &
  fi
  pids+=("$!")
}

ready() { # name, url
  local end=$((SECONDS + WAIT)) pid
  until curl --silent --fail --noproxy '*' --output /dev/null "$2/health"; do
    for pid in "${pids[@]}"; do
      kill -0 "$pid" 2> /dev/null || { echo "a server ended before $1 was ready: see its output above" >&2; exit 1; }
    done
    ((SECONDS < end)) || { echo "$1 is not ready after $WAIT s" >&2; exit 1; }
    sleep 1
  done
  echo "$1 is ready at $2"
}

rewards=()
for ((i = 0; i < REWARDS; i++)); do
  port=$((REWARD_PORT + i))
  serve "${DEVICES[REPLICAS + i]:-}" "$REWARD" --runner pooling --enable-prefix-caching --host "$BIND_HOST" --port "$port" \
    "${REWARD_OPTIONS[@]}"
  rewards+=("http://127.0.0.1:$port")
done
urls=()
for ((i = 0; i < REPLICAS; i++)); do
  port=$((REWARD_PORT + REWARDS + i))
  serve "${DEVICES[i]:-}" "$POLICY" --enable-prefix-caching --host 127.0.0.1 --port "$port" \
    "${POLICY_OPTIONS[@]}"
  urls+=("http://127.0.0.1:$port")
done

for i in "${!rewards[@]}"; do ready "reward server $((i + 1))" "${rewards[i]}"; done
for i in "${!urls[@]}"; do ready "replica $((i + 1))" "${urls[i]}"; done

"$ROUTER" --host "$BIND_HOST" --port "$PORT" --policy cache_aware --worker-urls "${urls[@]}" &
pids+=("$!")
ready "the router" "http://127.0.0.1:$PORT"
echo "for one client: --policy-url ${urls[*]} --reward-url ${rewards[*]}"

wait -n # one that ends takes the others along
exit 1
