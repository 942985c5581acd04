/* SPDX-License-Identifier: Apache-2.0 */
/* bbolt's pages and etcd's revisions in them: what is read of a sound file, and that nothing in a
 * damaged one leads astray. */
#include "bolt_file.h"
#include "etcd_server.h"

#include "../../src/ctl/snapshot.h"

#include <setjmp.h>
#include <stdarg.h>
/* cmocka.h needs the four above it. */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DAMAGED(file, words) assert_damaged(file, bolt_file_size(file), words)

/* ---- reading all of it ---- */

struct seen {
	uint64_t live, superseded, last;
	char first[64];
};

static int
see(void *user, const struct mvcc_record *r)
{
	struct seen *s = user;

	if (s->live + s->superseded == 0)
		snprintf(s->first, sizeof(s->first), "%.60s", r->key);
	s->live += r->live;
	s->superseded += !r->live;
	s->last = r->revision;
	return 0;
}

static int
read_fd(int fd, uint64_t size, struct seen *ret_seen, char ret_error[BOLT_ERROR_SIZE])
{
	struct bolt *b = NULL;
	struct mvcc *m = NULL;
	int err = bolt_open(fd, size, &b, ret_error);

	memset(ret_seen, 0, sizeof(*ret_seen));
	if (err != 0)
		return err;
	err = mvcc_open(b, &m);
	if (err == 0)
		err = mvcc_index(m, NULL, NULL);
	if (err == 0)
		err = mvcc_each(m, see, NULL, ret_seen);
	if (err == 0)
		err = bolt_check_unchanged(b);
	snprintf(ret_error, BOLT_ERROR_SIZE, "%s", bolt_error(b));
	mvcc_freep(&m);
	bolt_freep(&b);
	return err;
}

static void
read_sound(struct bolt_file *f, struct seen *ret_seen)
{
	char error[BOLT_ERROR_SIZE] = "";
	int err = read_fd(
		bolt_file_write(f, bolt_file_size(f)), bolt_file_size(f), ret_seen, error);

	if (err != 0)
		fail_msg("%d: %s", err, error);
}

static void
assert_damaged(struct bolt_file *f, size_t len, const char *words)
{
	char error[BOLT_ERROR_SIZE] = "";
	struct seen s;

	assert_int_equal(read_fd(bolt_file_write(f, len), len, &s, error), -EBADMSG);
	if (!strstr(error, words))
		fail_msg("\"%s\" lacks \"%s\"", error, words);
}

/* ---- sound files ---- */

#define ROOM 256

struct records {
	uint8_t keys[64][18], values[64][ROOM];
	struct bolt_entry entries[64];
};

/* Entry i: revision from + i, of one of three keys. */
static void
make_records(struct records *r, unsigned count, uint64_t from)
{
	for (unsigned i = 0; i < count; i++) {
		char name[32];
		snprintf(name, sizeof(name), "/registry/secrets/a/%u", i % 3);
		r->entries[i] = (struct bolt_entry){ 0, r->keys[i],
			bolt_file_revision(r->keys[i], from + i, 0, 0), r->values[i],
			bolt_file_key_value(r->values[i], ROOM, name, from + i, "value", 5) };
	}
}

/* Root, and 12 revisions of three keys in two leaves under a branch. */
static void
make_sound(struct bolt_file *f, uint32_t page_size)
{
	struct records r;

	bolt_file_init(f, page_size, 6);
	bolt_file_root(f, 3);
	bolt_file_branch(f, 3, (const uint64_t[]){ 4, 5 }, 2);
	make_records(&r, 12, 2);
	bolt_file_leaf(f, 4, 0, r.entries, 7);
	bolt_file_leaf(f, 5, 0, r.entries + 7, 5);
}

