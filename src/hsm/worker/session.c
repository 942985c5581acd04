/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions, and how they come back. Login is the module's, for all sessions at once (PKCS#11 2.40,
 * C_Login). */
#include "worker.h"

#include "kekd/control.h"
#include "kekd/log.h"

#include <unistd.h>

enum p11_class
session_open(struct worker *w, CK_FLAGS flags, struct session *ret_session)
{
	CK_SESSION_HANDLE h = CK_INVALID_HANDLE;
	enum p11_class class = p11_call(
		&w->p11, OpenSession, w->p11.slot, flags | CKF_SERIAL_SESSION, NULL, NULL, &h);

	if (class)
		return class;
	ret_session->w = w;
	ret_session->flags = flags;
	ret_session->h = h;
	return P11_OK;
}

void
session_close(struct session *s)
{
	if (s->h != CK_INVALID_HANDLE)
		p11_call(&s->w->p11, CloseSession, s->h);
	s->h = CK_INVALID_HANDLE;
}

/* The new one is there before the old one goes, since closing the last session would log out; but
 * where the token has no room for one more, the old one goes first. */
static bool
reopen(struct session *s)
{
	struct session old = *s;

	if (session_open(s->w, s->flags, s)) {
		session_close(&old);
		if (session_open(s->w, s->flags, s))
			return false;
	}
	if (s == &s->w->home)
		objects_forget_copies(s->w);
	session_close(&old);
	log_info("opened a new session");
	return true;
}

/* A PIN that is refused now, after it was good, ends the worker as at the start. */
static bool
log_in(struct session *s)
{
	if (pin_login(s->w, s->h) == 0)
		return true;
	worker_send_hello(s->w);
	_exit(s->w->exit_status);
}

/* What was asked goes to another worker, while kekd starts this one again. */
static bool
end(struct session *s)
{
	struct worker *w = s->w;

	worker_fail(w, HSM_STATE_FAILED, CHILD_EXIT_FAILED,
		"token \"%s\" (%s) or its module is gone: the worker starts again", w->part.token,
		w->part.uri);
	worker_send_hello(w);
	_exit(w->exit_status);
}

static bool (*const recoveries[])(struct session *s) = {
	[P11_SESSION] = reopen,
	[P11_LOGIN] = log_in,
	[P11_RESTART] = reopen,
	[P11_GONE] = end,
	[P11_ATTRIBUTES] = NULL, /* the last class: the rest of the table is NULL */
};

bool
session_recover(struct session *s, enum p11_class class)
{
	return recoveries[class] && recoveries[class](s);
}

enum p11_class
session_check_login(struct session *s)
{
	CK_SESSION_INFO info;
	enum p11_class class = p11_call(&s->w->p11, GetSessionInfo, s->h, &info);

	if (class)
		return class;
	return info.state == CKS_RO_USER_FUNCTIONS || info.state == CKS_RW_USER_FUNCTIONS
		       ? P11_OK
		       : P11_LOGIN;
}
