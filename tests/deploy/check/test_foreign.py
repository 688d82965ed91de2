"""Correct manifests of quite other software, which the linter must leave alone."""

from typing import Any

import pytest
import yaml
from manifest_examples import FACTS, findings

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: nginx
          image: nginx:1.29
          readinessProbe: {httpGet: {path: /healthz, port: 8080}, timeoutSeconds: 1}
          livenessProbe: {httpGet: {path: /healthz, port: 8080, httpHeaders: [{name: Host, value: web.example.com}]}}
          volumeMounts: [{name: site, mountPath: /usr/share/nginx/html, readOnly: true}]
      volumes: [{name: site, configMap: {name: site}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: site}
data: {index.html: "<h1>Hello</h1>", nginx.conf: "server { listen 8080; location / { return 200 $host; } }"}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
    - host: web.example.com
      http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: other}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  minReplicas: 1
  maxReplicas: 3
  metrics:
    - {type: External, external: {metric: {name: queue_length}, target: {type: AverageValue, averageValue: "30"}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {matchLabels: {app: batch}}, policyTypes: [Ingress, Egress]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: batch}
spec:
  schedule: "0 3 * * *"
  jobTemplate:
    spec:
      template:
        metadata: {labels: {app: batch}}
        spec:
          restartPolicy: OnFailure
          activeDeadlineSeconds: 600
          containers: [{name: batch, image: "busybox:1.37", command: [sh, -c, "date; sleep 5"]}]
"""

DATABASE = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 1
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 120
      securityContext: {fsGroup: 999}
      initContainers:
        - {name: own, image: "busybox:1.37", command: [sh, -c, "chown -R 999:999 /data"],
           securityContext: {runAsUser: 0}, volumeMounts: [{name: data, mountPath: /data}]}
      containers:
        - name: postgres
          image: postgres:18
          ports: [{name: sql, containerPort: 5432}]
          env:
            - {name: POSTGRES_PASSWORD, valueFrom: {secretKeyRef: {name: db, key: password}}}
            - {name: PGDATA, value: /data/pg}
          readinessProbe: {exec: {command: [pg_isready, -U, postgres]}, periodSeconds: 5}
          livenessProbe: {tcpSocket: {port: sql}, initialDelaySeconds: 30}
          lifecycle: {preStop: {exec: {command: [sh, -c, "pg_ctl stop -m fast; sleep 2"]}}}
          resources: {requests: {cpu: 500m, memory: 1Gi}, limits: {memory: 2Gi}}
          volumeMounts: [{name: data, mountPath: /data}, {name: shm, mountPath: /dev/shm}]
      volumes: [{name: shm, emptyDir: {medium: Memory, sizeLimit: 256Mi}}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Gi}}}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 5432, targetPort: sql}]}
---
apiVersion: v1
kind: Secret
metadata: {name: db}
stringData: {password: "change me"}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: db}
spec: {minAvailable: 1, selector: {matchLabels: {app: db}}}
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: db}
spec:
  groups:
    - name: db
      rules:
        - {record: "job:pg_up:sum", expr: "sum by (job) (pg_up)"}
        - {alert: Down, expr: 'job:pg_up:sum < 1 or absent(pg_up{job="db"})', for: 5m, labels: {severity: critical}}
        - {alert: Slow, expr: "histogram_quantile(0.99, sum by (le) (rate(pg_query_seconds_bucket[5m]))) > 1"}
"""

TRITON = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: triton}
spec:
  selector: {matchLabels: {app: triton}}
  template:
    metadata: {labels: {app: triton}}
    spec:
      nodeSelector: {nvidia.com/gpu.product: NVIDIA-L4}
      tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
      terminationGracePeriodSeconds: 60
      containers:
        - name: server
          image: registry.example.com/tritonserver:26.07-py3
          command: [tritonserver]
          args:
            - --model-repository=s3://models/all
            - --http-port=9000
            - --grpc-port=9001
            - --metrics-port=9002
            - --exit-timeout-secs=20
            - --log-verbose=1
            - --strict-readiness=true
          ports:
            - {containerPort: 9000, name: http}
            - {containerPort: 9001, name: grpc}
            - {containerPort: 9002, name: metrics}
          startupProbe: {httpGet: {path: /v2/health/ready, port: http}, failureThreshold: 60}
          readinessProbe: {grpc: {port: 9001}}
          livenessProbe: {httpGet: {path: /v2/health/live, port: 9000}}
          lifecycle: {preStop: {exec: {command: [/bin/sleep, "10"]}}}
          resources: {limits: {nvidia.com/gpu: 1, cpu: "8", memory: 32Gi}}
          securityContext: &closed
            allowPrivilegeEscalation: false
            runAsNonRoot: true
            runAsUser: 1000
            capabilities: {drop: [ALL]}
            seccompProfile: {type: RuntimeDefault}
          volumeMounts: [{name: shm, mountPath: /dev/shm}]
        - name: proxy
          image: registry.example.com/proxy:2
          command: [proxy, --listen=0.0.0.0:8080, --to=localhost:9000]
          ports: [{containerPort: 8080}]
          readinessProbe: {httpGet: {path: /ok, port: 8080}}
          securityContext: *closed
      automountServiceAccountToken: false
      volumes: [{name: shm, emptyDir: {medium: Memory, sizeLimit: 1Gi}}]
---
apiVersion: v1
kind: Service
metadata: {name: triton, labels: {app: triton}}
spec:
  selector: {app: triton}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: grpc, port: 8001, targetPort: grpc}, {name: m, port: 9002}]
