/* SPDX-License-Identifier: Apache-2.0 */
/* How libmicrohttpd is used, for the listener and for the bench that measures its limit. */
#ifndef KEKD_HTTP_DAEMON_H
#define KEKD_HTTP_DAEMON_H

/* poll: 0.9.75 stalls TLS connections under epoll. */
#define HTTP_DAEMON_FLAGS \
	(MHD_USE_POLL_INTERNAL_THREAD | MHD_USE_TLS | MHD_ALLOW_SUSPEND_RESUME | \
		MHD_USE_ERROR_LOG | MHD_USE_ITC)
/* More than 32 KiB, from where on libmicrohttpd maps a connection's memory rather than leaving its
 * last request to the heap. */
#define HTTP_CONNECTION_MEMORY 36864
#define HTTP_CONNECTION_IDLE_S 120
#define HTTP_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3"

#endif
