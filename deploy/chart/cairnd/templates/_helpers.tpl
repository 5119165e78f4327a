{{- define "cairnd.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end -}}
{{- end -}}

{{- define "cairnd.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: daemon
{{- end -}}

{{- define "cairnd.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{- define "cairnd.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* The pod of a Deployment or a DaemonSet. */}}
{{- define "cairnd.pod" -}}
metadata:
  labels:
    {{- include "cairnd.selector" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with .Values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  # The daemon speaks to no API server and reads no secret but its certificate.
  serviceAccountName: {{ include "cairnd.name" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 1000
    runAsGroup: 1000
    fsGroup: 1000
    fsGroupChangePolicy: OnRootMismatch
  containers:
    - name: cairnd
      image: {{ include "cairnd.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [rootlesskit, --]
      args:
        - cairnd
        - serve
        - --state=/cache/state
        - --cache-dir=/cache/stages
        - --socket=/run/cairn/daemon/cairnd.sock
        - --network=host
        - --idle-timeout=0
        - --log-format=json
        - {{ printf "--high=%s" .Values.cache.high | quote }}
        - {{ printf "--low=%s" .Values.cache.low | quote }}
        - {{ printf "--min-age=%s" .Values.cache.minAge | quote }}
        {{- if eq .Values.kind "Deployment" }}
        - {{ printf "--listen=tcp://0.0.0.0:%d?ca=/tls/ca.crt&cert=/tls/tls.crt&key=/tls/tls.key" (int .Values.listen.port) | quote }}
        {{- end }}
        {{- if .Values.metrics.enabled }}
        - {{ printf "--metrics-address=0.0.0.0:%d" (int .Values.metrics.port) | quote }}
        - --metrics-open
        {{- end }}
      env:
        - {name: HOME, value: /home/user}
        - {name: XDG_RUNTIME_DIR, value: /run/cairn}
        {{- with .Values.extraEnv }}{{ toYaml . | nindent 8 }}{{ end }}
      securityContext:
        # Nothing here is privileged. The default profiles forbid the user namespace
        # that rootlesskit makes, and newuidmap gains the right to map its users.
        privileged: false
        allowPrivilegeEscalation: true
        capabilities: {drop: [ALL], add: [SETUID, SETGID]}
        seccompProfile: {type: Unconfined}
        appArmorProfile: {type: Unconfined}
      {{- if or (eq .Values.kind "Deployment") .Values.metrics.enabled }}
      ports:
        {{- if eq .Values.kind "Deployment" }}
        - {name: engine, containerPort: {{ .Values.listen.port }}}
        {{- end }}
        {{- if .Values.metrics.enabled }}
        - {name: metrics, containerPort: {{ .Values.metrics.port }}}
        {{- end }}
      {{- end }}
      startupProbe:
        exec: {command: [cairnd, --socket=/run/cairn/daemon/cairnd.sock, status]}
        periodSeconds: 1
        failureThreshold: 60
      readinessProbe:
        exec: {command: [cairnd, --socket=/run/cairn/daemon/cairnd.sock, status]}
        periodSeconds: 10
        timeoutSeconds: 5
      resources: {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - {name: cache, mountPath: /cache}
        - {name: run, mountPath: /run/cairn}
        - {name: home, mountPath: /home/user}
        {{- if eq .Values.kind "Deployment" }}
        - {name: tls, mountPath: /tls, readOnly: true}
        {{- end }}
  volumes:
    - name: home
      emptyDir: {}
    {{- if eq .Values.kind "Deployment" }}
    - name: run
      emptyDir: {}
    - name: tls
      secret:
        secretName: {{ .Values.listen.tlsSecret | quote }}
        defaultMode: 0440
    {{- else }}
    - name: run
      hostPath: {path: {{ .Values.socket.hostPath | quote }}, type: Directory}
    {{- end }}
    - name: cache
      {{- if .Values.cache.size }}
      ephemeral:
        volumeClaimTemplate:
          spec:
            accessModes: [ReadWriteOnce]
            {{- with .Values.cache.storageClass }}
            storageClassName: {{ . | quote }}
            {{- end }}
            resources: {requests: {storage: {{ .Values.cache.size | quote }}}}
      {{- else }}
      emptyDir: {}
      {{- end }}
{{- end -}}
