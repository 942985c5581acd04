# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154 # top, lab, build: whoever reads this has them
# What quickstart and pair share: building, certificates, a SoftHSM token, starting one kekd.

me=$(basename "$0")
step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
[ -t 1 ] || step() { printf '\n== %s\n' "$*"; }
die() {
	printf '%s: %s\n' "$me" "$*" >&2
	exit 1
}
is_port() { [[ $1 =~ ^[0-9]{1,5}$ ]] && [ "$1" -ge 1 ] && [ "$1" -le 65535 ]; }

find_module() {
	for module in /usr/lib/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so \
		/usr/local/lib/softhsm/libsofthsm2.so; do
		[ ! -e "$module" ] || return 0
	done
	die "SoftHSM's module libsofthsm2.so is nowhere to be found"
}

up_to_date() {
	[ -z "${KEKD_BUILD-}" ] || return 0
	[ -x "$build/kekd" ] && [ -x "$build/kekctl" ] && [ -e "$build/.built" ] &&
		[ -z "$(find "$top/src" "$top/include" "$top/configure.ac" "$top/Makefile.am" \
			-newer "$build/.built" -type f -print -quit)" ]
}

build_kekd() {
	! up_to_date || return 0
	step "Building kekd (log: $build/build.log)"
	[ ! -e "$build" ] || [ -w "$build" ] ||
		die "cannot write $build: it belongs to $(stat -c %U "$build")"
	"$top/contrib/build" "$build" || die "kekd could not be built"
	touch "$build/.built"
}

# ---- certificates ----

openssl_config() {
	cat >"$lab/pki/openssl.cnf" <<-'END'
		[req]
		distinguished_name = name
		prompt = no
		[name]
		CN = ${ENV::CN}
		[ca]
		basicConstraints = critical, CA:TRUE
		keyUsage = critical, keyCertSign, cRLSign
		subjectKeyIdentifier = hash
		[leaf]
		basicConstraints = critical, CA:FALSE
		keyUsage = critical, digitalSignature
		extendedKeyUsage = ${ENV::EKU}
		subjectAltName = ${ENV::SAN}
		subjectKeyIdentifier = hash
		authorityKeyIdentifier = keyid
	END
}

# certificate NAME SAN EKU [DAYS]
certificate() {
	local pki=$lab/pki ca=() extensions=leaf
	[ ! -e "$pki/$1.pem" ] || return 0
	if [ "$1" = ca ]; then
		extensions=ca
	else
		ca=(-CA "$pki/ca.pem" -CAkey "$pki/ca.key")
	fi
	CN="kekd lab $1" SAN=${2:-DNS:x} EKU=${3:-clientAuth} openssl req -x509 -new \
		-config "$pki/openssl.cnf" -extensions "$extensions" "${ca[@]}" \
		-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days "${4:-825}" \
		-keyout "$pki/$1.key" -out "$pki/$1.pem.new" 2>"$pki/openssl.log" ||
		{ cat "$pki/openssl.log" >&2 && die "openssl could not make certificate $1"; }
	mv "$pki/$1.pem.new" "$pki/$1.pem"
}

certificates() {
	mkdir -p "$lab/pki"
	openssl_config
	certificate ca "" "" 3650
	certificate server DNS:localhost,IP:127.0.0.1,IP:::1 serverAuth
	for name in admin-1 admin-2 app; do
		certificate "$name" "URI:spiffe://lab.example/$name" clientAuth
	done
}

# ---- the token ----

token() {
	mkdir -p "$lab/tokens"
	cat >"$SOFTHSM2_CONF" <<-END
		directories.tokendir = $lab/tokens
		objectstore.backend = file
		log.level = ERROR
	END
	[ ! -e "$lab/pin" ] || return 0
	# The PINs are made here and stay in these two files; softhsm2-util takes them as arguments,
	# which is why a real token is initialised with its vendor's tool.
	(umask 077 && openssl rand -hex 16 >"$lab/so-pin" && openssl rand -hex 16 >"$lab/pin.new")
	softhsm2-util --init-token --free --label kekd-lab --pin "$(cat "$lab/pin.new")" \
		--so-pin "$(cat "$lab/so-pin")" >"$lab/softhsm2-util.log" 2>&1 ||
		{ cat "$lab/softhsm2-util.log" >&2 && die "softhsm2-util made no token"; }
	mv "$lab/pin.new" "$lab/pin"
}

