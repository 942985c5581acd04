# Completion of kekctl(1) for bash. SPDX-License-Identifier: Apache-2.0

_kekctl()
{
	local cur=${COMP_WORDS[COMP_CWORD]} line i
	local -a passed=() found=() names=()

	# Which server is asked for names.
	for ((i = 1; i < COMP_CWORD - 1; i++)); do
		case ${COMP_WORDS[i]} in
		--config | --endpoint | --ca | --cert | --key)
			passed+=("${COMP_WORDS[i]}" "${COMP_WORDS[i + 1]}")
			;;
		esac
	done

	COMPREPLY=()
	while IFS= read -r line; do
		case $line in
		:files)
			compopt -o filenames 2>/dev/null
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
			;;
		:dirs)
			compopt -o filenames 2>/dev/null
			mapfile -t COMPREPLY < <(compgen -d -- "$cur")
			;;
		:keys | :clients | :snapshots)
			line=${line#:}
			mapfile -t names < <(
				"${COMP_WORDS[0]}" "${passed[@]}" -q --timeout 2 "${line%s}" list 2>/dev/null
			)
			found+=("${names[@]}")
			;;
		*) found+=("${line%%$'\t'*}") ;;
		esac
	done < <("${COMP_WORDS[0]}" complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
	[[ ${#found[@]} -eq 0 ]] || mapfile -t COMPREPLY < <(compgen -W "${found[*]}" -- "$cur")
}

complete -F _kekctl kekctl
