/* SPDX-License-Identifier: Apache-2.0 */
/* SIGHUP: what of the configuration can change while the plugin serves, and what takes a restart.
 */
#ifndef KEKD_KMS_RELOAD_H
#define KEKD_KMS_RELOAD_H

#include "config.h"
#include "socket.h"

/* Reads the file again; its faults are said and nothing changes. Mode and owner of a socket of our
 * own are taken over into config; of what else differs it is said that it takes a restart. */
void kms_reload(struct kms_config *config, const struct kms_socket *s);

#endif
