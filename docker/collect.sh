#!/bin/sh
# Copies a Triton server, its Python backend and every shared library that the loader finds for them into one folder.
#
#     collect.sh SERVER BACKEND STUB FOLDER [LICENSE ...]
#
# SERVER is the program, BACKEND the folder of its Python backend, STUB the backend's process for the Python in use.
# Where a library can't be found there is nothing to collect, so that ends it.
set -eu
server=$1 backend=$2 stub=$3 folder=$4
shift 4

mkdir -p "$folder/bin" "$folder/lib" "$folder/backends"
cp -L "$server" "$folder/bin/tritonserver"
cp -RL "$backend" "$folder/backends/python"
cp -L "$stub" "$folder/backends/python/triton_python_backend_stub"
for license in "$@"; do
    [ ! -f "$license" ] || cp -L "$license" "$folder/"
done

# Asked of the files where they lie: what is linked is found relative to there.
needed=$(ldd "$server" "$stub" "$backend"/*.so)
if echo "$needed" | grep "not found"; then
    echo "error: Triton needs the libraries above, which this image doesn't have" >&2
    exit 1
fi
echo "$needed" | awk '$2 == "=>" { print $1, $3 }' | sort -u | while read -r name path; do
    cp -L "$path" "$folder/lib/$name"
done
chmod -R a+rX,go-w "$folder"
