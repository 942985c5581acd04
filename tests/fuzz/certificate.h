/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates for targets that read some. */
#ifndef KEKD_FUZZ_CERTIFICATE_H
#define KEKD_FUZZ_CERTIFICATE_H

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdbool.h>

/* Of a CA, or of a server on localhost; valid from yesterday on. */
X509 *fuzz_certificate(EVP_PKEY *key, bool ca);
/* A file in the target's directory with one of the two, or both. */
void fuzz_write_pem(const char *name, const X509 *x, const EVP_PKEY *key);

#endif