---
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata: {name: triton}
spec: {selector: {matchLabels: {app: triton}}, endpoints: [{port: m, interval: 15s, scrapeTimeout: 10s}]}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: other}
spec:
  scaleTargetRef: {name: triton}
  minReplicaCount: 2
  triggers:
    - type: prometheus
      metadata:
        serverAddress: http://prometheus.example.com
        query: sum(rate(nv_inference_request_success{model="resnet"}[1m]))
        threshold: "10.5"
"""


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        (WEB, set()),
        (DATABASE, {"budget-forbids-all"}),
        (TRITON, set()),
    ],
)
def test_leaves_other_software_alone(text: str, warnings: set[str]) -> None:
    objects: list[dict[str, Any]] = list(yaml.safe_load_all(text))

    found = findings(objects, facts=None)

    assert [finding.line() for finding in found if finding.rule not in warnings] == []
    assert {finding.level for finding in found} <= {"warning"}
    assert {finding.rule for finding in found} == warnings


def test_knows_the_model_only_of_the_commands_that_serve_it() -> None:
    found = findings(yaml.safe_load_all(WEB), facts=FACTS)

    assert found == []


def pod_of(kind: str = "Deployment", **container: Any) -> dict[str, Any]:
    labels = {"app": "shop"}
    body = {"name": "shop", "image": "registry.example.com/shop:3", **container}
    selector = labels if kind == "ReplicationController" else {"matchLabels": labels}
    spec = {"selector": selector, "template": {"metadata": {"labels": labels}, "spec": {"containers": [body]}}}
    version = "v1" if kind == "ReplicationController" else "apps/v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "shop"}, "spec": spec}


def one(version: str, kind: str, **rest: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "shop"}, **rest}


BINDING = one(
    "rbac.authorization.k8s.io/v1",
    "RoleBinding",
    roleRef={"kind": "Role", "name": "extension-apiserver-authentication-reader"},
    subjects=[{"kind": "ServiceAccount", "name": "prometheus", "namespace": "monitoring"}],
)
SERVICE = one("v1", "Service", spec={"selector": {"app": "shop"}, "ports": [{"port": 80}]})
MONITOR = one(
    "monitoring.coreos.com/v1",
    "ServiceMonitor",
    spec={
        "namespaceSelector": {"matchNames": ["kube-system"]},
        "selector": {"matchLabels": {"k8s-app": "kube-dns"}},
        "endpoints": [{"port": "metrics"}],
    },
)
TOLD = pod_of(args=["--tls-secret=shop-made"], volumeMounts=[{"name": "tls", "mountPath": "/tls"}])
TOLD["spec"]["template"]["spec"]["volumes"] = [{"name": "tls", "secret": {"secretName": "shop-made"}}]
FETCHED = one(
    "networking.k8s.io/v1",
    "Ingress",
    spec={"tls": [{"secretName": "issued"}], "defaultBackend": {"service": {"name": "shop", "port": {"number": 80}}}},
)
QUEUE = one(
    "keda.sh/v1alpha1",
    "ScaledObject",
    spec={
        "scaleTargetRef": {"name": "shop"},
        "minReplicaCount": 1,
        "triggers": [
            {
                "type": "prometheus",
                "metadata": {
                    "serverAddress": "http://prometheus.example.com",
                    "query": "sum(vllm:num_requests_waiting)",
                    "threshold": "5",
                },
            }
        ],
    },
)


@pytest.mark.parametrize(
    "objects",
    [
        pytest.param([one("networking.istio.io/v1", "Gateway", spec={})], id="kind-of-another-group"),
        pytest.param([one("monitoring.coreos.com/v1", "Prometheus", spec={})], id="kind-of-a-known-operator"),
        pytest.param([one("keda.sh/v1alpha1", "ScaledJob", spec={})], id="other-kind-of-the-scaler"),
        pytest.param([{"apiVersion": "tool/v2beta1", "kind": "Config", "build": {}}], id="settings-of-a-tool"),
        pytest.param([pod_of(), SERVICE, BINDING], id="role-and-account-of-the-cluster"),
        pytest.param([pod_of("ReplicationController"), SERVICE], id="pods-of-a-replication-controller"),
        pytest.param([pod_of(), SERVICE, MONITOR], id="monitor-of-another-namespace"),
        pytest.param([TOLD, one("v1", "Secret")], id="secret-that-the-program-makes"),
        pytest.param([pod_of(image="ko://example.com/cmd/shop")], id="image-that-a-tool-builds"),
        pytest.param([pod_of(), SERVICE, QUEUE], id="series-of-another-server"),
    ],
)
def test_finds_nothing_in_what_works(objects: list[dict[str, Any]]) -> None:
    assert [finding.line() for finding in findings(objects, facts=None)] == []


@pytest.mark.parametrize(
    ("objects", "rule"),
    [
        pytest.param([pod_of(), SERVICE, FETCHED, one("v1", "Secret")], "missing-object", id="certificate"),
        pytest.param(
            [pod_of(ports=[{"name": "a", "containerPort": 80}, {"name": "b", "containerPort": 80}])],
            "port-declared-twice",
            id="two-names-for-a-port",
        ),
    ],
)
def test_only_warns_of_what_may_work(objects: list[dict[str, Any]], rule: str) -> None:
    assert {(finding.rule, finding.level) for finding in findings(objects, facts=None)} == {(rule, "warning")}


def test_finds_a_monitor_of_a_namespace_that_its_service_is_not_in() -> None:
    service = {**SERVICE, "metadata": {"name": "shop", "namespace": "shop", "labels": {"k8s-app": "kube-dns"}}}
    errors = [each.rule for each in findings([MONITOR, service], facts=None) if each.level == "error"]

    assert "monitor-selects-nothing" in errors
