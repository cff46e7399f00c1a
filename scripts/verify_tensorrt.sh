#!/usr/bin/env bash
# verify_tensorrt.sh [FOLDER]: on a machine with a GPU, nvcc and full TensorRT, build, run and check everything that
# needs them, and write one report to send back: FOLDER/report.md and FOLDER.tar.gz (logs, no weights).
# A step that fails does not stop the others; the exit status is the number of failed steps.
# MODEL (default: llama, the demo), INNERQ and PYTHON (programs to use) may be set.
set -uo pipefail
work=$(realpath -m "${1:-build/verify}")
cd "$(dirname "$0")/.."
INNERQ=${INNERQ:-innerq-export}
PYTHON=${PYTHON:-python3}
MODEL=${MODEL:-llama}
engine=$work/engine
plugin=$work/plugin
mkdir -p "$work/logs"
failed=0
rows=()
: >"$work/failures.md"

step() { # name, command...: runs it, keeps its log, notes time and outcome
    local name=$1 start=$SECONDS status=0
    shift
    echo "== $name"
    "$@" >"$work/logs/$name.log" 2>&1 || status=$?
    rows+=("| $name | $([[ $status == 0 ]] && echo ok || echo "**failed ($status)**") | $((SECONDS - start)) s |")
    [[ $status == 0 ]] && return 0
    failed=$((failed + 1))
    { echo "### $name" && echo '```' && tail -n 40 "$work/logs/$name.log" && echo '```'; } >>"$work/failures.md"
    tail -n 5 "$work/logs/$name.log"
}

skip() { # name, reason
    echo "== $1: skipped, $2"
    rows+=("| $1 | skipped: $2 | |")
}

example() { # the C++ example decodes the engine
    cmake -S examples/tensorrt_decode -B "$work/example" && cmake --build "$work/example" &&
        "$work/example/tensorrt_decode" "$engine" 16 72 101 108 108 111 | tee "$work/logs/decoded.txt" &&
        [[ $(wc -w <"$work/logs/decoded.txt") == 16 ]]
}

serve() { # Triton loads the model and says that it is ready
    "$work/triton/start.sh" --http-port=8765 --allow-grpc=false --allow-metrics=false &
    local server=$! ready=1
    for _ in $(seq 90); do
        kill -0 $server 2>/dev/null || break
        curl --silent --fail localhost:8765/v2/models/engine/ready && ready=0 && break
        sleep 2
    done
    kill $server 2>/dev/null
    wait $server 2>/dev/null
    return $ready
}

step doctor-before "$INNERQ" doctor
step plugin-build "$INNERQ" plugin build --build-dir "$plugin"
export INNERQ_LIBRARY=$plugin/libinnerq_trt.so
step plugin-tests "$PYTHON" -m pytest tests/plugin -p no:cacheprovider
step kernel-tests "$PYTHON" -m pytest tests/kernels -m gpu -p no:cacheprovider
step engine-build "$INNERQ" build --model "$MODEL" --backend tensorrt --plugin-library "$INNERQ_LIBRARY" \
    --output "$engine" --overwrite
step doctor-engine "$INNERQ" doctor "$engine" --bundle "$work/doctor.zip"
step engine-parity "$INNERQ" parity "$engine"
step engine-run "$INNERQ" run "$engine" --backend tensorrt --prompt "Once upon a time" --max-new-tokens 64
step example example
step triton-repository "$INNERQ" triton "$engine" "$work/triton" --name engine
if command -v tritonserver >/dev/null; then
    step triton-serve serve
else
    skip triton-serve "no tritonserver on PATH"
fi

{
    echo "# innerq-export on $(uname -m), $(date -u +%Y-%m-%dT%H:%MZ)"
    echo "commit $(git describe --always --dirty 2>/dev/null || echo unknown), model $MODEL, $failed steps failed"
    echo
    echo "| step | outcome | time |" && echo "| --- | --- | --- |" && printf '%s\n' "${rows[@]}"
    [[ $failed == 0 ]] || { echo && echo "## What failed" && cat "$work/failures.md"; }
    echo && echo "## Machine" && echo '```' && cat "$work/logs/doctor-before.log" && echo '```'
} >"$work/report.md"
rm "$work/failures.md"
tar -czf "$work.tar.gz" -C "$work" report.md logs $([[ -f $work/doctor.zip ]] && echo doctor.zip)
echo "report: $work/report.md; to send back: $work.tar.gz"
exit "$failed"
