/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sealed store and a token in memory that a forked child shares, with the functions of seal.h
 * and hsm.h that the keyring module calls. Every call counts; one of them can fail, or end the
 * process, before or after it took effect: so each instant of a change can be tried.
 */
#ifndef KEKD_TEST_DOUBLES_H
#define KEKD_TEST_DOUBLES_H

#include "kekd/hsm.h"
#include "kekd/seal.h"

#define DOUBLES_TOKENS 2
#define DOUBLES_RECORDS 64
#define DOUBLES_OBJECTS 32

enum doubles_event {
	DOUBLES_NOTHING,
	DOUBLES_FAIL_BEFORE, /* the call returns an error and did nothing */
	DOUBLES_FAIL_AFTER,  /* it did all, and returns an error none the less */
	DOUBLES_EXIT_BEFORE,
	DOUBLES_EXIT_AFTER,
};

struct doubles_record {
	char path[STORE_PATH_MAX + 1];
	char body[16384];
	uint64_t commit; /* 0: the place is free */
};

struct doubles_object {
	unsigned token;
	struct object_id id; /* len 0: the place is free */
	char label[256];
	uint8_t key[32];
	uint32_t attributes;
};

struct doubles {
	struct doubles_record records[DOUBLES_RECORDS];
	struct doubles_object objects[DOUBLES_OBJECTS];
	uint64_t number; /* of the last commit */
	unsigned calls, event_at;
	enum doubles_event event;
	unsigned drops;
	uint32_t new_attributes;
	uint8_t iv_len;
};

struct doubles *doubles_open(void); /* empty; shared with children from then on */
void doubles_close(struct doubles *d);
/* The event-th call from now on (from 1) has the event. */
void doubles_arm(struct doubles *d, enum doubles_event event, unsigned at);
size_t doubles_objects(const struct doubles *d);
struct doubles_record *doubles_find(struct doubles *d, const char *path); /* or NULL */

/* What the functions under test take for their store and token. */
static inline struct sealed *
doubles_store(struct doubles *d)
{
	return (struct sealed *)d;
}
static inline struct hsm *
doubles_hsm(struct doubles *d)
{
	return (struct hsm *)d;
}

#endif
