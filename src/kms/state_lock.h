/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One process alone has a state_dir: two would write over each other what was announced, and each
 * would flip back what the other one did. Whoever only reads needs no lock.
 */
#ifndef KEKD_KMS_STATE_LOCK_H
#define KEKD_KMS_STATE_LOCK_H

/* *ret_fd is to be closed by the other. 0, also where there is no such directory, which is told
 * when it is read (*ret_fd is -1); -EWOULDBLOCK: another process has it; or another negative errno.
 */
int kms_state_lock(const char *dir, int *ret_fd);
void kms_state_lock_close(int *fd);

#endif
