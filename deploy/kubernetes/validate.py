"""Validates the manifests beside this file. Run by `validate`, which installs the imported packages.

Kubernetes' own kinds are checked strictly against its published JSON schemas: an unknown field is an error. The
operator's PodMonitor is parsed with a model generated from its published definition. That model ignores unknown
fields, so its output must equal the input.
"""

import sys
from pathlib import Path

import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator.v1 import PodMonitor

# The first version with native sidecars on by default, and the latest that the package has.
VERSIONS = ("1.29", kubernetes_validate.latest_version())


def mistakes(document):
    """Yields the errors of one object."""
    if document["apiVersion"] == "monitoring.coreos.com/v1":
        try:
            model = PodMonitor.model_validate(document)
        except ValueError as error:
            yield str(error)
            return
        if model.model_dump(mode="json", by_alias=True, exclude_unset=True) != document:
            yield "PodMonitor has no such field"
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}"


def main():
    failed = False
    for path in sorted(Path(__file__).parent.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            name = f"{path.name}: {document['kind']} {document['metadata']['name']}"
            found = list(mistakes(document))
            print(f"{name}: {'; '.join(found) or 'valid'}")
            failed = failed or bool(found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
