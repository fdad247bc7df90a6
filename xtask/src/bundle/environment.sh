# Sourced by the bundle's scripts: finds PyTorch's own libtorch. $here is the bundle.

# From the folder of the bundle, python3 would look for modules there first.
torch=$(cd / && python3 -c '
import os, torch
assert torch.__version__.split("+")[0] == "2.11.0", f"PyTorch is {torch.__version__}, not 2.11.0"
print(os.path.dirname(torch.__file__))
') || { echo "error: python3 must have PyTorch 2.11.0: pip install torch==2.11.0" >&2; exit 2; }
libraries="$torch/lib"
for folder in "$torch"/../nvidia/*/lib; do
  [ -d "$folder" ] && libraries="$libraries:$folder"
done
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
echo "libtorch: $torch/lib"
