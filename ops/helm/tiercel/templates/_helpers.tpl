{{/* The release's name, once: "tiercel" rather than "tiercel-tiercel". 50 characters leave room for what follows. */}}
{{- define "tiercel.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of one service. Call with (dict "root" $ "role" "worker"); never changes between versions. */}}
{{- define "tiercel.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{- define "tiercel.labels" -}}
{{ include "tiercel.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: tiercel
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "tiercel.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "tiercel.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "tiercel.image" -}}
{{- $tag := default .root.Chart.AppVersion .root.Values.image.tag -}}
{{- $suffix := and (eq .role "worker") (gt (int .root.Values.worker.gpu.count) 0) | ternary "-cuda" "" -}}
image: {{ printf "%stiercel-%s:%s%s" .root.Values.image.registry .role $tag $suffix | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- end -}}

{{/* HOST:PORT of every worker, by the names that a StatefulSet gives. */}}
{{- define "tiercel.workers" -}}
{{- $name := printf "%s-worker" (include "tiercel.fullname" .) -}}
{{- range $i := until (int .Values.worker.replicas) -}}
{{- if $i }},{{ end }}{{ printf "%s-%d.%s:50053" $name $i $name }}
{{- end -}}
{{- end -}}

{{/* The same for every pod: no root, no token of the cluster, no variables of other services. */}}
{{- define "tiercel.pod" -}}
serviceAccountName: {{ include "tiercel.serviceAccountName" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
# Longer than drain_timeout_s: running answers are finished, blocks are brought to disk.
terminationGracePeriodSeconds: 60
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $placing := index .root.Values .role }}
{{- with $placing.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $placing.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $placing.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "tiercel.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Restarted if it does not answer at all, sent work once it is ready. Call with (dict "port" 50051). */}}
{{- define "tiercel.probes" -}}
livenessProbe:
  grpc: {port: {{ .port }}, service: liveness}
  initialDelaySeconds: 15
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 3
readinessProbe:
  grpc: {port: {{ .port }}}
  periodSeconds: 3
  timeoutSeconds: 3
{{- end -}}

{{- define "tiercel.telemetryEnv" -}}
{{- with .Values.otlp.endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }}}
{{- end }}
# Metrics are scraped.
- {name: OTEL_METRICS_EXPORTER, value: none}
{{- end -}}

{{- define "tiercel.hubEnv" -}}
{{- if .Values.hub.tokenSecret.name }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ .Values.hub.tokenSecret.name | quote }}, key: {{ .Values.hub.tokenSecret.key | quote }}}
{{- end }}
{{- end -}}

{{- define "tiercel.mounts" -}}
- {name: config, mountPath: /etc/tiercel, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- end -}}

{{- define "tiercel.volumes" -}}
- name: config
  configMap: {name: {{ include "tiercel.fullname" . }}}
- name: tmp
  emptyDir: {medium: Memory, sizeLimit: 64Mi}
{{- end -}}

{{- define "tiercel.modelMounts" -}}
- {name: huggingface, mountPath: /var/lib/tiercel/huggingface}
{{- if .Values.model.volume }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- end -}}

{{- define "tiercel.modelVolumes" -}}
- name: huggingface
{{- if .Values.hub.volume }}
  {{- toYaml .Values.hub.volume | nindent 2 }}
{{- else }}
  emptyDir: {}
{{- end }}
{{- with .Values.model.volume }}
- name: models
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
