# Completion of kekd-kms(8) for bash. SPDX-License-Identifier: Apache-2.0

_kekd_kms()
{
	local cur=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} word command=
	local options="--config --help --version"

	COMPREPLY=()
	for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
		case $word in
		doctor | migrate-plan) command=$word ;;
		esac
	done
	case $command in
	doctor) options="--config --encryption-configuration -o --help" ;;
	migrate-plan) options="--config --to -o --help" ;;
	*) options+=" --check" ;;
	esac
	case $previous in
	--config | -c | --encryption-configuration)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	--to)
		mapfile -t COMPREPLY < <(
			compgen -W "kekd identity aescbc aesgcm secretbox" -- "$cur"
		)
		return
		;;
	-o | --output)
		mapfile -t COMPREPLY < <(compgen -W "json" -- "$cur")
		return
		;;
	esac
	if [[ $cur == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
	elif [[ $command == migrate-plan ]]; then
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
	elif [[ -z $command ]]; then
		mapfile -t COMPREPLY < <(compgen -W "doctor migrate-plan" -- "$cur")
	fi
}

complete -F _kekd_kms kekd-kms
