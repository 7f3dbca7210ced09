# Counting and reporting for the tests of the package. Sourced by tests/package/run.
# shellcheck shell=bash

PASSED=0 FAILED=0 SKIPPED=0
FIGURES=()
LOG=$(mktemp)

title() { printf '\n== %s\n' "$*"; }

# try NAME FUNCTION [ARGUMENT...]: one test, in a shell of its own that ends at the first failure.
try() {
    local name=$1 started=$SECONDS code
    shift
    (
        set -euo pipefail
        "$@"
    ) >"$LOG" 2>&1 </dev/null
    code=$?
    if [[ $code -eq 0 ]]; then
        PASSED=$((PASSED + 1))
        printf 'ok      %3s s  %s\n' $((SECONDS - started)) "$name"
        sed -n 's/^FIGURE /          /p' "$LOG"
        mapfile -t -O ${#FIGURES[@]} FIGURES < <(sed -n 's/^FIGURE //p' "$LOG")
    else
        FAILED=$((FAILED + 1))
        printf 'FAILED  %3s s  %s\n' $((SECONDS - started)) "$name"
        tail -n 40 "$LOG" | sed 's/^/          /'
        explain 2>&1 | sed 's/^/          /'
    fi
    return "$code"
}

# What else may tell why a test failed; tests/package/run replaces it while a machine runs.
explain() { :; }

skip() {
    SKIPPED=$((SKIPPED + 1))
    printf 'SKIPPED: %s\n' "$*"
}

# Shown in the summary.
figure() { printf 'FIGURE %-46s %s\n' "$1" "$2"; }

# until_true SECONDS COMMAND...: polls, because what is waited for is in another system.
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [[ $SECONDS -lt $end ]] || { echo "not so in time: $*"; return 1; }
        sleep 0.1
    done
}

# same WHAT BEFORE AFTER
same() { [[ $2 == "$3" ]] || { printf '%s was:\n%s\nand is:\n%s\n' "$1" "$2" "$3"; return 1; }; }

not() { ! "$@"; }

summary() {
    title Summary
    [[ ${#FIGURES[@]} -eq 0 ]] || printf '%s\n' "${FIGURES[@]}"
    printf '%s passed, %s failed, %s skipped\n' "$PASSED" "$FAILED" "$SKIPPED"
}
