{{- define "sipcluster.name" -}}
{{- printf "%s-operator" (.Release.Name | trunc 50 | trimSuffix "-") -}}
{{- end -}}

{{- define "sipcluster.selector" -}}
app.kubernetes.io/name: sipcluster-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sipcluster.labels" -}}
{{ include "sipcluster.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* What all pods of the chart have in common: the standard `restricted`, and where they may run. */}}
{{- define "sipcluster.pod" -}}
serviceAccountName: {{ include "sipcluster.name" . }}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "sipcluster.container" -}}
image: {{ .Values.images.operator }}
imagePullPolicy: {{ .Values.images.pullPolicy }}
resources: {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* The variable that says where SipClusters are looked after: everywhere if it is empty. */}}
{{- define "sipcluster.watch" -}}
{name: SIPCLUSTER_WATCH_NAMESPACE, value: {{ ternary "" .Release.Namespace .Values.clusterWide | quote }}}
{{- end -}}
