#!/usr/bin/env bash
# On a machine with a card, from the repository's root: build the library for it, run every test marked gpu, the
# sanitizer on a small part, and the bench. Results go to $OUT (default: build/gpu). Stages: "tests", "sanitize", "bench".
# FLASHINFER_AOT (a folder of compiled FlashInfer modules) and PAPER_KERNELS (a folder of programs) are used if set.
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

say build
innerq plugin build ${ARCH:+--arch "$ARCH"} --format json | tee "$OUT/build.json" || exit 1

if [[ $STAGES == *tests* ]]; then
    say tests
    "$PYTHON" -m pytest -m gpu -q -n "${WORKERS:-6}" tests/kernels tests/integrations -p no:cacheprovider \
        >"$OUT/tests.log" 2>&1 || status=1
    tail -n 15 "$OUT/tests.log"
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
