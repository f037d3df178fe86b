"""The deployment examples: each is accepted by the tool or schema of its kind, and agrees with the documentation."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from botocore.session import Session
from botocore.validate import ParamValidator

from balog_celery.operations.provision import PERMISSIONS
from balog_celery.sqs.addresses import dead_letter_topic

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
#: Schemas of other projects; NOTICE in this folder says which.
SCHEMAS = ROOT / "tests" / "data" / "schemas"

hcl2 = pytest.importorskip("hcl2")
jsonschema = pytest.importorskip("jsonschema")
kubernetes_validate = pytest.importorskip("kubernetes_validate")
yaml = pytest.importorskip("yaml")


def kubernetes(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text()))


def faults(schema: str, document: Any) -> list[str]:
    """What the schema in that file does not allow in *document*."""
    validator = jsonschema.Draft7Validator(json.loads((SCHEMAS / schema).read_text()))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def documented_actions() -> set[str]:
    """The permissions that README.md lists for a worker."""
    (text,) = re.findall(r"The credentials need (.*?dead-letter queue)", (ROOT / "README.md").read_text(), re.DOTALL)
    return set(re.findall(r"sqs:\w+", text))


def test_every_example_is_listed() -> None:
    """The README of the folder lists every subfolder."""
    rows = re.findall(r"^\| `(\w+)/` \|", (DEPLOY / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(path.name for path in DEPLOY.iterdir() if path.is_dir())


@pytest.mark.parametrize("number", range(2))
def test_kubernetes_accepts_the_worker(number: int) -> None:
    """The Kubernetes manifest is valid by the API's JSON schema, without unknown fields."""
    kubernetes_validate.validate(kubernetes("worker.yaml")[number], "1.30", strict=True)


def test_keda_scales_the_worker_that_is_deployed() -> None:
    """The ScaledObject names the Deployment."""
    deployment, _ = kubernetes("worker.yaml")
    (scaled,) = kubernetes("scaledobject.yaml")
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert scaled["spec"]["minReplicaCount"] <= scaled["spec"]["maxReplicaCount"]


