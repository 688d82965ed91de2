#!/bin/sh
# Installs deploykit for the container: in /opt/deploykit, beside the Triton in /opt/tritonserver, without anything that
# only installing needs. Ends with an error unless a token streams from the two of them.
#
#     install.sh SOURCE SBOM
#
# SOURCE is the repository, SBOM the file for the list of the Python packages, in CycloneDX's format.
set -eu
source=$1 sbom=$2
triton=/opt/tritonserver prefix=/opt/deploykit
work=$(mktemp -d)

# The distribution's own libraries, where it has them: those get its updates.
ldconfig -p | awk '$2 ~ /^\(/ { print $1 }' | sort -u > "$work/libraries"
for library in "$triton"/lib/*; do
    if grep -qxF "$(basename "$library")" "$work/libraries"; then
        rm "$library"
    fi
done
echo "$triton/lib" > /etc/ld.so.conf.d/tritonserver.conf
ldconfig

# pip and what lists the packages stay outside: the container installs nothing.
python3 -m venv "$work/tools"
pip="$work/tools/bin/pip --disable-pip-version-check --no-cache-dir"
constraints="$source/constraints.txt"
$pip install --quiet --constraint "$constraints" cyclonedx-bom
$pip wheel --quiet --no-deps --wheel-dir "$work/wheel" "$source"
python3 -m venv --without-pip "$prefix"
wheel=$(echo "$work"/wheel/deploykit-*.whl)
# No compiler is here, so that a package without a wheel is an error and not a surprise.
$pip --python "$prefix/bin/python3" install --quiet --no-compile --only-binary :all: --constraint "$constraints" \
    "deploykit[cpu,gateway,otel,store] @ file://$wheel"

mkdir -p "$(dirname "$sbom")"
"$work/tools/bin/cyclonedx-py" environment --pyproject "$source/pyproject.toml" --mc-type application \
    --spec-version 1.6 --output-format JSON --output-reproducible --validate --output-file "$sbom" "$prefix/bin/python3"

# What packages bring for those who test them, build on them, convert models or look for their faults; and the library of
# ONNX Runtime for other languages, since Python's module has it all inside.
site=$(echo "$prefix"/lib/python3*/site-packages)
find "$site" -depth -type d -name tests -exec rm -r {} +
find "$site" -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' -o -name '*.hpp' -o -name '*.a' \) -delete
rm -r "$site"/onnxruntime/datasets "$site"/onnxruntime/quantization "$site"/onnxruntime/tools "$site"/onnxruntime/transformers
rm "$site"/onnxruntime/capi/libonnxruntime.so.*
find "$site" -type f \( -name '*.cpython-*.so' -o -name '*.abi3.so' \) -exec strip --strip-unneeded {} +

# Bytecode that counts whatever the files' times, since the root is read-only and layers needn't keep them.
"$prefix/bin/python3" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$prefix/lib"
chmod -R a+rX,go-w "$prefix" "$sbom"

"$prefix/bin/python3" "$source/docker/prove.py" "$source/model_repository"
rm -r "$work"