# ---- configurations ----

# kekd_configuration DIR NODE PORT: DIR/kekd.yaml, and the directories that it names
kekd_configuration() {
	mkdir -p "$1/state" "$1/state-hsm" "$1/audit"
	chmod 700 "$1/state" "$1/state-hsm" "$1/audit"
	cat >"$1/kekd.yaml" <<-END
		# Written by contrib/lab/$me at every run. man 5 kekd.yaml explains it.
		cluster: lab
		node: $2
		state_dir: $1/state
		user: "$(id -u)"
		listen:
		  - 127.0.0.1:$3
		tls:
		  certificate: $lab/pki/server.pem
		  key: $lab/pki/server.key
		  client_ca: $lab/pki/ca.pem
		tokens:
		  - name: main
		    uri: pkcs11:token=kekd-lab
		    module: $module
		    pin-source: $lab/pin
		hsm:
		  user: "$(id -u)"
		  state_dir: $1/state-hsm
		audit:
		  dir: $1/audit
		# One administrator is enough, and nothing waits: for a lab alone.
		policy:
		  approvals: 1
		  destroy_wait: 0s
		admins:
		  - name: admin-1
		    identities:
		      - uri:spiffe://lab.example/admin-1
		  - name: admin-2
		    identities:
		      - uri:spiffe://lab.example/admin-2
	END
}

# kekctl_configurations PORT...: of every certificate, with these endpoints
kekctl_configurations() {
	local name file
	for name in admin-1 admin-2 app; do
		file=$lab/kekctl-$name.yaml
		[ "$name" != admin-1 ] || file=$lab/kekctl.yaml
		cat >"$file" <<-END
			# kekctl as $name. Written by contrib/lab/$me at every run.
			endpoints:
			$(printf '  - https://127.0.0.1:%s\n' "$@")
			ca: $lab/pki/ca.pem
			certificate: $lab/pki/$name.pem
			key: $lab/pki/$name.key
		END
	done
}

# ---- one kekd ----

# is_running FILE NAME: the process of that file is one of that name
is_running() {
	local pid
	pid=$(cat "$1" 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ]
}
kekd_running() { is_running "$1/kekd.pid" kekd; }

# health PORT WHAT: is the answer 200? It needs no client certificate.
health() {
	local answer
	answer=$(printf 'GET /health/%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' \
		"$2" | openssl s_client -quiet -connect "127.0.0.1:$1" -CAfile "$lab/pki/ca.pem" \
		-verify_return_error 2>/dev/null) || return 1
	[[ $answer == "HTTP/1.1 200"* ]]
}

taken() {
	(exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# kekd_start DIR PORT
kekd_start() {
	local pid
	! taken "$2" || die "port $2 is in use: choose another with --port"
	setsid "$build/kekd" --config "$1/kekd.yaml" >>"$1/kekd.log" 2>&1 </dev/null &
	pid=$!
	echo "$pid" >"$1/kekd.pid"
	for _ in $(seq 300); do
		! health "$2" ready || return 0
		[ -e "/proc/$pid" ] || break # its name is not kekd yet in its first moment
		sleep 0.1
	done
	tail -20 "$1/kekd.log" >&2
	die "kekd did not get ready: see $1/kekd.log"
}

# kekd_init DIR
kekd_init() {
	"$build/kekd" init --config "$1/kekd.yaml" >>"$1/kekd.log" 2>&1 && return 0
	tail -20 "$1/kekd.log" >&2
	return 1
}

# ---- showing ----

kekctl() { "$build/kekctl" --config "$lab/kekctl.yaml" "$@"; }
app() { "$build/kekctl" --config "$lab/kekctl-app.yaml" "$@"; }
# As a person would type it in the lab's directory.
run() {
	printf '$ %s\n' "$*" | sed 's/^\$ app /$ kekctl --config kekctl-app.yaml /'
	"$@"
}
