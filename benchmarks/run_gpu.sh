#!/usr/bin/env bash
# Builds for the visible GPU, runs what only a GPU can test, and measures; whatever was found when the time is over is in OUT_DIR.
#
#   benchmarks/run_gpu.sh OUT_DIR [--parts build,tests,grid,sanitizer,experts,real] [--minutes 9] [--real DATA] [--commit HASH]
#
# Needs a GPU, nvcc and a python3 (or $PYTHON) with PyTorch >= 2.11, setuptools, ninja, pytest, hypothesis and safetensors; nothing is
# downloaded. Parts run in this order, each for at most its share of the time that is left. DATA, for the part real, is CIFAR-10 as an
# image folder or an archive of one (docs/data.md). HASH is the commit that is measured, where no git tells.
# Files: PART.log, grid.csv (benchmarks/gpu/grid.py), experts.csv (benchmarks/experts.py), real.jsonl (benchmarks/gpu/real.py),
# summary.md. To record a run, commit OUT_DIR as benchmarks/results/GPU-DATE and run `python -m benchmarks.report`.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."

declare -A weights=([build]=70 [tests]=20 [grid]=45 [sanitizer]=15 [experts]=15 [real]=80)
order=(build tests grid sanitizer experts real)
parts=build,tests,grid,sanitizer,experts
minutes=9
data=
commit=
out=
python=${PYTHON:-python3}
reserve=20 # seconds for the summary

fail() {
    echo "run_gpu.sh: $1" >&2
    exit 2
}

while (($#)); do
    case $1 in
        --parts | --minutes | --real | --commit)
            [[ $# -ge 2 ]] || fail "$1 needs a value"
            case $1 in
                --parts) parts=$2 ;;
                --minutes) minutes=$2 ;;
                --real) data=$2 ;;
                --commit) commit=$2 ;;
            esac
            shift 2
            ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' benchmarks/run_gpu.sh && exit 0 ;;
        -*) fail "there is no option $1; there are --parts, --minutes, --real, --commit" ;;
        *)
            [[ -z $out ]] || fail "one OUT_DIR is needed, not $out and $1"
            out=$1
            shift
            ;;
    esac
done
[[ -n $out ]] || fail "OUT_DIR is missing; see --help"
[[ $minutes =~ ^[1-9][0-9]*$ ]] || fail "--minutes must be an integer of at least 1, not '$minutes'"
[[ -z $data || ,$parts, == *,real,* ]] || parts+=,real
[[ $out == /* ]] || out=$here/$out
[[ -z $data || $data == /* ]] || data=$here/$data
for part in ${parts//,/ }; do
    [[ -n ${weights[$part]:-} ]] || fail "there is no part '$part'; there are ${order[*]}"
done
[[ ,$parts, != *,real,* || -e $data ]] || fail "the part real needs --real DATA, a folder or an archive of CIFAR-10's images"

why=$("$python" -m benchmarks.gpu.ready 2>&1) || fail "${why##*$'\n'}"
mkdir -p "$out"
export PYTHONUNBUFFERED=1
[[ -z $commit ]] || export PYDISTILL_COMMIT=$commit
told=()
failed=0

# Seconds for a part: its share, by weight, of what is left for it and the parts behind it.
share() {
    local sum=0 each behind=0
    for each in "${order[@]}"; do
        [[ $each == "$1" ]] && behind=1
        ((behind)) && [[ ,$parts, == *,$each,* ]] && sum=$((sum + weights[$each]))
    done
    local left=$((60 * minutes - reserve - SECONDS))
    echo $((left > 0 ? left * weights[$1] / sum : 0))
}

# run NAME LOG SECONDS COMMAND…
run() {
    local name=$1 log=$out/$2.log limit=$3 status=0 start=$SECONDS
    shift 3
    if ((limit < 5)); then
        told+=("$name: no time was left for it")
        failed=1
        return
    fi
    echo "== $name (at most $limit s): $*" | tee -a "$log"
    timeout --kill-after=10 "$limit" "$@" >> "$log" 2>&1 || status=$?
    case $status in
        0) told+=("$name: done in $((SECONDS - start)) s") ;;
        124 | 137) told+=("$name: stopped after $limit s; see $2.log") ;;
        *) told+=("$name: failed with status $status after $((SECONDS - start)) s; see $2.log") ;;
    esac
    ((status == 0)) || failed=1
    ((status == 0)) || tail -n 15 "$log"
    echo "== ${told[-1]}"
}

# Only what the kernels themselves do is checked, and only where the tests look at indices, barriers and bits.
sanitize() {
    local limit=$(($(share sanitizer) / 2)) tool sanitizer
    sanitizer=$(command -v compute-sanitizer || echo "$(dirname "$(command -v nvcc)")/compute-sanitizer")
    if [[ ! -x $sanitizer ]]; then
        told+=("sanitizer: left out, there is no compute-sanitizer on the PATH or beside nvcc")
        return
    fi
    for tool in memcheck racecheck; do
        run "sanitizer ($tool)" sanitizer "$limit" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$tool" \
            --kernel-name kernel_substring=pydistill --report-api-errors no --error-exitcode 9 \
            "$python" -m pytest -q -p no:cacheprovider -m "cuda and not slow" -k "indexing or same_bits" tests/ops/*_cuda.py
    done
}

for part in "${order[@]}"; do
    [[ ,$parts, == *,$part,* ]] || continue
    case $part in
        build) run build build "$(share build)" env PYDISTILL_CUDA=1 "$python" setup.py build_ext --inplace ;;
        tests) run tests tests "$(share tests)" "$python" -m benchmarks.gpu.tests ;;
        grid)
            seconds=$(share grid)
            run grid grid "$seconds" "$python" -m benchmarks.gpu.grid "$out" --seconds $((seconds > 20 ? seconds - 15 : 5))
            ;;
        sanitizer) sanitize ;;
        experts)
            run experts experts "$(share experts)" "$python" -m benchmarks.experts --device cuda --problems cifar --csv "$out/experts.csv"
            ;;
        real)
            seconds=$(share real)
            run real real "$seconds" "$python" -m benchmarks.gpu.real "$data" "$out" --seconds $((seconds > 20 ? seconds - 15 : 5))
            ;;
    esac
done
"$python" -m benchmarks.gpu.summary "$out" "${told[@]}"
exit "$failed"
