# What the scripts that drive a built dsde share; to be sourced, with the script's own arguments.
#
# Sets `here` (the folder of the script), `root` (that of the project) and `dsde` (the binary: the first argument, else the one in
# target/release or target/debug).

# Ends the script where something is missing that the project cannot bring.
skip() {
    echo "SKIPPED: NOTHING WAS CHECKED. $1" >&2
    exit 77
}

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
dsde=${1:-}
for candidate in "$root/target/release/dsde" "$root/target/debug/dsde"; do
    if [ -z "$dsde" ] && [ -x "$candidate" ]; then dsde=$candidate; fi
done
if [ -z "$dsde" ]; then
    echo "there is no dsde; build it (cargo build --release) or name it" >&2
    exit 2
fi
