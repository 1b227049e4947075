{{/* What the schema can't say, or not in words that help. The Deployment includes it. */}}
{{- define "penstock.checks" -}}
{{- if and (not .Values.leaderElection.enabled) (gt (int .Values.replicas) 1) -}}
{{- fail (printf "replicas: %d replicas without leader election would all act at once; set replicas to 1, or leaderElection.enabled to true" (int .Values.replicas)) -}}
{{- end -}}
{{- if and .Values.watchNamespace (eq .Values.scope "Cluster") -}}
{{- fail (printf "watchNamespace: has no effect with scope Cluster; set scope to Namespaced to run the consumers of %s only, or leave watchNamespace out" .Values.watchNamespace) -}}
{{- end -}}
{{- with .Values.metrics -}}
{{- if and .podMonitor.enabled .serviceMonitor.enabled -}}
{{- fail "metrics.podMonitor.enabled: with metrics.serviceMonitor.enabled every operator pod would be scraped twice; choose one" -}}
{{- end -}}
{{- if .podMonitor.enabled -}}
{{- include "penstock.needsMonitor" (list $ "metrics.podMonitor.enabled" "PodMonitor") -}}
{{- end -}}
{{- if .serviceMonitor.enabled -}}
{{- include "penstock.needsMonitor" (list $ "metrics.serviceMonitor.enabled" "ServiceMonitor") -}}
{{- end -}}
{{- if .consumersPodMonitor.enabled -}}
{{- include "penstock.needsMonitor" (list $ "metrics.consumersPodMonitor.enabled" "PodMonitor") -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Fails unless the cluster knows a kind of the Prometheus operator's. */}}
{{- define "penstock.needsMonitor" -}}
{{- $root := index . 0 -}}
{{- $api := printf "monitoring.coreos.com/v1/%s" (index . 2) -}}
{{- if not ($root.Capabilities.APIVersions.Has $api) -}}
{{- fail (printf "%s: this cluster has no %s (%s); install the Prometheus operator first, or set it to false (with helm template: --api-versions %s)" (index . 1) (index . 2) $api $api) -}}
{{- end -}}
{{- end -}}
