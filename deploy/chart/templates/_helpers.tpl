{{- define "asr.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "asr.selector" -}}
app.kubernetes.io/name: moonshine-asr
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "asr.labels" -}}
{{ include "asr.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "asr.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "asr.claim" -}}
{{ .Values.engines.claim.name | default (printf "%s-engines" (include "asr.name" .)) }}
{{- end }}

{{- /* Of the server and of the job: the same settings choose the same engine. */}}
{{- define "asr.settings" -}}
- { name: ASR_ENGINE_DIR, value: {{ .Values.engines.path | quote }} }
- { name: CUDA_CACHE_PATH, value: /tmp/cuda }
{{- range $name, $value := .Values.settings }}
- { name: {{ $name }}, value: {{ $value | quote }} }
{{- end }}
{{- end }}

{{- define "asr.secret" -}}
- name: {{ .name }}
  valueFrom: { secretKeyRef: { name: {{ .secret.name | quote }}, key: {{ .secret.key | quote }} } }
{{- end }}

{{- define "asr.resources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- if .Values.gpu.count }}
{{- $resources = merge $resources (dict "limits" (dict .Values.gpu.resource .Values.gpu.count)) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{- define "asr.placement" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext: { runAsNonRoot: true, runAsUser: 10001, fsGroup: 10001, seccompProfile: { type: RuntimeDefault } }
{{- end }}

{{- define "asr.hardened" -}}
{ readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: { drop: [ALL] } }
{{- end }}
