{{/* Not the operator's: its Service and Deployment must not select the test's pod. */}}
{{- define "penstock.testLabels" -}}
app.kubernetes.io/name: penstock-test
app.kubernetes.io/instance: {{ .Release.Name | toYaml }}
{{- end -}}
