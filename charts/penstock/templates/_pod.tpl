{{/* Restricted pod security, for the operator's pods and the test's. */}}
{{- define "penstock.podSecurityContext" -}}
runAsNonRoot: true
{{- with .Values.runAsUser }}
runAsUser: {{ int64 . }}
runAsGroup: {{ int64 . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "penstock.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The operator's settings. extraEnv is last: of two variables of one name the last wins. */}}
{{- define "penstock.env" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: PENSTOCK_RUNTIME_IMAGE
  value: {{ include "penstock.image" (dict "root" $ "image" .Values.runtime.image) | quote }}
- name: PENSTOCK_RUNTIME_IMAGE_PULL_POLICY
  value: {{ .Values.runtime.image.pullPolicy }}
{{- with .Values.runtime.imagePullSecrets }}
{{- $names := list }}
{{- range . }}
{{- $names = append $names .name }}
{{- end }}
- name: PENSTOCK_RUNTIME_IMAGE_PULL_SECRETS
  value: {{ join "," $names | quote }}
{{- end }}
{{- with include "penstock.watchNamespace" . }}
- name: PENSTOCK_WATCH_NAMESPACE
  value: {{ . | quote }}
{{- end }}
- name: PENSTOCK_LEADER_ELECTION
  value: {{ .Values.leaderElection.enabled | quote }}
- name: PENSTOCK_LEASE_NAME
  value: {{ include "penstock.leaseName" . | toYaml }}
- name: PENSTOCK_RECHECK_INTERVAL
  value: {{ .Values.recheckInterval | quote }}
{{- $brokers := .Values.allowedBrokers.default }}
{{- range $namespace, $allowed := .Values.allowedBrokers.namespaces }}
{{- range $allowed }}
{{- $brokers = append $brokers (printf "%s=%s" $namespace .) }}
{{- end }}
{{- end }}
{{- with $brokers }}
- name: PENSTOCK_ALLOWED_BROKERS
  value: {{ join "," . | quote }}
{{- end }}
{{- $denied := join "," .Values.deniedBrokerNetworks | default "none" }}
{{- if ne $denied "loopback,link-local" }}
- name: PENSTOCK_DENIED_BROKER_NETWORKS
  value: {{ $denied | quote }}
{{- end }}
- name: PENSTOCK_LOG
  value: {{ .Values.log.level | quote }}
- name: PENSTOCK_LOG_FORMAT
  value: {{ .Values.log.format | quote }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Which nodes the operator's pods run on. */}}
{{- define "penstock.placement" -}}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .Values.affinity }}
affinity:
  {{- toYaml .Values.affinity | nindent 2 }}
{{- else if gt (int .Values.replicas) 1 }}
# The loss of a node should leave an operator; preferred, for there may be one node only.
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "penstock.selectorLabels" . | nindent 14 }}
{{- end }}
{{- $constraints := list }}
{{- range .Values.topologySpreadConstraints }}
{{- $these := dict "labelSelector" (dict "matchLabels" (include "penstock.selectorLabels" $ | fromYaml)) }}
{{- $constraints = append $constraints (ternary . (merge (deepCopy .) $these) (hasKey . "labelSelector")) }}
{{- end }}
{{- with $constraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
