{{/* What tells the objects of this release from others: also what Services and policies select. */}}
{{- define "oci-mesh.selector" -}}
app.kubernetes.io/name: oci-mesh
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "oci-mesh.labels" -}}
{{ include "oci-mesh.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "oci-mesh.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Root where containerd's own files are used: they are root's. Nobody otherwise. */}}
{{- define "oci-mesh.user" -}}
{{ ternary 65534 0 (and (empty .Values.containerd.content) (empty .Values.containerd.socket)) }}
{{- end }}

{{/* Where containerd reaches the node of its machine. */}}
{{- define "oci-mesh.url" -}}
http://127.0.0.1:{{ .Values.registry.port }}
{{- end }}

{{- define "oci-mesh.internalName" -}}
{{- with .Values.internalRegistry -}}
{{ .name }}.{{ .namespace }}.svc.{{ .clusterDomain }}:{{ .port }}
{{- end }}
{{- end }}

{{/* Whether the internal name's Service is beside the pods, or leads here from another namespace. */}}
{{- define "oci-mesh.registryService" -}}
{{- if eq .Values.internalRegistry.namespace .Release.Namespace -}}
{{ .Values.internalRegistry.name }}
{{- else -}}
{{ .Release.Name }}-registry
{{- end }}
{{- end }}

{{/* The names that only the mesh has. */}}
{{- define "oci-mesh.own" -}}
{{- $own := .Values.containerd.own -}}
{{- if .Values.internalRegistry.enabled -}}
{{- $own = prepend $own (include "oci-mesh.internalName" .) -}}
{{- end -}}
{{ join " " (uniq $own) }}
{{- end }}

{{/* What may be wrong with values in combination. What is wrong with one, values.schema.json says. */}}
{{- define "oci-mesh.check" -}}
{{- if and .Values.hostNetwork .Values.internalRegistry.enabled -}}
{{- fail "hostNetwork: the registry listens on loopback alone then, so there is nothing for internalRegistry to lead to: push by `kubectl exec`, or leave hostNetwork off" -}}
{{- end -}}
{{- if and .Values.hostNetwork .Values.serviceMonitor.enabled -}}
{{- fail "hostNetwork: the registry and its /metrics listen on loopback alone then: serviceMonitor would find nothing" -}}
{{- end -}}
{{- if and .Values.internalRegistry.nodePort (ne .Values.internalRegistry.type "NodePort") -}}
{{- fail "internalRegistry.nodePort needs internalRegistry.type NodePort" -}}
{{- end -}}
{{- if and .Values.containerd.restart (ne .Values.containerd.hosts "configure") -}}
{{- fail "containerd.restart is for containerd.hosts: configure" -}}
{{- end -}}
{{- end }}

{{/* Where a pod may be: on every node, whatever is wrong with it. */}}
{{- define "oci-mesh.placement" -}}
priorityClassName: {{ .Values.priorityClassName }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* containerd's directory, and the one in which `undo` finds what was there before. Not more of
the machine: on one that has no such directory (k3s, CRI-O) the pod waits and says so. */}}
{{- define "oci-mesh.hostMounts" -}}
- name: containerd
  mountPath: /host{{ .Values.containerd.directory }}
- name: undo
  mountPath: /host/etc/oci-mesh
{{- end }}

{{- define "oci-mesh.hostVolumes" -}}
- name: containerd
  hostPath:
    path: {{ .Values.containerd.directory }}
    type: Directory
- name: undo
  hostPath:
    path: /etc/oci-mesh
    type: DirectoryOrCreate
{{- end }}

{{/* Root, since the files are root's, and nothing else that root has. */}}
{{- define "oci-mesh.hostSecurity" -}}
runAsUser: 0
runAsGroup: 0
runAsNonRoot: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Small work at the start of a pod. */}}
{{- define "oci-mesh.hostResources" -}}
requests:
  cpu: 10m
  memory: 64Mi
limits:
  memory: 128Mi
{{- end }}

{{- define "oci-mesh.configureScript" -}}
set -eu
configure() {
  said=$(oci-mesh containerd configure --root /host --config "$CONFIG" --registry "$NODE" "$@" 2>&1) ||
    { echo "$said" >&2; exit 1; }
  echo "$said"
  {{- if .Values.containerd.restart }}
  case $said in *"note: restart containerd"*) touch "$restart" ;; esac
  {{- end }}
}
{{- if .Values.containerd.restart }}
restart=/host/etc/oci-mesh/restart-containerd # stays until that is done, also if this is cut short
mkdir -p /host/etc/oci-mesh
{{- end }}
[ -z "$OWN" ] || configure --own $OWN
[ -z "$MIRRORS" ] || configure $RESOLVE $MIRRORS
{{- if .Values.containerd.restart }}
[ ! -e "$restart" ] || {
  SYSTEMD_IGNORE_CHROOT=1 chroot /host systemctl --no-block restart containerd
  rm "$restart"
}
{{- end }}
{{- end }}

{{- define "oci-mesh.undoScript" -}}
oci-mesh containerd undo --root /host
{{- end }}

{{/* A page of the registry's listener, asked by the kubelet. */}}
{{- define "oci-mesh.probe" -}}
{{- $root := index . 0 -}}
httpGet:
  path: {{ index . 1 }}
  port: registry
  {{- if $root.Values.hostNetwork }}
  host: 127.0.0.1
  {{- end }}
{{- end }}
