#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every header of include/kekd compiles alone, and twice in one file.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
flags=$(pkg-config --cflags p11-kit-1 libcrypto libmicrohttpd gnutls sqlite3 jansson libcyaml \
	libcurl)
status=0
for header in "$top"/include/kekd/*.h; do
	name=${header##*/}
	# shellcheck disable=SC2086 # several words and flags
	if ! printf '#include "kekd/%s"\n#include "kekd/%s"\n' "$name" "$name" |
		${CC:-cc} -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror -fsyntax-only \
			-I "$top/include" $flags -x c -; then
		echo "include/kekd/$name does not compile alone"
		status=1
	fi
done
exit $status
