#!/bin/sh
# Runs this bundle on a machine with an NVIDIA GPU, python3 and PyTorch 2.11, but without Rust.
#
#   ./run.sh [--full]
#
# Uses PyTorch's own libtorch. Writes into results/: what each step said, the matrix's report.json
# and report.html, and summary.json. Ends with 0 if all went well. With transformers beside PyTorch,
# in the version of benches/peers/requirements.txt, the matrix has the rows of PyTorch too.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out="$here/results"
effort=--quick
case "${1-}" in
  "") ;;
  --full) effort= ;;
  *) echo "usage: $0 [--full]" >&2; exit 2 ;;
esac
mkdir -p "$out"

. "$here/environment.sh"

failed=0
# step NAME COMMAND...: what it says goes to a file and to the terminal.
step() {
  name=$1
  shift
  echo "== $name"
  { "$@" 2>&1; echo $? >"$out/.code"; } | tee "$out/$name.txt"
  code=$(cat "$out/.code")
  rm -f "$out/.code"
  [ "$code" = 0 ] || failed=1
  codes="${codes:+$codes, }\"$name\": $code"
}

# no_skips NAME: where there is a GPU, a test that did nothing is one that failed.
no_skips() {
  count=$(grep -c '^skipped: ' "$out/$1.txt")
  [ "$gpu" = yes ] && [ "$count" != 0 ] || return 0
  echo "error: $count tests did nothing, although nvidia-smi sees a GPU"
  failed=1
  codes="$codes, \"$1-skips\": $count"
}

gpu=no
nvidia-smi -L >/dev/null 2>&1 && gpu=yes
codes=
step doctor "$here/bin/bert4rs" doctor --selftest
device=cuda
if ! "$here/bin/bert4rs" doctor | grep -q 'Cuda('; then
  if [ "$gpu" = yes ]; then
    echo "error: nvidia-smi sees a GPU, but doctor sees no CUDA device; see $out/doctor.txt" >&2
    exit 1
  fi
  echo "note: doctor sees no CUDA device: GPU tests are skipped, the rest runs on the CPU"
  device=cpu
fi
for test in "$here"/tests/*; do
  name="test-$(basename "$test")"
  step "$name" "$test" --test-threads=1
  no_skips "$name"
done
step bandwidth "$here/benches/bandwidth" "$device"
if [ "$device" = cuda ]; then
  step optimizers python3 "$here/benches/peers/optimizers.py" --device cuda \
    --program "$here/benches/optimizers"
fi
peers=
if (cd / && python3 -c '
import importlib.metadata, sys
pins = [line.strip().split("==") for line in open(sys.argv[1]) if "==" in line]
assert all(importlib.metadata.version(name).split("+")[0] == pin for name, pin in pins)
' "$here/benches/peers/requirements.txt") 2>/dev/null; then
  peers=--peers
else
  echo "note: no rows of PyTorch: python3 lacks what benches/peers/requirements.txt names"
fi
# The matrix finds its definitions from the working folder, as in a checkout.
cd "$here" || exit 1
# shellcheck disable=SC2086
step matrix "$here/bin/xtask" bench-matrix $effort $peers --program "$here/bin/bert4rs" \
  --corpus "$here/data/corpus.txt" --out "$out/matrix"

printf '{"libtorch": "%s", "commit": "%s", "exit_codes": {%s}}\n' \
  "$torch" "$(cat "$here/commit")" "$codes" >"$out/summary.json"
echo "results: $out"
exit $failed
