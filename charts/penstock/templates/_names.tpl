{{/* Name of the operator's objects; 50 characters, so that -metrics still fits. */}}
{{- define "penstock.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $release := .Release.Name -}}
{{- if not (contains "penstock" $release) -}}
{{- $release = printf "%s-penstock" (trunc 32 $release) -}}
{{- end -}}
{{- if hasSuffix "-operator" $release -}}
{{- $release | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-operator" ($release | trunc 41 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "penstock.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "penstock.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | required "serviceAccount.name: name the service account that exists, or set serviceAccount.create" -}}
{{- end -}}
{{- end -}}

{{/* The Lease by which operators agree on the one that works. */}}
{{- define "penstock.leaseName" -}}
{{- .Values.leaderElection.leaseName | default (include "penstock.fullname" .) -}}
{{- end -}}

{{/* The namespace whose consumers are run; empty for all. */}}
{{- define "penstock.watchNamespace" -}}
{{- if eq .Values.scope "Namespaced" -}}
{{- .Values.watchNamespace | default .Release.Namespace -}}
{{- end -}}
{{- end -}}

{{/* What cluster-wide objects are called: two releases in two namespaces may have one name. */}}
{{- define "penstock.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "penstock.fullname" .) -}}
{{- end -}}

{{/* Which pods are the operator's. A Deployment's selector can't change: nor may these. */}}
{{- define "penstock.selectorLabels" -}}
app.kubernetes.io/name: penstock-operator
app.kubernetes.io/instance: {{ .Release.Name | toYaml }}
{{- end -}}

{{- define "penstock.metadataLabels" -}}
app.kubernetes.io/part-of: penstock
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "penstock.labels" -}}
{{ include "penstock.selectorLabels" . }}
{{ include "penstock.metadataLabels" . }}
{{- end -}}

{{/* An image's reference. Takes (dict "root" $ "image" .Values.image). */}}
{{- define "penstock.image" -}}
{{- $repository := .image.repository -}}
{{- if .root.Values.imageRegistry -}}
{{- $repository = printf "%s/%s" .root.Values.imageRegistry $repository -}}
{{- end -}}
{{- $reference := printf "%s:%s" $repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- if .image.digest -}}
{{- $reference = printf "%s@%s" $reference .image.digest -}}
{{- end -}}
{{- $reference -}}
{{- end -}}
