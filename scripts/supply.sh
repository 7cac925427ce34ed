#!/usr/bin/env bash
# What the server is made of: known vulnerabilities, a bill of materials, licences. Usage: supply.sh OUTDIR
# The first needs the index's own service of advisories, which mirrors mostly do not have; what cannot be audited is an error.
source "$(dirname "$0")/environment.sh"
out=$(cd "$CALLER_DIR" && realpath -m "${1:?a directory for the reports}")
mkdir -p "$out"
make_environment
install_project server,tracing,test
tools="$out/tools"
"$PYTHON" -m venv "$tools"
"$tools/bin/pip" install --quiet pip-audit==2.10.1 cyclonedx-bom==7.5.0
"$tools/bin/cyclonedx-py" requirements requirements.lock --output-reproducible -o "$out/sbom.cdx.json"
"$PYTHON" scripts/licences.py > "$out/licences.md"
"$tools/bin/pip-audit" -r requirements.lock --no-deps --disable-pip --strict -f markdown -o "$out/audit.md"
echo "in $out: sbom.cdx.json, licences.md, audit.md"