static void
every_page_size_is_read(void **state)
{
	(void)state;
	for (uint32_t size = 4096; size <= 65536; size *= 2) {
		struct bolt_file f;
		struct seen s;
		make_sound(&f, size);
		read_sound(&f, &s);
		assert_int_equal(s.live, 3);
		assert_int_equal(s.superseded, 9);
		assert_int_equal(s.last, 13);
		assert_string_equal(s.first, "/registry/secrets/a/0");
		bolt_file_free(&f);
	}
	for (uint32_t size = 512; size < 4096; size *= 2) {
		struct bolt_file f;
		make_sound(&f, size);
		DAMAGED(&f, "meta pages");
		bolt_file_free(&f);
	}
}

static void
the_newer_meta_page_counts_and_a_damaged_one_does_not(void **state)
{
	struct bolt_file f;
	struct seen s;

	(void)state;
	make_sound(&f, 4096);
	bolt_file_meta(&f, 1, 5, 9); /* newer, and leads elsewhere */
	{
		char error[BOLT_ERROR_SIZE];
		int fd = bolt_file_write(&f, bolt_file_size(&f));
		assert_int_equal(read_fd(fd, bolt_file_size(&f), &s, error), -EMEDIUMTYPE);
		assert_non_null(strstr(error, "bucket"));
	}
	f.data[4096 + 16 + 48] ^= 1; /* its checksum is wrong now */
	read_sound(&f, &s);
	assert_int_equal(s.live, 3);
	bolt_file_meta(&f, 1, 2, 9);
	memset(f.data, 0, 4096); /* the first alone says how long a page is */
	read_sound(&f, &s);
	assert_int_equal(s.live, 3);
	f.data[4096 + 16 + 48] ^= 1;
	DAMAGED(&f, "both of its meta pages");
	bolt_file_free(&f);
}

static void
what_is_no_bbolt_file_is_told_apart_from_a_damaged_one(void **state)
{
	struct bolt_file f;
	struct seen s;
	char error[BOLT_ERROR_SIZE];

	(void)state;
	make_sound(&f, 4096);
	memset(f.data, 'x', 8192);
	assert_int_equal(read_fd(bolt_file_write(&f, 24576), 24576, &s, error), -EMEDIUMTYPE);
	for (size_t len = 0; len < 200; len++)
		assert_int_equal(read_fd(bolt_file_write(&f, len), len, &s, error), -EMEDIUMTYPE);
	bolt_file_put(f.data + 16, 0xEDDA0CED, 4);
	DAMAGED(&f, "big-endian");
	bolt_file_free(&f);
	make_sound(&f, 4096);
	bolt_file_leaf(&f, 2, 0, NULL, 0); /* a bbolt file of somebody else's */
	assert_int_equal(
		read_fd(bolt_file_write(&f, bolt_file_size(&f)), bolt_file_size(&f), &s, error),
		-EMEDIUMTYPE);
	bolt_file_free(&f);
}

static void
a_file_that_is_cut_off_is_told_to_be(void **state)
{
	struct bolt_file f;

	(void)state;
	make_sound(&f, 4096);
	for (size_t len = bolt_file_size(&f) - 1; len > 4096; len -= 511)
		assert_damaged(&f, len, "cut off");
	bolt_file_free(&f);
}

static void
values_that_span_pages_are_read_in_place(void **state)
{
	static uint8_t big[100000], value[120000];
	uint8_t key[18], other[18], small[ROOM];
	struct bolt_file f;
	struct seen s;
	size_t len;

	(void)state;
	bolt_file_init(&f, 4096, 40);
	bolt_file_root(&f, 3);
	len = bolt_file_key_value(
		value, sizeof(value), "/registry/secrets/a/b", 2, big, sizeof(big));
	const struct bolt_entry entries[] = {
		{ 0, key, bolt_file_revision(key, 2, 0, 0), value, len },
		{ 0, other, bolt_file_revision(other, 3, 0, 0), small,
			bolt_file_key_value(small, ROOM, "/registry/x/y", 3, "", 0) },
	};
	bolt_file_leaf(&f, 3, 25, entries, 2);
	read_sound(&f, &s);
	assert_int_equal(s.live, 2);
	bolt_file_page(&f, 3, BOLT_FILE_LEAF, 2, 23); /* shorter than what it holds */
	DAMAGED(&f, "belongs");
	bolt_file_page(&f, 3, BOLT_FILE_LEAF, 2, 37);
	DAMAGED(&f, "behind the last");
	bolt_file_page(&f, 3, BOLT_FILE_LEAF, 2, UINT32_MAX);
	DAMAGED(&f, "behind the last");
	bolt_file_free(&f);
}

