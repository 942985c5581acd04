# Completion of kekctl(1) for bash. SPDX-License-Identifier: Apache-2.0

_kekctl_words()
{
	mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur")
}

_kekctl()
{
	local cur prev words cword
	_init_completion || return

	local options='--config --endpoint --ca --cert --key --timeout --output --quiet --help --version'
	local with_value=' --config --endpoint --ca --cert --key --timeout --output -o --label --token --in --out
		--plaintext-out --context --new-context --version-id --bytes --identity --grant --address --mix
		--connections --threads --batch --rate --duration --warmup '
	local -a given=()
	local -a passed=()
	local i

	case $prev in
	--config | --ca | --cert | --key | --in | --out | --plaintext-out)
		_filedir
		return
		;;
	-o | --output)
		_kekctl_words 'table json'
		return
		;;
	esac
	[[ $with_value == *[[:space:]]"$prev"[[:space:]]* ]] && return

	# The words so far that are no options, and the options that say which server to ask.
	for ((i = 1; i < cword; i++)); do
		case ${words[i]} in
		--config | --endpoint | --ca | --cert | --key)
			passed+=("${words[i]}" "${words[i + 1]}")
			((i++))
			;;
		-*) [[ $with_value == *[[:space:]]"${words[i]}"[[:space:]]* ]] && ((i++)) ;;
		*) given+=("${words[i]}") ;;
		esac
	done
	[[ ${given[0]} == help ]] && given=("${given[@]:1}") && options=

	case "${given[*]}" in
	'') [[ $cur == -* ]] || _kekctl_words 'key wrap unwrap generate rewrap client whoami audit hsm status bench version help' ;;
	key) _kekctl_words 'create list show rotate enable disable primary label' ;;
	client) _kekctl_words 'add list show rm' ;;
	audit) _kekctl_words 'verify head' ;;
	hsm) _kekctl_words 'status objects' ;;
	'audit verify') [[ $cur == -* ]] || _filedir -d ;;
	'key show' | 'key rotate' | 'key enable' | 'key disable' | 'key primary' | 'key label' | wrap | unwrap | generate | rewrap | bench)
		[[ $cur == -* ]] || _kekctl_words "$("${words[0]}" "${passed[@]}" -q --timeout 2 key list 2>/dev/null)"
		;;
	'client show' | 'client rm')
		[[ $cur == -* ]] || _kekctl_words "$("${words[0]}" "${passed[@]}" -q --timeout 2 client list 2>/dev/null)"
		;;
	esac
	[[ $cur == -* ]] || return

	case "${given[*]}" in
	'key create'*) options+=' --label --token' ;;
	'key rotate'*) options+=' --token' ;;
	wrap*) options+=' --in --out --context --version-id --force' ;;
	unwrap*) options+=' --in --out --context --force' ;;
	generate*) options+=' --out --bytes --plaintext-out --context --force' ;;
	rewrap*) options+=' --in --out --context --new-context --force' ;;
	bench*) options+=' --mix --connections --threads --batch --rate --duration --warmup --bytes' ;;
	'client add'*) options+=' --identity --grant --address' ;;
	esac
	_kekctl_words "$options"
}

complete -F _kekctl kekctl
