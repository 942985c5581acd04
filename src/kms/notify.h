/* SPDX-License-Identifier: Apache-2.0 */
/* What the service manager is told (sd_notify(3)); without one nobody is told. Main thread. */
#ifndef KEKD_KMS_NOTIFY_H
#define KEKD_KMS_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

/* How often kms_notify_alive is to be called, in ns; 0: never. */
uint64_t kms_notify_alive_every_ns(void);
void kms_notify_alive(void);
void kms_notify_ready(void); /* also after a reload */
void kms_notify_reloading(void);
void kms_notify_stopping(void);
void kms_notify_status(const char *text); /* a line for people */

#endif
