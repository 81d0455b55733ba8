{{- /* The description of a cluster in files/raycluster.yaml, changed by the values, as YAML. What overlays of kustomize
change by patches is changed here; tests compare the two. */ -}}
{{- define "obliviate.cluster" -}}
{{- $values := .Values -}}
{{- $serves := eq $values.run "serve" -}}
{{- $spec := (.Files.Get "files/raycluster.yaml" | fromYaml).spec -}}
{{- $groups := list -}}
{{- range $spec.workerGroupSpecs -}}
{{- if not (and (eq .groupName "gpu") (kindIs "bool" $values.gpu)) -}}
{{- $groups = append $groups . -}}
{{- end -}}
{{- end -}}
{{- $_ := set $spec "workerGroupSpecs" $groups -}}
{{- if and $values.redis (has $values.run (list "cluster" "serve")) -}}
{{- $password := dict "valueFrom" (dict "secretKeyRef" (dict "name" "redis" "key" "REDIS_PASSWORD")) -}}
{{- $_ := set $spec "gcsFaultToleranceOptions" (dict "redisAddress" "redis:6379" "redisPassword" $password) -}}
{{- end -}}
{{- range $groups -}}
{{- if and (eq .groupName "gpu") (eq $values.run "cluster") -}}
{{- $_ := set . "replicas" 0 -}}{{- $_ := set . "minReplicas" 0 -}}
{{- end -}}
{{- if $serves -}}{{- include "obliviate.serves" . -}}{{- end -}}
{{- end -}}
{{- include "obliviate.pods" (dict "group" $spec.headGroupSpec "pods" $values.head "top" $) -}}
{{- range $groups -}}
{{- include "obliviate.pods" (dict "group" . "pods" (index $values .groupName) "top" $) -}}
{{- end -}}
{{- toYaml $spec -}}
{{- end -}}

{{- /* A worker of a cluster that serves: k8s/serve/cluster.yaml. */ -}}
{{- define "obliviate.serves" -}}
{{- $_ := set .template.metadata.labels "obliviate/role" "server" -}}
{{- $pod := .template.spec -}}
{{- $container := index $pod.containers 0 -}}
{{- if eq .groupName "gpu" -}}
{{- $takes := dict "cpu" "8" "memory" "64Gi" "nvidia.com/gpu" "1" -}}
{{- $_ := set $container "resources" (dict "requests" $takes "limits" $takes) -}}
{{- $_ := set . "replicas" 2 -}}{{- $_ := set . "minReplicas" 2 -}}
{{- end -}}
{{- $_ := set $container.readinessProbe "httpGet" (dict "path" "/-/healthz" "port" "serve") -}}
{{- $_ := set $pod "terminationGracePeriodSeconds" 90 -}}
{{- $tokens := dict "name" "tokens" "secret" (dict "secretName" "tokens") -}}
{{- $_ := set $pod "volumes" (append $pod.volumes $tokens) -}}
{{- $mount := dict "name" "tokens" "mountPath" "/secrets" "readOnly" true -}}
{{- $_ := set $container "volumeMounts" (append $container.volumeMounts $mount) -}}
{{- end -}}

{{- /* What the values say of a group of pods. */ -}}
{{- define "obliviate.pods" -}}
{{- $group := .group -}}{{- $pods := .pods | default dict -}}{{- $values := .top.Values -}}
{{- $pod := $group.template.spec -}}
{{- range $key := list "replicas" "minReplicas" "maxReplicas" -}}
{{- if not (kindIs "invalid" (get $pods $key)) -}}{{- if hasKey $pods $key -}}
{{- $_ := set $group $key (get $pods $key | int) -}}
{{- end -}}{{- end -}}
{{- end -}}
{{- with $pods.nodeSelector -}}{{- $_ := set $pod "nodeSelector" . -}}{{- end -}}
{{- range $pod.volumes -}}
{{- if and (eq .name "data") $values.claim -}}
{{- $_ := unset . "emptyDir" -}}{{- $_ := set . "persistentVolumeClaim" (dict "claimName" $values.claim) -}}
{{- end -}}
{{- if and (eq .name "shm") $pods.shm -}}{{- $_ := set .emptyDir "sizeLimit" $pods.shm -}}{{- end -}}
{{- end -}}
{{- include "obliviate.containers" (dict "pod" $pod "pods" $pods "top" .top) -}}
{{- end -}}

{{- /* Image, resources and environment of a pod's containers. */ -}}
{{- define "obliviate.containers" -}}
{{- $image := .top.Values.image -}}{{- $name := .top.Release.Name -}}{{- $resources := get (.pods | default dict) "resources" -}}
{{- range $container := .pod.containers -}}
{{- $_ := set $container "image" (printf "%s:%s" $image.repository $image.tag) -}}
{{- with $image.pullPolicy -}}{{- $_ := set $container "imagePullPolicy" . -}}{{- end -}}
{{- with $resources -}}{{- $_ := set $container "resources" . -}}{{- end -}}
{{- range $container.envFrom -}}
{{- if .configMapRef -}}{{- $_ := set .configMapRef "name" (printf "%s-environment" $name) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
