# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154 # top, reports: whoever reads this has them
# How tests are run and counted, for tests/run and its like: they set top, reports, passed, failed
# and unsteady=(), and source this.
#
# What fails runs once more, by itself: on a busy machine a test can be late. It counts as it goes
# then, and is named: unsteady. Many that fail are no matter of time.
again_max=10

# count KIND FILE: adds what tests/count.py read from a report.
count() {
	local p f
	read -r p f < <(/usr/bin/python3 "$top/tests/count.py" "$@") || { p=0 f=1; }
	passed=$((passed + p)) failed=$((failed + f))
}

# failures REPORT: their names, a line each.
failures() {
	/usr/bin/python3 "$top/tests/count.py" failed "$1"
}

# run_pytest REPORT ARGUMENT...
run_pytest() {
	local report=$1
	shift
	/usr/bin/python3 -m pytest -q -p no:cacheprovider --rootdir="$top" -o junit_family=xunit1 \
		--junitxml="$report" "$@"
}

# suite NAME ARGUMENT...: a report of its own; that nothing is chosen (5) is no failure.
suite() {
	local report=$reports/$1.xml status=0 names=() again=() before=$failed name
	shift
	rm -f "$report" "$report.again"
	run_pytest "$report" "$@" || status=$?
	[ "$status" -ne 5 ] || return 0
	count pytest "$report"
	[ "$status" -eq 1 ] || return 0
	mapfile -t names < <(failures "$report")
	[ "${#names[@]}" -gt 0 ] && [ "${#names[@]}" -le "$again_max" ] || return 0
	echo "Once more, alone:"
	failed=$before
	run_pytest "$report.again" "${names[@]/#/$top/}" || true
	count pytest "$report.again"
	mapfile -t again < <(failures "$report.again")
	for name in "${names[@]}"; do
		[[ " ${again[*]} " == *" $name "* ]] || unsteady+=("$name")
	done
}

tell_unsteady() {
	local name
	for name in "${unsteady[@]}"; do
		echo "unsteady: $name failed among the others, and passed alone"
	done
}
