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