static void
an_empty_store_and_one_inside_a_page_are_read(void **state)
{
	uint8_t inside[16 + 512] = { 0 }, meta[32] = { 0 };
	struct bolt_file f, page;
	struct records r;
	struct seen s;

	(void)state;
	make_sound(&f, 4096);
	bolt_file_leaf(&f, 3, 0, NULL, 0);
	read_sound(&f, &s);
	assert_int_equal(s.live + s.superseded, 0);
	/* As a page of its own, whose bytes then stand behind the bucket's head. */
	bolt_file_init(&page, 4096, 1);
	make_records(&r, 4, 2);
	bolt_file_leaf(&page, 0, 0, r.entries, 4);
	memcpy(inside + 16, page.data, sizeof(inside) - 16);
	bolt_file_put(meta + 24, BOLT_FILE_LEAF, 2);
	const struct bolt_entry buckets[] = {
		{ BOLT_FILE_BUCKET, "key", 3, inside, sizeof(inside) },
		{ BOLT_FILE_BUCKET, "meta", 4, meta, sizeof(meta) },
	};
	bolt_file_leaf(&f, 2, 0, buckets, 2);
	read_sound(&f, &s);
	assert_int_equal(s.live, 3);
	assert_int_equal(s.superseded, 1);
	bolt_file_free(&page);
	bolt_file_free(&f);
}

/* ---- damage ---- */

static void
buckets_that_hold_no_tree_are_told(void **state)
{
	uint8_t inside[16 + 64] = { 0 }, meta[32] = { 0 };
	struct bolt_entry buckets[] = {
		{ BOLT_FILE_BUCKET, "key", 3, inside, sizeof(inside) },
		{ BOLT_FILE_BUCKET, "meta", 4, meta, sizeof(meta) },
	};
	struct bolt_file f;

	(void)state;
	make_sound(&f, 4096);
	bolt_file_put(meta + 24, BOLT_FILE_LEAF, 2);
	bolt_file_put(inside + 24, BOLT_FILE_BRANCH, 2);
	bolt_file_leaf(&f, 2, 0, buckets, 2);
	DAMAGED(&f, "a bucket inside a page is no leaf");
	buckets[0].value_size = 24; /* half of a page's head */
	bolt_file_leaf(&f, 2, 0, buckets, 2);
	DAMAGED(&f, "ends too early");
	buckets[0].value_size = 8; /* half of the bucket's own */
	bolt_file_leaf(&f, 2, 0, buckets, 2);
	DAMAGED(&f, "ends too early");
	for (uint64_t root = 0; root < 9; root += root == 1 ? 5 : 1) {
		if (root == 2)
			continue;
		bolt_file_meta(&f, 0, root, 5);
		bolt_file_meta(&f, 1, root, 6);
		if (root < 2 || root >= 6)
			DAMAGED(&f, "which is none");
	}
	bolt_file_free(&f);
}

static void
a_second_meta_page_of_another_page_size_does_not_count(void **state)
{
	struct bolt_file f, other;
	struct seen s;

	(void)state;
	make_sound(&f, 4096);
	make_sound(&other, 8192);
	bolt_file_meta(&other, 1, 2, 99);
	memcpy(f.data + 4096, other.data + 8192, 80); /* newer */
	read_sound(&f, &s);
	assert_int_equal(s.live, 3);
	bolt_file_free(&other);
	bolt_file_free(&f);
}

