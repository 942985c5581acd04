/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What metrics tell of all keys: made on the control thread every now and then, so that no scrape
 * has to walk over them. The budgets of IVs are read with the store at the start, or a restart
 * would show them full until the next block is reserved; later each block that another node
 * reserves is told of.
 */
#include "node.h"

#include "kekd/clock.h"
#include "kekd/log.h"
#include "kekd/nonce.h"

#include <errno.h>
#include <string.h>

#define PAGE 256
#define SHARE 100 /* of the control thread's time it takes at most one part in this many */

struct node_nonces {
	struct uuid version;
	uint64_t reserved, newest_us;
};

void
node_note_nonces(struct node *n, const char *version, json_t *body)
{
	struct node_nonces note, *notes;

	if (!body || uuid_parse(version, &note.version) != 0 ||
		nonce_read(body, &note.reserved, &note.newest_us) != 0)
		return;
	if (n->nonces_count == n->nonces_size) {
		size_t size = n->nonces_size ? 2 * n->nonces_size : 64;
		notes = realloc(n->nonces, size * sizeof(*notes));
		if (!notes) {
			log_warning("no memory: metrics will show too many IVs left");
			return;
		}
		n->nonces = notes;
		n->nonces_size = size;
	}
	n->nonces[n->nonces_count++] = note;
}

static int
by_version(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct uuid)); /* the first member of both */
}

static int
by_version_and_count(const void *a, const void *b)
{
	const struct node_nonces *x = a, *y = b;
	int order = by_version(a, b);

	return order ? order : x->reserved < y->reserved ? -1 : x->reserved > y->reserved;
}

/* Sorted, and of several for one version the last word. */
static void
sort_notes(struct node *n)
{
	size_t left = 0;

	qsort(n->nonces, n->nonces_count, sizeof(*n->nonces), by_version_and_count);
	for (size_t i = 0; i < n->nonces_count; i++) {
		if (left > 0 && by_version(&n->nonces[left - 1], &n->nonces[i]) == 0)
			left--;
		n->nonces[left++] = n->nonces[i];
	}
	n->nonces_count = left;
}

static void
take_notes(struct node *n, const struct key *k)
{
	for (size_t i = 0; i < k->versions_count; i++) {
		const struct key_version *v = &k->versions[i];
		const struct node_nonces *note = bsearch(
			&v->id, n->nonces, n->nonces_count, sizeof(*n->nonces), by_version);
		if (note)
			nonce_note(v->nonces, note->reserved, note->newest_us);
	}
}

void
node_take_nonces(struct node *n)
{
	char after[STR_NAME_MAX + 1] = "";
	struct key *page[PAGE];
	size_t count = 0;

	if (n->nonces_count > 0)
		sort_notes(n);
	do {
		if (n->nonces_count == 0)
			break;
		count = keyring_list(n->keyring, *after ? after : NULL, PAGE, page);
		if (count > 0)
			memcpy(after, page[count - 1]->name, sizeof(after));
		for (size_t i = 0; i < count; i++) {
			take_notes(n, page[i]);
			key_unrefp(&page[i]);
		}
	} while (count == PAGE);
	free(n->nonces);
	n->nonces = NULL;
	n->nonces_count = n->nonces_size = 0;
}

void
node_summarise(struct node *n)
{
	uint64_t start = clock_boot_ns(), took;
	struct keyring_summary summary;

	if (start < n->next_summary_ns)
		return;
	node_take_nonces(n);
	keyring_summarise(n->keyring, &summary);
	pthread_mutex_lock(&n->lock);
	n->summary = summary;
	pthread_mutex_unlock(&n->lock);
	took = clock_boot_ns() - start;
	n->next_summary_ns = start + (SHARE * took > CLOCK_S ? SHARE * took : CLOCK_S);
}
