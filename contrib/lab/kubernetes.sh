# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154 # top, lab, build, port, nodes: pair has them
# A kube-apiserver whose Secrets the pair encrypts, with an etcd and a kekd-kms of its own: the last
# part of quickstart --pair --kubernetes.

kube=$lab/kubernetes programs=""

kube_etcd_port() { echo $((port + 30)); }
kube_peer_port() { echo $((port + 31)); }
kube_port() { echo $((port + 32)); }
kekd-kms() { "$build/kekd-kms" "$@" --config "$kube/kekd-kms.yaml"; }
kubectl() { "$programs/kubectl" --kubeconfig "$kube/kubeconfig" --cache-dir "$kube/cache" "$@"; }

# The same programs as the tests', in the same place: built once.
kubernetes_programs() {
	[ -x "$build/kekd-kms" ] ||
		die "$build has no kekd-kms: configure found no gRPC (contrib/packages/build)"
	step "kube-apiserver and its etcd, built by Go: minutes the first time, then nothing"
	programs=${KEKD_E2E_PROGRAMS:-$("$top/tests/e2e/kubernetes/build")} ||
		die "there is no kube-apiserver: see above (Go 1.21 or later: https://go.dev/dl)"
	echo "They are in $programs."
}

# ---- what they read ----

kubernetes_certificates() {
	certificate kms URI:spiffe://lab.example/kms clientAuth
	[ -e "$kube/admin.pem" ] || openssl req -x509 -CA "$lab/pki/ca.pem" \
		-CAkey "$lab/pki/ca.key" -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
		-days 825 -keyout "$kube/admin.key" -subj /O=system:masters/CN=kubernetes-admin \
		-addext extendedKeyUsage=clientAuth -out "$kube/admin.pem" \
		2>"$kube/openssl.log" || die "openssl made no certificate: see $kube/openssl.log"
	[ -e "$kube/accounts.key" ] || (umask 077 &&
		openssl ecparam -name prime256v1 -genkey -noout -out "$kube/accounts.key")
}

kubernetes_configuration() {
	cat >"$kube/kekd-kms.yaml" <<-END
		# Written by contrib/lab/$me at every run. man 5 kekd-kms.yaml explains it.
		provider: kekd
		cluster: lab
		key: kubernetes
		endpoints:
		$(for n in "${nodes[@]}"; do echo "  - $(node_url "$n")"; done)
		ca: $lab/pki/ca.pem
		certificate: $lab/pki/kms.pem
		certificate_key: $lab/pki/kms.key
		socket:
		  path: $kube/kms.sock
		state_dir: $kube/state
	END
	cat >"$kube/encryption.yaml" <<-END
		apiVersion: apiserver.config.k8s.io/v1
		kind: EncryptionConfiguration
		resources:
		  - resources: [secrets, configmaps]
		    providers:
		      - kms:
		          apiVersion: v2
		          name: kekd
		          endpoint: unix://$kube/kms.sock
		          timeout: 3s
		      - identity: {}
	END
	cat >"$kube/kubeconfig" <<-END
		apiVersion: v1
		kind: Config
		current-context: lab
		contexts:
		  - {name: lab, context: {cluster: lab, user: admin}}
		clusters:
		  - name: lab
		    cluster:
		      server: https://127.0.0.1:$(kube_port)
		      certificate-authority: $kube/certificates/apiserver.crt
		users:
		  - name: admin
		    user: {client-certificate: $kube/admin.pem, client-key: $kube/admin.key}
	END
}

# ---- processes ----

# kube_start NAME WHAT COMMAND...: in the background, until WHAT succeeds
kube_start() {
	local name=$1 what=$2 pid
	shift 2
	if is_running "$kube/$name.pid" "$name" && [ ! "$1" -nt "$kube/$name.pid" ]; then
		return 0
	fi
	if is_running "$kube/$name.pid" "$name"; then # of another build
		kill -TERM "$(cat "$kube/$name.pid")"
		while is_running "$kube/$name.pid" "$name"; do sleep 0.1; done
	fi
	setsid "$@" >>"$kube/$name.log" 2>&1 </dev/null &
	pid=$!
	echo "$pid" >"$kube/$name.pid"
	for _ in $(seq 600); do
		! "$what" || return 0
		[ -e "/proc/$pid" ] || break
		sleep 0.1
	done
	tail -20 "$kube/$name.log" >&2
	die "$name did not get ready: see $kube/$name.log"
}