static void
pages_that_lead_in_a_circle_have_an_end(void **state)
{
	uint64_t same[100];
	struct bolt_file f;

	(void)state;
	make_sound(&f, 4096);
	bolt_file_branch(&f, 3, (const uint64_t[]){ 3 }, 1);
	DAMAGED(&f, "circle");
	bolt_file_branch(&f, 3, (const uint64_t[]){ 4, 4 }, 2); /* twice the same */
	DAMAGED(&f, "stands behind");
	bolt_file_leaf(&f, 4, 0, NULL, 0); /* nothing in it, a hundred times */
	for (size_t i = 0; i < 100; i++)
		same[i] = 4;
	bolt_file_branch(&f, 3, same, 100);
	DAMAGED(&f, "circle");
	bolt_file_free(&f);
	/* Deeper than any tree is. */
	bolt_file_init(&f, 4096, 200);
	bolt_file_root(&f, 3);
	for (uint64_t i = 3; i < 199; i++)
		bolt_file_branch(&f, i, (const uint64_t[]){ i + 1 }, 1);
	bolt_file_leaf(&f, 199, 0, NULL, 0);
	DAMAGED(&f, "deeply");
	bolt_file_free(&f);
}

static void
places_outside_of_a_page_are_not_believed(void **state)
{
	static const struct {
		size_t at;
		uint64_t value;
		size_t bytes;
		const char *words;
	} changes[] = {
		{ 16 + 4, 0, 4, "belongs" },	       /* a key within the table */
		{ 16 + 4, 5000, 4, "belongs" },	       /* behind the page */
		{ 16 + 4, UINT32_MAX, 4, "belongs" },  /* far behind it */
		{ 16 + 8, 40000, 4, "belongs" },       /* a key that long */
		{ 16 + 12, UINT32_MAX, 4, "belongs" }, /* a value that long */
		{ 10, 0xffff, 2, "more entries" },     /* than it has room for */
		{ 8, 0, 2, "neither" },		       /* no kind of page */
		{ 8, 3, 2, "neither" },		       /* two */
		{ 8, 0x10, 2, "neither" },	       /* a freelist */
		{ 0, 5, 8, "says that it is page 5" }, /* another page */
		{ 10, 6, 2, "belongs" },	       /* fewer than there are */
		{ 16 + 8, 3, 4, "is no revision" },    /* a short key */
		{ 16 + 12, 200, 4, "belongs" },	       /* a longer value */
		{ 16, 1, 4, "is no value" },	       /* a bucket */
		{ 16, 4, 4, "is no value" },	       /* nothing known */
	};
	struct bolt_file f;

	(void)state;
	for (size_t i = 0; i < STR_COUNT(changes); i++) {
		make_sound(&f, 4096);
		bolt_file_put(
			f.data + 4 * 4096 + changes[i].at, changes[i].value, changes[i].bytes);
		DAMAGED(&f, changes[i].words);
		bolt_file_free(&f);
	}
	make_sound(&f, 4096);
	for (uint64_t page = 0; page < 20; page += page == 1 ? 5 : 1) {
		bolt_file_branch(&f, 3, (const uint64_t[]){ page }, 1);
		if (page < 2 || page >= 6)
			DAMAGED(&f, "refers to page");
	}
	bolt_file_branch(&f, 3, NULL, 0);
	DAMAGED(&f, "leads nowhere");
	bolt_file_free(&f);
}

/* Every byte in use, each to three other values: an end in good order, in bounded time. */
static void
no_altered_byte_leads_astray(void **state)
{
	static const uint8_t masks[] = { 0x01, 0x80, 0xff };
	char error[BOLT_ERROR_SIZE];
	struct bolt_file f;
	struct seen s;
	size_t refused = 0;

	(void)state;
	make_sound(&f, 4096);
	for (size_t at = 0; at < bolt_file_size(&f); at++) {
		if (at % 4096 > 700)
			continue;
		for (size_t i = 0; i < sizeof(masks); i++) {
			int err;
			f.data[at] ^= masks[i];
			err = read_fd(bolt_file_write(&f, bolt_file_size(&f)), bolt_file_size(&f),
				&s, error);
			f.data[at] ^= masks[i];
			assert_true(err == 0 || (err == -EBADMSG && *error) ||
				    (err == -EMEDIUMTYPE && *error));
			assert_true(err != 0 || s.live + s.superseded == 12); /* none is lost */
			refused += err != 0;
		}
	}
	assert_true(refused > 1000);
	bolt_file_free(&f);
}

