/* SPDX-License-Identifier: Apache-2.0 */
/* The rules: which calls go wrong, how, and how often. They are in a file that may change at any
 * time; its counts are shared by all processes that use it. */
#ifndef P11FAULTS_RULES_H
#define P11FAULTS_RULES_H

#include <p11-kit/pkcs11.h>
#include <stdbool.h>
#include <stddef.h>

enum action {
	ACTION_NONE,
	ACTION_RETURN, /* number: the CK_RV, instead of the real call */
	ACTION_ANSWER, /* number: the CK_RV, after the real call was made */
	ACTION_DELAY,  /* number: milliseconds, then the real call */
	ACTION_HANG,
	ACTION_CRASH,
	ACTION_EXIT,	  /* number: the status */
	ACTION_SIGNAL,	  /* number: sent to the process itself, then the real call */
	ACTION_FLIP,	  /* number: the byte of the output in which a bit is wrong, from the end */
	ACTION_SHORT,	  /* number: so much is missing at the end of the output */
	ACTION_EMPTY,	  /* the output has nothing */
	ACTION_FLAGS,	  /* number: are set in CK_TOKEN_INFO.flags */
	ACTION_ATTRIBUTE, /* number: of this type, attribute_value */
	ACTION_CLOSE,	  /* the session is really closed, then the real call */
	ACTION_CLOSE_ALL, /* all sessions of the slot of this session */
	ACTION_LOGOUT	  /* the user is really logged out, then the real call */
};

struct fault {
	enum action action;
	unsigned long number;
	CK_BBOOL value;
	int line; /* of the rules */
};

/* The faults of this call, in the rules' order; counts them as used. At most `max`. */
size_t rules_match(const char *function, struct fault *ret_faults, size_t max);

const char *rules_name(CK_RV rv); /* NULL: unknown */

#endif
