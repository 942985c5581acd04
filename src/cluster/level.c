/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The level of this release: raised by a release whose records an earlier one cannot read. Nothing
 * of a higher level is written before every member runs it and `kekctl cluster level` says so.
 */
#include "kekd/cluster.h"

#ifndef KEKD_LEVEL
#define KEKD_LEVEL 1
#endif

const unsigned cluster_release_level = KEKD_LEVEL;