/* ---- revisions ---- */

#define KEYS 3000
#define CHANGES 20000
#define LEAF 500
#define LEAVES (CHANGES / LEAF)

struct model {
	bool live[KEYS];
	uint64_t values;
};

static void
make_history(struct bolt_file *f, struct model *m)
{
	static struct bolt_entry entries[LEAF];
	static uint8_t keys[LEAF][18], values[LEAF][96];
	uint64_t leaves[LEAVES], seed = 88172645463325252u;

	bolt_file_init(f, 65536, 4 + LEAVES);
	bolt_file_root(f, 3);
	for (uint64_t n = 0; n < CHANGES; n++) {
		size_t i = n % LEAF, key;
		bool deletion;
		char name[32];
		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		key = (size_t)(seed % KEYS);
		deletion = m->live[key] && seed >> 40 & 1;
		m->live[key] = !deletion;
		m->values += !deletion;
		snprintf(name, sizeof(name), "/registry/x/%zu", key);
		entries[i] = (struct bolt_entry){ 0, keys[i],
			bolt_file_revision(keys[i], n / 2 + 1, n % 2, deletion), values[i],
			bolt_file_key_value(values[i], sizeof(values[i]), name, n / 2 + 1,
				deletion ? NULL : "v", 1) };
		leaves[n / LEAF] = 4 + n / LEAF;
		if (i == LEAF - 1)
			bolt_file_leaf(f, 4 + n / LEAF, 0, entries, LEAF);
	}
	bolt_file_branch(f, 3, leaves, LEAVES);
}

static int
compare(void *user, const struct mvcc_record *r)
{
	struct model *m = user;
	size_t key = strtoul(r->key + strlen("/registry/x/"), NULL, 10);

	assert_true(!r->live || m->live[key]);
	m->live[key] &= !r->live; /* each once */
	m->values--;
	return 0;
}

static void
of_each_key_the_newest_revision_is_live_unless_it_is_a_deletion(void **state)
{
	static struct model model;
	char error[BOLT_ERROR_SIZE];
	struct bolt *b = NULL;
	struct mvcc *m = NULL;
	struct bolt_file f;

	(void)state;
	make_history(&f, &model);
	assert_int_equal(
		bolt_open(bolt_file_write(&f, bolt_file_size(&f)), bolt_file_size(&f), &b, error),
		0);
	assert_int_equal(mvcc_open(b, &m), 0);
	assert_int_equal(mvcc_index(m, NULL, NULL), 0);
	assert_int_equal(mvcc_revision(m), CHANGES / 2);
	assert_int_equal(mvcc_each(m, compare, NULL, &model), 0);
	assert_int_equal(model.values, 0);
	for (size_t i = 0; i < KEYS; i++)
		assert_false(model.live[i]);
	mvcc_freep(&m);
	bolt_freep(&b);
	bolt_file_free(&f);
}

