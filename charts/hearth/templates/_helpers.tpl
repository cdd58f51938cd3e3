{{- define "hearth.name" -}}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{- end }}
{{- define "hearth.controller" -}}{{ include "hearth.name" . }}-controller{{- end }}
{{- define "hearth.gateway" -}}{{ include "hearth.name" . }}-gateway{{- end }}
{{- define "hearth.image" -}}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{- end }}
{{- define "hearth.keySecret" -}}{{ .Values.clusterKey.existingSecret | default (printf "%s-key" (include "hearth.name" .)) }}{{- end }}
{{/*
What came after the first charts is read so that it may be missing: with `helm upgrade --reuse-values` the values are those of the earlier chart.
*/}}
{{- define "hearth.tokenSecretGiven" -}}{{ (.Values.clientToken | default dict).existingSecret | default "" }}{{- end }}
{{- define "hearth.tokenSecret" -}}{{ include "hearth.tokenSecretGiven" . | default (printf "%s-token" (include "hearth.name" .)) }}{{- end }}
{{/* With persistence one: a data directory is one controller's at a time, and most volumes are one node's. */}}
{{- define "hearth.controllerReplicas" -}}
{{- $own := .Values.controller.persistence.enabled }}
{{- if and $own (gt (int .Values.controller.replicas) 1) }}
{{- fail (printf "controller.persistence.enabled takes one controller, for a data directory is one's at a time, and controller.replicas is %d (with --reuse-values maybe the default of the chart before): set controller.replicas to 1" (int .Values.controller.replicas)) }}
{{- end }}
{{- .Values.controller.replicas | default (ternary 1 2 $own) }}
{{- end }}
{{/*
Namespaces whose instances get network policies, as JSON: the release's own, in which dependencies are installed; with watchNamespaces those of all
Functions; and what is named.
*/}}
{{- define "hearth.policyNamespaces" -}}
{{- $namespaces := concat (list .Release.Namespace) (.Values.watchNamespaces | default list) (.Values.networkPolicy.functionNamespaces | default list) }}
{{- ternary ($namespaces | uniq) list .Values.networkPolicy.enabled | toJson }}
{{- end }}
{{/* The file that controllers read: what the chart knows, and over it what is given. */}}
{{- define "hearth.controllerConfig" -}}
{{- $cluster := dict "runtimes" .Values.runtimes.images "pull_policy" .Values.runtimes.pullPolicy }}
{{- $controller := dict "network_policies" (include "hearth.policyNamespaces" . | fromJsonArray) }}
{{- mergeOverwrite (deepCopy (dict "cluster" $cluster "controller" $controller)) (deepCopy .Values.controller.config) | toYaml }}
{{- end }}
{{- define "hearth.gatewayUrl" -}}
{{- if .Values.gateway.url }}{{ .Values.gateway.url }}
{{- else if and (eq (int .Values.gateway.service.port) 80) }}http://{{ include "hearth.gateway" . }}.{{ .Release.Namespace }}
{{- else }}http://{{ include "hearth.gateway" . }}.{{ .Release.Namespace }}:{{ .Values.gateway.service.port }}{{ end }}
{{- end }}

{{/* A Service's address as the variable that Kubernetes sets in every container of its namespace: nobody who starts looks up a name. */}}
{{- define "hearth.serviceHost" -}}$({{ . | upper | replace "-" "_" }}_SERVICE_HOST){{- end }}

{{/* Labels of everything; by which nobody is selected, for they change with the version. */}}
{{- define "hearth.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: hearth
{{- end }}

{{/* dict "root" $ "component" "gateway" */}}
{{- define "hearth.selector" -}}
app.kubernetes.io/name: hearth
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The restricted Pod Security Standard. */}}
{{- define "hearth.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end }}
{{- define "hearth.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}
