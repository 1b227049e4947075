{{/* A monitor's labels: the chart's and those by which a Prometheus selects it. Takes (list $ monitor). */}}
{{- define "penstock.monitorLabels" -}}
{{ include "penstock.labels" (index . 0) }}
{{- with (index . 1).labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What all monitors' endpoints have in common. Takes the monitor's values. */}}
{{- define "penstock.monitorEndpoint" -}}
path: /metrics
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- end -}}