static void
revisions_only_rise_and_say_what_they_are(void **state)
{
	struct records r;
	struct bolt_file f;

	(void)state;
	make_sound(&f, 4096);
	make_records(&r, 3, 2);
	bolt_file_revision(r.keys[2], 3, 0, 0);
	bolt_file_leaf(&f, 3, 0, r.entries, 3);
	DAMAGED(&f, "stands behind");
	bolt_file_revision(r.keys[2], 9, 0, 0);
	bolt_file_leaf(&f, 3, 0, r.entries, 3);
	DAMAGED(&f, "says that it is 4");
	r.keys[2][8] = '-';
	bolt_file_leaf(&f, 3, 0, r.entries, 3);
	DAMAGED(&f, "no revision");
	make_records(&r, 3, 2);
	r.entries[1].key_size = 18;
	r.keys[1][17] = 'x';
	bolt_file_leaf(&f, 3, 0, r.entries, 3);
	DAMAGED(&f, "no revision");
	make_records(&r, 3, 2);
	r.entries[1].value_size -= 1; /* a field's end is missing */
	bolt_file_leaf(&f, 3, 0, r.entries, 3);
	DAMAGED(&f, "no protobuf");
	r.entries[1].value_size = 0;
	bolt_file_leaf(&f, 3, 0, r.entries, 3);
	DAMAGED(&f, "of no key");
	bolt_file_free(&f);
}

static void
a_write_while_it_is_read_is_noticed(void **state)
{
	char error[BOLT_ERROR_SIZE];
	struct bolt *b = NULL;
	struct bolt_file f;
	int fd;

	(void)state;
	make_sound(&f, 4096);
	fd = bolt_file_write(&f, bolt_file_size(&f));
	assert_int_equal(bolt_open(fd, bolt_file_size(&f), &b, error), 0);
	assert_int_equal(bolt_check_unchanged(b), 0);
	bolt_file_meta(&f, 1, 2, 9);
	bolt_file_write(&f, bolt_file_size(&f));
	assert_int_equal(bolt_check_unchanged(b), -EBADMSG);
	bolt_freep(&b);
	bolt_file_free(&f);
}

/* ---- resources ---- */

static void
paths_name_resources_as_the_api_server_does(void **state)
{
	static const struct {
		const char *path, *name, *group, *object;
	} good[] = {
		{ "secrets/default/a", "secrets", "", "default/a" },
		{ "minions/node-1", "nodes", "", "node-1" },
		{ "services/specs/default/a", "services", "", "default/a" },
		{ "services/endpoints/default/a", "endpoints", "", "default/a" },
		{ "deployments/default/a", "deployments", "apps", "default/a" },
		{ "ingress/default/a", "ingresses", "networking.k8s.io", "default/a" },
		{ "apiregistration.k8s.io/apiservices/v1.", "apiservices", "apiregistration.k8s.io",
			"v1." },
		{ "example.org/widgets/a/b", "widgets", "example.org", "a/b" },
		{ "ranges/serviceips", "ranges", "", "serviceips" },
	};
	static const char *const bad[] = { "", "/", "/secrets/a", "example.org//a", "example.org",
		"secrets\xff/a", "Secrets/a" };
	struct resource r;

	(void)state;
	for (size_t i = 0; i < STR_COUNT(good); i++) {
		assert_true(resource_parse(good[i].path, &r));
		assert_string_equal(r.name, good[i].name);
		assert_string_equal(r.group, good[i].group);
		assert_string_equal(r.object, good[i].object);
	}
	for (size_t i = 0; i < STR_COUNT(bad); i++)
		assert_false(resource_parse(bad[i], &r));
}

static void
resources_are_chosen_as_an_encryption_configuration_does(void **state)
{
	static const struct {
		const char *path, *list;
		bool among;
	} rows[] = {
		{ "secrets/a/b", "secrets", true },
		{ "secrets/a/b", "configmaps,secrets", true },
		{ "secrets/a/b", "secret", false },
		{ "secrets/a/b", "", false },
		{ "secrets/a/b", "*.", true },
		{ "secrets/a/b", "*.*", true },
		{ "secrets/a/b", "*.apps", false },
		{ "ranges/serviceips", "*.*", false },
		{ "masterleases/10.0.0.1", "masterleases", false },
		{ "deployments/a/b", "deployments", false },
		{ "deployments/a/b", "deployments.apps", true },
		{ "deployments/a/b", "*.apps", true },
		{ "deployments/a/b", "*.", false },
		{ "example.org/secrets/a/b", "secrets", false },
		{ "example.org/secrets/a/b", "secrets.example.org", true },
	};
	struct resource r;

	(void)state;
	for (size_t i = 0; i < STR_COUNT(rows); i++) {
		assert_true(resource_parse(rows[i].path, &r));
		if (resource_is_among(&r, rows[i].list) != rows[i].among)
			fail_msg("%s, %s", rows[i].path, rows[i].list);
	}
}

