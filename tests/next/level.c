/* SPDX-License-Identifier: Apache-2.0 */
/* The level of the release after this one, for a kekd-net that is to come: what it allows, this one
 * refuses. */
#define KEKD_LEVEL 2
#include "../../src/cluster/level.c"