kms_listens() { [ -S "$kube/kms.sock" ]; }
kube_etcd_healthy() { kube_etcdctl endpoint health >/dev/null 2>&1; }
kube_ready() {
	[ -e "$kube/certificates/apiserver.crt" ] && kubectl get --raw /readyz >/dev/null 2>&1
}
kube_etcdctl() {
	"$programs/etcdctl" --endpoints "http://127.0.0.1:$(kube_etcd_port)" "$@"
}

kube_etcd_start() {
	local at
	at=http://127.0.0.1:$(kube_etcd_port)
	kube_start etcd kube_etcd_healthy "$programs/etcd" --name kubernetes \
		--data-dir "$kube/etcd" --listen-client-urls "$at" --advertise-client-urls "$at" \
		--listen-peer-urls "http://127.0.0.1:$(kube_peer_port)" \
		--initial-advertise-peer-urls "http://127.0.0.1:$(kube_peer_port)" \
		--initial-cluster "kubernetes=http://127.0.0.1:$(kube_peer_port)"
}

kube_apiserver_start() {
	kube_start kube-apiserver kube_ready "$programs/kube-apiserver" \
		--etcd-servers "http://127.0.0.1:$(kube_etcd_port)" --secure-port "$(kube_port)" \
		--bind-address 127.0.0.1 --advertise-address 127.0.0.1 \
		--endpoint-reconciler-type none --cert-dir "$kube/certificates" \
		--client-ca-file "$lab/pki/ca.pem" --authorization-mode RBAC \
		--service-cluster-ip-range 10.0.0.0/24 \
		--service-account-issuer https://kubernetes.default.svc \
		--service-account-key-file "$kube/accounts.key" \
		--service-account-signing-key-file "$kube/accounts.key" \
		--disable-admission-plugins ServiceAccount \
		--encryption-provider-config "$kube/encryption.yaml"
}

# ---- showing ----

# What a person would type with these programs in PATH.
shown() {
	printf '$ %s\n' "$*"
	"$@"
}

kubernetes_show() {
	local password at
	mkdir -p "$kube/state"
	chmod 700 "$kube" "$kube/state"
	kubernetes_certificates
	kubernetes_configuration

	step "A key for a Kubernetes cluster, and a client that may wrap and unwrap with it"
	kekctl key show kubernetes >/dev/null 2>&1 || run kekctl key create kubernetes
	kekctl client show kms >/dev/null 2>&1 ||
		run kekctl client add kms --identity uri:spiffe://lab.example/kms \
			--grant kubernetes:wrap,unwrap,key.read
	step "kekd-kms, between the API server and the pair (log: $kube/kekd-kms.log)"
	kube_start kekd-kms kms_listens "$build/kekd-kms" --config "$kube/kekd-kms.yaml"
	echo "It listens on $kube/kms.sock (process $(cat "$kube/kekd-kms.pid"))."
	step "A kube-apiserver with this EncryptionConfiguration (log: $kube/kube-apiserver.log)"
	cat "$kube/encryption.yaml"
	kube_etcd_start
	kube_apiserver_start
	kubectl version 2>/dev/null | grep Server
	shown kubectl get --raw /readyz/kms-providers
	echo
	shown kekd-kms doctor --encryption-configuration "$kube/encryption.yaml" ||
		die "kekd-kms doctor found something: see above"

	step "A Secret, written through it"
	password=$(openssl rand -hex 8)
	kubectl delete secret database --ignore-not-found >/dev/null
	shown kubectl create secret generic database --from-literal=password="$password"
	step "What lies in its etcd: the prefix, what is encrypted, key_id; no password"
	at=/registry/secrets/default/database
	kube_etcdctl get --print-value-only "$at" >value
	printf '$ etcdctl get --print-value-only %s | head -c 96 | od -A d -t x1z\n' "$at"
	head -c 96 value | od -A d -t x1z
	printf '$ etcdctl get --print-value-only %s | grep -ao "[[:print:]]\{8,\}"\n' "$at"
	LC_ALL=C grep -ao '[[:print:]]\{8,\}' value
	grep -q '^k8s:enc:kms:v2:kekd:' value || die "the value is not encrypted"
	! grep -q "$password" value || die "the value holds the password"
	step "And read back"
	printf "\$ kubectl get secret database -o jsonpath='{.data.password}' | base64 -d\n"
	kubectl get secret database -o "jsonpath={.data.password}" | base64 -d >password
	cat password
	echo
	[ "$(cat password)" = "$password" ] || die "that is not what was written"
	echo "It is the password that was written."
}

kubernetes_hints() {
	cat <<-END
		And with Kubernetes:
		  export PATH=$programs:\$PATH KUBECONFIG=$kube/kubeconfig
		  kubectl get secret database -o yaml
		  kekctl key rotate kubernetes
	END
}