/* ---- what etcd itself writes ---- */

static struct etcd_servers servers;

static int
stop(void **state)
{
	(void)state;
	etcd_servers_stop(&servers);
	return 0;
}

static void __attribute__((format(printf, 1, 2))) ctl(const char *format, ...)
{
	char text[256];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	assert_int_equal(etcd_ctl(&servers, text), 0);
}

static void
read_file(struct bolt_file *f)
{
	char path[128];
	struct stat st;
	int fd;

	snprintf(path, sizeof(path), "%s/snapshot", servers.dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	bolt_file_init(f, 4096, (uint64_t)st.st_size / 4096);
	assert_int_equal(pread(fd, f->data, bolt_file_size(f), 0), bolt_file_size(f));
	close(fd);
}

static void
a_snapshot_of_the_real_etcd_is_read_and_bears_any_altered_byte(void **state)
{
	char error[BOLT_ERROR_SIZE];
	struct bolt_file f = { .fd = -1 };
	struct seen s;
	uint64_t seed = 1;

	(void)state;
	if (!etcd_installed())
		skip();
	etcd_servers_start(&servers, 1, false);
	for (unsigned i = 0; i < 8; i++)
		ctl("put /registry/secrets/a/%u value", i % 4);
	ctl("del /registry/secrets/a/0");
	ctl("compaction 6");
	ctl("snapshot save %s/snapshot", servers.dir);
	read_file(&f);
	read_sound(&f, &s);
	assert_int_equal(s.live, 3);
	for (unsigned i = 0; i < 20000; i++) {
		size_t at;
		uint8_t mask;
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		at = (size_t)(seed >> 33) % bolt_file_size(&f);
		mask = (uint8_t)(seed >> 24 | 1);
		if (at % 4096 > 512)
			at -= at % 4096 - at % 512;
		f.data[at] ^= mask;
		(void)read_fd(
			bolt_file_write(&f, bolt_file_size(&f)), bolt_file_size(&f), &s, error);
		f.data[at] ^= mask;
	}
	bolt_file_free(&f);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_page_size_is_read),
		cmocka_unit_test(the_newer_meta_page_counts_and_a_damaged_one_does_not),
		cmocka_unit_test(what_is_no_bbolt_file_is_told_apart_from_a_damaged_one),
		cmocka_unit_test(a_file_that_is_cut_off_is_told_to_be),
		cmocka_unit_test(values_that_span_pages_are_read_in_place),
		cmocka_unit_test(an_empty_store_and_one_inside_a_page_are_read),
		cmocka_unit_test(buckets_that_hold_no_tree_are_told),
		cmocka_unit_test(a_second_meta_page_of_another_page_size_does_not_count),
		cmocka_unit_test(pages_that_lead_in_a_circle_have_an_end),
		cmocka_unit_test(places_outside_of_a_page_are_not_believed),
		cmocka_unit_test(no_altered_byte_leads_astray),
		cmocka_unit_test(of_each_key_the_newest_revision_is_live_unless_it_is_a_deletion),
		cmocka_unit_test(revisions_only_rise_and_say_what_they_are),
		cmocka_unit_test(a_write_while_it_is_read_is_noticed),
		cmocka_unit_test(paths_name_resources_as_the_api_server_does),
		cmocka_unit_test(resources_are_chosen_as_an_encryption_configuration_does),
		cmocka_unit_test_teardown(
			a_snapshot_of_the_real_etcd_is_read_and_bears_any_altered_byte, stop),
	};

	json_open();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
