/* SPDX-License-Identifier: Apache-2.0 */
/* What clients are verified with, shared by the files that read it and the one that uses it. */
#ifndef KEKD_ACCESS_CA_H
#define KEKD_ACCESS_CA_H

#include "kekd/access.h"

#include <openssl/x509v3.h>
#include <stdatomic.h>

struct identity_ca {
	X509_STORE *store;
	STACK_OF(X509) * cas;
	struct identity_crl *crl; /* NULL: revocation is not checked */
	bool warn_expired;	  /* an expired CRL is used, and told */
	atomic_uint references;
};

struct identity_crl {
	STACK_OF(X509_CRL) * crls;
	atomic_uint references;
};

/* ca.c. 0 or -EINVAL. */
int ca_time_us(const ASN1_TIME *time, uint64_t *ret_us);
/* Lowers *us to this time, if that is earlier and not before now. NULL: no such time. */
void ca_earlier(const ASN1_TIME *time, uint64_t now_us, uint64_t *us);
/* The next PEM object may only fail to be there because the file has ended. */
bool ca_at_end(void);

/* crl.c. What a fault of revocation is to the client; 0: this is none. */
int crl_error(int x509);

#endif
