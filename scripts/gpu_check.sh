#!/usr/bin/env bash
# On a machine with a card, from the repository's root: build the library for it, run every test marked gpu, the
# sanitizer on a small part, and the bench. Results go to $OUT (default: build/gpu). Stages: "tests sanitize bench".
# INNERQ_LIBRARY (a built library: nothing is compiled), SHAPES (options of the bench) and PAPER_KERNELS (a checkout of the
# paper's code, see `bench kernels --help`) are used if set.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-build/gpu}
PYTHON=${PYTHON:-python3}
STAGES=${*:-tests sanitize bench}
mkdir -p "$OUT"
export PYTHONPATH="$PWD:${PYTHONPATH:-}" PYTHONUNBUFFERED=1
status=0

say() { echo "== $1 ($SECONDS s)"; }
innerq() { "$PYTHON" -m innerq_export.cli.main "$@"; }

if [[ -z ${INNERQ_LIBRARY:-} ]]; then
    say build
    innerq plugin build ${ARCH:+--arch "$ARCH"} --format json | tee "$OUT/build.json" || exit 1
fi
innerq plugin show

run_tests() { # name, pytest arguments
    local name=$1
    shift
    "$PYTHON" -m pytest -p no:cacheprovider "$@" >"$OUT/$name.log" 2>&1 || status=1
    grep -E "^(FAILED|ERROR)|passed|failed|error" "$OUT/$name.log" | tail -n 15
}

if [[ $STAGES == *tests* ]]; then
    say "tests: ops and attention, several at a time"
    run_tests ops -m gpu -n "${WORKERS:-8}" tests/integrations
    say "tests: kernels, alone on the card because some are timed"
    run_tests kernels -m gpu tests/kernels tests/bench
    say "tests: backend torch, two cards if they are there"
    run_tests torch -m gpu tests/runtime/test_torch_gpu.py
    say "tests: torch ops on the CPU with this machine's torch"
    run_tests cpu tests/integrations/test_torch_ops.py
fi
if [[ $STAGES == *sanitize* ]]; then
    for tool in memcheck racecheck; do
        say "compute-sanitizer $tool"
        compute-sanitizer --tool $tool --error-exitcode 9 "$PYTHON" scripts/sanitized_step.py \
            >"$OUT/$tool.log" 2>&1 || status=1
        tail -n 3 "$OUT/$tool.log"
    done
fi
if [[ $STAGES == *bench* ]]; then
    say bench
    innerq bench kernels ${SHAPES:---shapes all} ${PAPER_KERNELS:+--paper-kernels "$PAPER_KERNELS"} --output "$OUT/bench" \
        >"$OUT/bench.log" 2>&1 || status=1
    cat "$OUT/bench.log"
fi
say "done, status $status"
exit $status
