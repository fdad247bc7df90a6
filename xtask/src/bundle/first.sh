#!/bin/sh
# The first checks on a GPU that has not run this code before: each is cheap, rests on those before
# it, and ends the script where it fails.
#
#   ./first.sh
#
# What each said is in results/first/. Ends with 0 if all hold. Then: ./run.sh --full
set -u
here=$(cd "$(dirname "$0")" && pwd)
. "$here/environment.sh"
out="$here/results/first"
mkdir -p "$out"
program="$here/bin/bert4rs"

# check NAME COMMAND...: what it says goes to a file and to the terminal; a failure is the end.
check() {
  name=$1
  shift
  echo "== $name"
  { "$@" 2>&1; echo $? >"$out/.code"; } | tee "$out/$name.txt"
  code=$(cat "$out/.code")
  rm -f "$out/.code"
  if [ "$code" != 0 ]; then
    echo "FAILED: $name (exit code $code); see $out/$name.txt" >&2
    exit 1
  fi
}

# without_skips COMMAND...: fails where a test says that it did nothing.
without_skips() {
  log="$out/.skips"
  "$@" 2>&1 | tee "$log"
  if ! grep -q 'test result: ok' "$log" || grep -q '^skipped: ' "$log"; then
    echo "a test failed or did nothing"
    return 1
  fi
}

sees_gpu() { "$program" doctor | tee "$out/.doctor" && grep -q 'Cuda(' "$out/.doctor"; }

# The tests of a module of tensor-core, each in a process of its own.
alone() {
  names=$("$here/tests/tensor-core" --list 2>/dev/null | sed -n "s/^\\($1::.*\\): test\$/\\1/p")
  [ -n "$names" ] || { echo "no tests of $1"; return 1; }
  for test in $names; do
    without_skips "$here/tests/tensor-core" --exact "$test" --nocapture || return 1
  done
}

# run NAME ARGUMENTS...: a short training run, kept in $out/NAME.
run() {
  folder=$1
  shift
  "$program" train --preset recommended --corpus "$here/data/corpus.txt" --device cuda \
    --max-steps 50 --set train.log_every=1 --set train.eval_sequences=0 --overwrite \
    --out "$out/$folder" "$@" 2>&1 | tee "$out/$folder.log"
  [ -f "$out/$folder/summary.json" ] || return 1
}

judge() { python3 "$here/checks.py" "$@"; }

# same_losses NAME ARGUMENTS...: steps launched in three ways, which must do the same.
same_losses() {
  name=$1
  shift
  for how in eager capturable cuda_graphs; do
    run "$name-$how" --set compute.execution=$how "$@" || return 1
    judge quiet "$out/$name-$how.log" && judge flat "$out/$name-$how" || return 1
  done
  judge equal "$out/$name-eager" "$out/$name-capturable" "$out/$name-cuda_graphs" &&
    judge replayed "$out/$name-cuda_graphs"
}

# Of GPT and T5: how many shapes batches have, and that their graphs are used.
replays() {
  run "graphs-$1" --model "$1" --set compute.execution=cuda_graphs &&
    judge quiet "$out/graphs-$1.log" && judge replayed "$out/graphs-$1"
}

# Attention by each kernel, also where cuDNN's gradients are NaN: 192 is 64 beyond 128.
attention() {
  for kernel in fused math efficient; do
    for length in 192 512; do
      name="attention-$kernel-$length"
      run "$name" --seq-len $length --set "compute.attention=$kernel" || return 1
      judge finite "$out/$name" || return 1
    done
  done
  judge equal "$out/attention-math-512" "$out/attention-fused-512" "$out/attention-efficient-512" &&
    judge equal "$out/attention-math-192" "$out/attention-fused-192"
}

own_kernels() {
  run kernels-off --set compute.cuda_kernels=none &&
    run kernels-on --set compute.cuda_kernels=all &&
    run kernels-proven --set compute.cuda_kernels=proven &&
    judge equal "$out/kernels-off" "$out/kernels-on" "$out/kernels-proven" &&
    judge rates "$out/kernels-off" "$out/kernels-on" "$out/kernels-proven"
}

sanitizer() {
  # The heaviest shapes take minutes under it; races show in any.
  compute-sanitizer --tool "$1" --error-exitcode 1 "$here/tests/kernels" --test-threads=1 gpu
}

check doctor "$program" doctor --selftest
check gpu sees_gpu
check kernels without_skips "$here/tests/kernels" --test-threads=1 --nocapture
for module in cuda_loading graph copy_stream varlen attention; do
  check "tensor-core-$module" alone "$module"
done
check steps same_losses steps
check dropout same_losses dropout --set model.dropout=0.1
check gpt replays gpt
check t5 replays t5
check head-products judge head-products
check attention attention
check own-kernels own_kernels
check light judge light
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    check "sanitizer-$tool" sanitizer "$tool"
  done
else
  echo "note: compute-sanitizer is not installed: memory and races of the kernels are not checked"
fi
echo "all first checks hold; now ./run.sh --full"
