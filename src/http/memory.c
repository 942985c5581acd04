/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What TLS carried is wiped when GnuTLS gives its memory back: its records hold requests and
 * replies in clear, and a connection that breaks off leaves them to the heap. libmicrohttpd clears
 * a connection's pool between requests, and gives it back to the kernel at the end
 * (HTTP_CONNECTION_MEMORY).
 */
#include "call.h"

#include "kekd/secret.h"

/* GnuTLS's header has a macro of this name over the variable. */
#undef gnutls_free

void
http_memory_open(void)
{
	gnutls_free = secret_wiping_free;
	gnutls_realloc = secret_wiping_realloc;
}
