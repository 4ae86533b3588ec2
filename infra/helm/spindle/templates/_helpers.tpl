{{- define "spindle.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "spindle.labels" -}}
app.kubernetes.io/name: spindle
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* dict root, component */}}
{{- define "spindle.selector" -}}
app.kubernetes.io/name: spindle
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "spindle.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* One clear sentence for what no single key shows. */}}
{{- define "spindle.check" -}}
{{- if and (not .Values.tls.existingSecret) (not .Values.trustedNetwork) -}}
{{- fail "tls.existingSecret: expected a Secret with tls.crt, tls.key and ca.crt, or trustedNetwork: true, got neither" -}}
{{- end -}}
{{- if and (not .Values.store.s3.url) (not .Values.store.pvc.existingClaim) -}}
{{- fail "store: expected s3.url, or pvc.existingClaim of a volume that all pods can write to, got neither" -}}
{{- end -}}
{{- if and .Values.store.s3.url .Values.store.pvc.existingClaim -}}
{{- fail "store: expected either s3.url or pvc.existingClaim, got both" -}}
{{- end -}}
{{- if and (not .Values.nats.enabled) (not .Values.nats.external.url) -}}
{{- fail "nats.external.url: expected an address where nats.enabled is false, got nothing" -}}
{{- end -}}
{{- if and (gt (int .Values.trainer.ranks) 1) (not .Values.store.s3.url) (not .Values.store.pvc.existingClaim) -}}
{{- fail "trainer.ranks: expected a store that all ranks read" -}}
{{- end -}}
{{- end -}}

{{- define "spindle.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "spindle.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
{{- end -}}

{{- define "spindle.tokenSecret" -}}
{{ .Values.auth.existingSecret | default (printf "%s-auth" (include "spindle.name" .)) }}
{{- end -}}

{{- define "spindle.natsSecret" -}}
{{ .Values.nats.existingSecret | default (printf "%s-nats" (include "spindle.name" .)) }}
{{- end -}}

{{/* Of the trainer's rank 0. */}}
{{- define "spindle.trainerHost" -}}
{{- $name := printf "%s-trainer" (include "spindle.name" .) -}}
{{- if gt (int .Values.trainer.ranks) 1 -}}{{ $name }}-0.{{ $name }}{{- else -}}{{ $name }}{{- end -}}
{{- end -}}

{{- define "spindle.scheme" -}}
{{- if .Values.tls.existingSecret -}}https://{{- end -}}
{{- end -}}

{{/* dict root, user: what every container of Spindle gets */}}
{{- define "spindle.env" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
- name: SPINDLE_ARTIFACTS
  value: /artifacts
- name: HOME
  value: /tmp
- name: SPINDLE_WORKER_ID
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: SPINDLE_TOKEN_FILE
  value: /etc/spindle/auth/token
- name: SPINDLE_ISA
  value: {{ $values.engine.isa | quote }}
{{- if $values.trustedNetwork }}
- name: SPINDLE_TRUSTED_NETWORK
  value: "1"
{{- end }}
{{- if .user }}
{{- if $values.nats.enabled }}
- name: NATS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "spindle.natsSecret" $root }}, key: {{ .user }}}}
- name: SPINDLE_NATS_URL
  value: "{{ if $values.tls.existingSecret }}tls{{ else }}nats{{ end }}://{{ .user }}:$(NATS_PASSWORD)@{{ include "spindle.name" $root }}-nats:4222"
- name: SPINDLE_NATS_REPLICAS
  value: {{ $values.nats.replicas | quote }}
{{- else }}
- name: SPINDLE_NATS_URL
  value: {{ $values.nats.external.url | quote }}
{{- end }}
- name: SPINDLE_NATS_WAIT
  value: "300"
{{- end }}
{{- with $values.store.s3 }}
{{- if .url }}
- name: SPINDLE_STORE
  value: {{ .url | quote }}
{{- with .endpoint }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ . | quote }}
{{- end }}
{{- with .region }}
- name: AWS_REGION
  value: {{ . | quote }}
{{- end }}
{{- if .existingSecret }}
{{- range $key := list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ $key }}
  valueFrom: {secretKeyRef: {name: {{ $values.store.s3.existingSecret }}, key: {{ $key }}}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- with $values.telemetry.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
- name: POD_NODE
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: "service.namespace={{ $root.Release.Namespace }},k8s.node.name=$(POD_NODE)"
{{- end }}
{{- with $values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Certificates; of servers that only the mesh calls with "mutual". */}}
{{- define "spindle.tlsEnv" -}}
{{- if .root.Values.tls.existingSecret }}
- name: SPINDLE_TLS_CERT
  value: /etc/spindle/tls/tls.crt
- name: SPINDLE_TLS_KEY
  value: /etc/spindle/tls/tls.key
- name: SPINDLE_TLS_CA
  value: /etc/spindle/tls/ca.crt
{{- if .mutual }}
- name: SPINDLE_TLS_CLIENT_CA
  value: /etc/spindle/tls/ca.crt
{{- end }}
{{- end }}
{{- end -}}

{{- define "spindle.mounts" -}}
- {name: artifacts, mountPath: /artifacts}
- {name: tmp, mountPath: /tmp}
- {name: auth, mountPath: /etc/spindle/auth, readOnly: true}
{{- if .Values.tls.existingSecret }}
- {name: tls, mountPath: /etc/spindle/tls, readOnly: true}
{{- end }}
{{- range .Values.models }}
- {name: {{ .name }}, mountPath: {{ .mountPath }}, readOnly: true}
{{- end }}
{{- end -}}

{{/* Secrets are mounted as folders: a file of one would never be renewed. */}}
{{- define "spindle.volumes" -}}
- name: tmp
  emptyDir: {}
- name: auth
  secret: {secretName: {{ include "spindle.tokenSecret" . }}}
{{- if .Values.tls.existingSecret }}
- name: tls
  secret: {secretName: {{ .Values.tls.existingSecret }}}
{{- end }}
{{- range .Values.models }}
- name: {{ .name }}
  persistentVolumeClaim: {claimName: {{ .claim }}, readOnly: true}
{{- end }}
{{- end -}}

{{/* Where artifacts lie: the store's volume, or a cache. */}}
{{- define "spindle.artifacts" -}}
- name: artifacts
{{- if .Values.store.pvc.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.store.pvc.existingClaim }}}
{{- else }}
  emptyDir: {}
{{- end }}
{{- end -}}

{{/* A busy engine is alive: liveness asks the process, readiness NATS and the lease. */}}
{{- define "spindle.probes" -}}
startupProbe:
  grpc: {port: {{ . }}, service: live}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 150
readinessProbe:
  grpc: {port: {{ . }}}
  periodSeconds: 5
  timeoutSeconds: 2
livenessProbe:
  grpc: {port: {{ . }}, service: live}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}

{{/* dict root, pool: where pods go */}}
{{- define "spindle.placement" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pool.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .pool.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .pool.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pool.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
tolerations: {{- toYaml .pool.tolerations | nindent 2 }}
{{- end -}}

{{/* of a pool or the trainer, with its GPUs */}}
{{- define "spindle.resources" -}}
{{- $limits := deepCopy (.resources.limits | default dict) -}}
{{- if gt (int .gpus) 0 -}}{{- $_ := set $limits .gpuResource (toString .gpus) -}}{{- end -}}
{{ toYaml (dict "requests" .resources.requests "limits" $limits) }}
{{- end -}}
