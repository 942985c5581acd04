/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A TCP proxy before etcd, in a thread of the test: it lets a watch hang in silence, loses an
 * answer, or is not there at all.
 */
#ifndef PROXY_H
#define PROXY_H

#include <stdatomic.h>

struct proxy;

struct proxy *proxy_start(unsigned to_port); /* fails the test */
void proxy_stop(struct proxy **p);
const char *proxy_url(const struct proxy *p);
/* The watches that are open now never bring anything any more. */
void proxy_freeze_watches(struct proxy *p);
/* The next transaction that changes something is done, and its answer is lost. */
void proxy_lose_answer(struct proxy *p);
/* Connections end, and new ones are closed at once, until it is false. */
void proxy_cut(struct proxy *p, _Bool cut);
/* Nothing passes in either direction, and nothing is closed, until it is false. */
void proxy_hang(struct proxy *p, _Bool hang);
unsigned proxy_count(const struct proxy *p, const char *path); /* "/v3/kv/txn" …: requests */

#endif
