{{/* What the operator may do where the consumers are. */}}
{{- define "penstock.rules" -}}
# The consumers to run. Only people and their tools create, change or delete them.
- apiGroups: [penstock.dev]
  resources: [kafkaconsumers]
  verbs: [get, list, watch]
# What users read with kubectl get: conditions, replicas, lag.
- apiGroups: [penstock.dev]
  resources: [kafkaconsumers/status]
  verbs: [patch]
# Each consumer's configuration (ConfigMap) and its metrics' headless Service.
# watch sees drift; delete takes away what a changed consumer no longer needs.
- apiGroups: [""]
  resources: [configmaps, services]
  verbs: [get, list, watch, create, patch, delete]
# Each consumer's pods.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
# Which ConfigMaps their pods may read, so that unused ones can be deleted.
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list, watch]
# Keeps a drain from taking all pods of a consumer that has several.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Only metadata is watched, so that a changed Secret rolls the pods. Values are read of
# the entries that a consumer names, to ask its Kafka for the topics. None is written.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch]
# Why a pod does not start or keeps crashing, to say so in the conditions.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# Warnings when a consumer's condition changes; patch counts a repeated one.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
