#!/usr/bin/env bash
# The shortest true story with the base install alone: no torch, no test tools. Usage: smoke.sh DIR
set -euo pipefail
dir=$1
mkdir -p "$dir/user" && cd "$dir/user"
export HOME="$dir/home" XDG_CONFIG_HOME="$dir/home/.config" XDG_CACHE_HOME="$dir/home/.cache"
mkdir -p "$HOME"
cat >train.py <<'PY'
import wandb
run = wandb.init(project="smoke", mode="online", dir=".", config={"rate": 0.5})
for step in range(50):
    run.log({"loss": 1 / (step + 1)})
run.finish()
PY
# A user's own modules with our folders' names must not get into our way.
for name in runner spool syncer; do echo "raise SystemExit('the user'\''s own $name.py was imported')" >$name.py; done
wandb-spool --version
wandb-spool --help >/dev/null
wandb-spool init "$dir/spool" >/dev/null
wandb-spool run --spool "$dir/spool" -- python train.py
wandb-spool rehearse --data "$dir/service" >"$dir/exports" &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
for _ in $(seq 100); do grep -q API_KEY "$dir/exports" 2>/dev/null && break; sleep 0.1; done
# shellcheck disable=SC1091
. "$dir/exports"
wandb-spool sync --spool "$dir/spool"
wandb-spool sync --spool "$dir/spool"
wandb-spool status --spool "$dir/spool"
wandb-spool verify --remote --spool "$dir/spool"
python - <<PY
import json, subprocess
counts = json.loads(subprocess.check_output(["wandb-spool", "status", "--json", "--spool", "$dir/spool"]))["counts"]
assert counts["delivered"] == 1 and sum(counts.values()) == 1, counts
PY
echo "the wheel works"
