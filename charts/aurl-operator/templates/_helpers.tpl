{{/* The chart's name, or nameOverride. */}}
{{- define "aurl-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Base name of all objects: unique per release, at most 40 characters. */}}
{{- define "aurl-operator.fullname" -}}
{{- $name := include "aurl-operator.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Base name of cluster-scoped objects, which includes the namespace of the release. */}}
{{- define "aurl-operator.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "aurl-operator.fullname" .) -}}
{{- end -}}

{{- define "aurl-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "aurl-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "aurl-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "aurl-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: aurl
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "aurl-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "aurl-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is required when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "aurl-operator.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "aurl-operator.trainerImage" -}}
{{- default (printf "aurl-trainer:%s" .Chart.AppVersion) .Values.trainer.image -}}
{{- end -}}
