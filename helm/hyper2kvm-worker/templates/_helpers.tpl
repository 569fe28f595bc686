{{- /*
Copyright: (c) 2026, hyper2kvm contributors
GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
SPDX-License-Identifier: GPL-3.0-or-later
*/ -}}

{{- define "hyper2kvm.labels" -}}
app.kubernetes.io/name: hyper2kvm
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "hyper2kvm.workerImage" -}}
{{ .Values.worker.image.repository }}:{{ .Values.worker.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "hyper2kvm.operatorImage" -}}
{{ .Values.operator.image.repository | default .Values.worker.image.repository }}:{{ .Values.operator.image.tag | default .Values.worker.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* How a worker is asked whether it is well. */ -}}
{{- define "hyper2kvm.workerAlive" -}}
{{- /* Not by HTTP: whoever keeps the port of the metrics busy would have the worker stopped. */ -}}
exec:
  command: [sh, -c, find /data/state/node-agent -mmin -1 | grep -q .]
{{- end }}

{{- /* The Secret with Slack's webhook; nothing where there is none. */ -}}
{{- define "hyper2kvm.slackSecret" -}}
{{- with .Values.alerting.slack }}
{{- if .existingSecret }}{{ .existingSecret }}{{ else if .webhook }}hyper2kvm-slack{{ end }}
{{- end }}
{{- end }}

{{- /* Whether workers on several nodes can mount one claim: "yes" or nothing. Takes a storage's values. */ -}}
{{- define "hyper2kvm.shared" -}}
{{- if or .existingClaim (has "ReadWriteMany" .accessModes) (has "ReadOnlyMany" .accessModes) }}yes{{ end }}
{{- end }}

{{- /*
Whether all workers see one output: "yes" or nothing. A claim that only one node can mount does not count, though several
workers might be on that node: nothing goes on elsewhere from it.
*/ -}}
{{- define "hyper2kvm.outputShared" -}}
{{- with .Values.storage.output }}
{{- if and (not .hostPath) (has "ReadWriteMany" .accessModes) }}yes{{ end }}
{{- end }}
{{- end }}

{{- /* The name of a claim. Takes `name` (of the storage), `values` (of the storage) and `node` (empty: any). */ -}}
{{- define "hyper2kvm.claimName" -}}
{{- if .values.existingClaim -}}
{{ .values.existingClaim }}
{{- else if and .node (not (include "hyper2kvm.shared" .values)) -}}
hyper2kvm-{{ .name }}-{{ .node }}
{{- else -}}
hyper2kvm-{{ .name }}
{{- end }}
{{- end }}

{{- /* A pod's volume. Takes the same. */ -}}
{{- define "hyper2kvm.volume" -}}
name: {{ .name }}
{{- if .values.hostPath }}
hostPath:
  path: {{ .values.hostPath }}
  type: DirectoryOrCreate
{{- else }}
persistentVolumeClaim:
  claimName: {{ include "hyper2kvm.claimName" . }}
{{- end }}
{{- end }}