def test_keda_accepts_the_scaled_object() -> None:
    """It is valid by KEDA's resource definition and by the parameters of its scaler for SQS, without unknown fields."""
    (scaled,) = kubernetes("scaledobject.yaml")
    assert faults("keda-scaledobject.json", scaled) == []
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "aws-sqs-queue"
    assert faults("keda-aws-sqs-queue.json", trigger["metadata"]) == []
    # And what is misspelt is found.
    assert faults("keda-scaledobject.json", {**scaled, "spec": {**scaled["spec"], "maxReplicas": 20}})
    assert faults("keda-aws-sqs-queue.json", {**trigger["metadata"], "queueLenght": "100"})


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` accepts the unit, given an existing program and user."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = (DEPLOY / "systemd" / "shop-worker.service").read_text()
    unit = tmp_path / "shop-worker.service"
    unit.write_text(text.replace("/opt/shop/.venv/bin/celery", "/bin/true").replace("User=shop", "User=root"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []


def test_ecs_accepts_the_task_definition() -> None:
    """The ECS task definition has the parameters of RegisterTaskDefinition in botocore's model."""
    given = json.loads((DEPLOY / "ecs" / "task-definition.json").read_text())
    model = Session().get_service_model("ecs").operation_model("RegisterTaskDefinition")
    report = ParamValidator().validate(given, model.input_shape)
    assert not report.has_errors(), report.generate_report()
    assert given["containerDefinitions"][0]["stopTimeout"] <= 120  # Fargate's maximum


def test_terraform_accepts_the_format_of_the_module() -> None:
    """`terraform fmt` parses each file of the module and has nothing to change."""
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not installed")
    command = ["terraform", "fmt", "-check", "-diff", str(DEPLOY / "terraform")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_terraform_module_grants_what_the_documentation_lists() -> None:
    """The worker's policy in Terraform allows exactly the actions of README.md."""
    with (DEPLOY / "terraform" / "main.tf").open() as file:
        module = hcl2.load(file)
    documents = {
        name.strip('"'): value for block in module["data"] for kind in block.values() for name, value in kind.items()
    }
    statements = documents["worker"]["statement"]
    actions = {action.strip('"') for statement in statements for action in statement["actions"]}
    assert actions == documented_actions()
    assert set(documents) == {"worker", "producer", "operator"}


def test_operators_are_granted_the_same_everywhere() -> None:
    """The operator's policy in Terraform is that of `balog topics --terraform`, and the documentation names each."""
    with (DEPLOY / "terraform" / "main.tf").open() as file:
        module = hcl2.load(file)
    (document,) = [
        value
        for block in module["data"]
        for kind in block.values()
        for name, value in kind.items()
        if name.strip('"') == "operator"
    ]
    actions = {action.strip('"') for statement in document["statement"] for action in statement["actions"]}
    assert actions == {action for granted in PERMISSIONS["operator"] for action in granted}
    text = (ROOT / "docs" / "operating.md").read_text()
    assert [action for action in sorted(actions) if f"`{action}`" not in text] == []


def test_the_terraform_module_names_the_dead_letter_queue_as_the_engine_does() -> None:
    """Terraform names dead-letter queues like the default of `balog_dead_letter`."""
    text = (DEPLOY / "terraform" / "main.tf").read_text()
    assert dead_letter_topic("{topic}-dead", "orders") == "orders-dead"
    assert '"${var.topic}-dead"' in text
    assert dead_letter_topic("{topic}-dead", "orders.fifo") == "orders-dead.fifo"
    assert '"${trimsuffix(var.topic, ".fifo")}-dead.fifo"' in text


def exposed_metrics() -> set[str]:
    """The names of all metrics that a worker's port can serve."""
    exposition = pytest.importorskip("balog_celery.metrics.exposition")
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    state = dict.fromkeys(("received", "in_flight", "oldest", "owed", "last_poll", "doing_for", "visibility"), 0)
    more = {"doing": "paused", "back_pressure": True, "reason": "", "trouble": "", "outages": {}}
    topic = {**state, **more, "lag": {"sent": {"last": 1.0, "max": 1.0}}}
    status = {"written": time.time(), "pid": 1, "wait_time": 20, "topics": {"t": topic}}
    registry.register(exposition.EngineCollector(lambda: [status]))
    exposition.TaskMetrics(registry).ended("t", "c", "succeeded", 0.1)
    return {sample.name for family in registry.collect() for sample in family.samples}


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\bbalog_\w+", expression))


def test_alerts_are_about_metrics_that_exist(tmp_path: Path) -> None:
    """And promtool accepts them, where it is installed."""
    path = DEPLOY / "prometheus" / "alerts.yaml"
    (group,) = yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert names_in(rule["expr"])
        assert names_in(rule["expr"]) <= exposed_metrics()
    if (promtool := shutil.which("promtool")) is not None:
        done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_accepts_the_dashboard() -> None:
    """Dashboard and queries are valid by the schemas of Grafana's SDK, without unknown fields."""
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    queries = [target for panel in dashboard["panels"] for target in panel["targets"]]
    assert faults("grafana-dashboard.json", dashboard) == []
    assert [fault for query in queries for fault in faults("grafana-prometheus-query.json", query)] == []
    # And what is misspelt is found.
    panel = dashboard["panels"][0]
    assert faults("grafana-dashboard.json", {**dashboard, "panels": [{**panel, "fieldConfigs": {}}]})
    assert faults("grafana-prometheus-query.json", {**queries[0], "expression": "up"})


def test_the_dashboard_shows_metrics_that_exist() -> None:
    """Each panel has a place of its own, and its data source is the one that is picked."""
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    places, ids = set(), set()
    for panel in dashboard["panels"]:
        ids.add(panel["id"])
        places.add((panel["gridPos"]["x"], panel["gridPos"]["y"]))
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert names_in(target["expr"])
            assert names_in(target["expr"]) <= exposed_metrics()
    assert len(places) == len(ids) == len(dashboard["panels"])
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$(\w+)", json.dumps(dashboard))) - {"__rate_interval"} <= variables


def test_probes_ask_the_port_of_metrics() -> None:
    """Each by a path that is served there."""
    deployment, _ = kubernetes("worker.yaml")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (port,) = container["ports"]
    for probe, path in (("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
