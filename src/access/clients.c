/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Client records, the table of them, and the decision whether one may do a thing. Not here: from
 * where the records come (the sealed store), and the limits' enforcement (limits.c).
 */
#include "kekd/access.h"

#include "kekd/clock.h"
#include "kekd/err.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define IDENTITIES_MAX 32
#define ADDRESSES_MAX 64
#define GRANTS_MAX 64
#define LIMIT_MAX 1000000

/* Addresses of both families are kept as IPv6; IPv4 as the mapped ones (RFC 4291 2.5.5.2). */
struct network {
	struct in6_addr base;
	unsigned bits;
};

/* What the public part stands in. */
struct record {
	struct client c;
	atomic_uint references;
	struct network networks[ADDRESSES_MAX];
};

struct client *
client_ref(struct client *c)
{
	atomic_fetch_add(&((struct record *)c)->references, 1);
	return c;
}

static void
free_strings(char **list, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(list[i]);
	free(list);
}

void
client_unrefp(struct client **client)
{
	struct client *c = *client;

	*client = NULL;
	if (!c || atomic_fetch_sub(&((struct record *)c)->references, 1) != 1)
		return;
	limit_unrefp(&c->limit);
	free_strings(c->identities, c->identities_count);
	free_strings(c->addresses, c->addresses_count);
	for (size_t i = 0; i < c->grants_count; i++)
		free(c->grants[i].keys);
	free(c->grants);
	free(c);
}

/* ---- addresses ---- */

static void
map_v4(struct in_addr v4, struct in6_addr *ret_v6)
{
	*ret_v6 = (struct in6_addr){ 0 };
	ret_v6->s6_addr[10] = ret_v6->s6_addr[11] = 0xff;
	memcpy(&ret_v6->s6_addr[12], &v4, sizeof(v4));
}

static bool
in_network(const struct network *n, const struct in6_addr *a)
{
	unsigned whole = n->bits / 8, rest = n->bits % 8;

	if (memcmp(&n->base, a, whole) != 0)
		return false;
	return rest == 0 || (n->base.s6_addr[whole] ^ a->s6_addr[whole]) >> (8 - rest) == 0;
}

static bool
has_host_bits(const struct network *n)
{
	for (unsigned bit = n->bits; bit < 128; bit++)
		if (n->base.s6_addr[bit / 8] & (0x80 >> bit % 8))
			return true;
	return false;
}

static int
parse_bits(const char *text, unsigned max, unsigned *ret_bits)
{
	unsigned bits = 0;

	if (!*text || strlen(text) > 3 || (text[0] == '0' && text[1]))
		return -EINVAL;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -EINVAL;
		bits = bits * 10 + (unsigned)(*text - '0');
	}
	if (bits > max)
		return -EINVAL;
	*ret_bits = bits;
	return 0;
}

static int
parse_network(const char *text, struct network *ret_network)
{
	char address[INET6_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	size_t len = slash ? (size_t)(slash - text) : strlen(text);
	struct network n;
	struct in_addr v4;
	unsigned width, bits;

	if (len >= sizeof(address))
		return -EINVAL;
	memcpy(address, text, len);
	address[len] = '\0';
	if (inet_pton(AF_INET, address, &v4) == 1) {
		width = 32;
		map_v4(v4, &n.base);
	} else if (inet_pton(AF_INET6, address, &n.base) == 1) {
		width = 128;
	} else {
		return -EINVAL;
	}
	bits = width;
	if (slash && parse_bits(slash + 1, width, &bits) < 0)
		return -EINVAL;
	n.bits = bits + (128 - width);
	if (has_host_bits(&n))
		return -EINVAL;
	*ret_network = n;
	return 0;
}

bool
client_address_allowed(const struct client *c, const struct sockaddr *address)
{
	const struct record *r = (const struct record *)c;
	struct in6_addr a;

	if (c->addresses_count == 0)
		return true;
	if (address->sa_family == AF_INET)
		map_v4(((const struct sockaddr_in *)(const void *)address)->sin_addr, &a);
	else if (address->sa_family == AF_INET6)
		a = ((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
	else
		return false;
	for (size_t i = 0; i < c->addresses_count; i++)
		if (in_network(&r->networks[i], &a))
			return true;
	return false;
}

/* ---- records ---- */

static bool
is_printable(const char *text, unsigned char from)
{
	for (; *text; text++)
		if ((unsigned char)*text < from || *text == 0x7f)
			return false;
	return true;
}

static bool
has_upper(const char *text)
{
	for (; *text; text++)
		if (*text >= 'A' && *text <= 'Z')
			return true;
	return false;
}

static const char *
check_uri(const char *value)
{
	return is_printable(value, 0x21) ? NULL : "has a space or a control character";
}

static const char *
check_dns(const char *value)
{
	return has_upper(value) ? "has an upper-case letter: write it in lower case"
				: check_uri(value);
}

static const char *
check_spki(const char *value)
{
	uint8_t digest[32];

	return str_unhex(value, digest, sizeof(digest)) == 0
		       ? NULL
		       : "must be the SHA-256 of the public key in 64 lower-case hex digits";
}

static const char *
check_cn(const char *value)
{
	return is_printable(value, 0x20) ? NULL : "has a control character";
}

static const struct {
	const char *prefix;
	const char *(*check)(const char *value);
} identity_kinds[] = {
	{ "uri:", check_uri },
	{ "dns:", check_dns },
	{ "spki:", check_spki },
	{ "cn:", check_cn },
};

/* NULL, or what is wrong with it. */
static const char *
check_identity(const char *text)
{
	if (strlen(text) >= IDENTITY_SIZE)
		return "has more than 511 bytes";
	for (size_t i = 0; i < STR_COUNT(identity_kinds); i++) {
		size_t len = strlen(identity_kinds[i].prefix);
		if (strncmp(text, identity_kinds[i].prefix, len) == 0)
			return text[len] ? identity_kinds[i].check(text + len)
					 : "has nothing after its prefix";
	}
	return "must start with uri:, dns:, spki: or cn:";
}

/* An array of strings, each given once; in *list, which the caller frees whatever happens. */
static int
take_strings(const char *member, const json_t *array, size_t max, char ***list, size_t *count,
	char ret_error[JSON_ERROR_SIZE])
{
	size_t n = json_array_size(array);

	if (n > max)
		return json_refuse(
			ret_error, "member \"%s\" has more than %zu entries", member, max);
	*list = calloc(n + 1, sizeof(**list));
	if (!*list)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		const char *text = json_string_value(json_array_get(array, i));
		if (!text)
			return json_refuse(
				ret_error, "member \"%s\"[%zu] must be a string", member, i);
		for (size_t j = 0; j < i; j++)
			if (strcmp((*list)[j], text) == 0)
				return json_refuse(
					ret_error, "member \"%s\"[%zu] is given twice", member, i);
		(*list)[i] = strdup(text);
		if (!(*list)[i])
			return -ENOMEM;
		*count = i + 1;
	}
	return 0;
}

static int
take_identities(struct record *r, const json_t *array, char ret_error[JSON_ERROR_SIZE])
{
	int err = take_strings("identities", array, IDENTITIES_MAX, &r->c.identities,
		&r->c.identities_count, ret_error);

	if (err)
		return err;
	if (r->c.identities_count == 0)
		return json_refuse(ret_error, "member \"identities\" must have at least one entry");
	for (size_t i = 0; i < r->c.identities_count; i++) {
		const char *wrong = check_identity(r->c.identities[i]);
		if (wrong)
			return json_refuse(ret_error, "member \"identities\"[%zu] %s", i, wrong);
	}
	return 0;
}

static int
take_addresses(struct record *r, const json_t *array, char ret_error[JSON_ERROR_SIZE])
{
	int err = take_strings("addresses", array, ADDRESSES_MAX, &r->c.addresses,
		&r->c.addresses_count, ret_error);

	for (size_t i = 0; !err && i < r->c.addresses_count; i++)
		if (parse_network(r->c.addresses[i], &r->networks[i]) < 0)
			return json_refuse(ret_error,
				"member \"addresses\"[%zu] must be an IP address, or a network "
				"such as 10.0.0.0/8 with no bit set behind its prefix",
				i);
	return err;
}

static bool
is_key_glob(const char *text)
{
	size_t len = strlen(text);

	return len > 0 && len <= STR_NAME_MAX &&
	       strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789._-*?") == len;
}

static int
take_operations(
	size_t grant, const json_t *array, uint32_t *ret_bits, char ret_error[JSON_ERROR_SIZE])
{
	uint32_t bits = 0;
	json_t *value;
	size_t i;

	json_array_foreach(array, i, value) {
		const char *text = json_string_value(value);
		int op = text ? access_operation_find(text) : -ENOENT;
		if (op < 0)
			return json_refuse(ret_error,
				"member \"grants\"[%zu].\"operations\"[%zu] is not an operation",
				grant, i);
		if (bits & 1u << op)
			return json_refuse(ret_error,
				"member \"grants\"[%zu].\"operations\" has \"%s\" twice", grant,
				text);
		bits |= 1u << op;
	}
	if (!bits)
		return json_refuse(ret_error,
			"member \"grants\"[%zu].\"operations\" must have at least one entry",
			grant);
	*ret_bits = bits;
	return 0;
}

static int
take_grant(size_t i, const json_t *body, struct access_grant *ret_grant,
	char ret_error[JSON_ERROR_SIZE])
{
	const char *keys = NULL;
	json_t *operations = NULL;
	const struct json_member members[] = {
		{ "keys", JSON_KIND_STRING, true, &keys },
		{ "operations", JSON_KIND_ARRAY, true, &operations },
	};
	char text[JSON_ERROR_SIZE];
	int err = json_take(body, members, STR_COUNT(members), text);

	if (err) {
		snprintf(ret_error, JSON_ERROR_SIZE, "member \"grants\"[%zu]: %.150s", i, text);
		return err;
	}
	if (!is_key_glob(keys))
		return json_refuse(ret_error,
			"member \"grants\"[%zu].\"keys\" must be 1 to 64 characters of a key's "
			"name, * and ?",
			i);
	err = take_operations(i, operations, &ret_grant->operations, ret_error);
	if (err)
		return err;
	ret_grant->keys = strdup(keys);
	return ret_grant->keys ? 0 : -ENOMEM;
}

static int
take_grants(struct client *c, const json_t *array, char ret_error[JSON_ERROR_SIZE])
{
	size_t n = json_array_size(array);
	int err = 0;

	if (n > GRANTS_MAX)
		return json_refuse(
			ret_error, "member \"grants\" has more than %d entries", GRANTS_MAX);
	c->grants = calloc(n + 1, sizeof(*c->grants));
	if (!c->grants)
		return -ENOMEM;
	for (size_t i = 0; !err && i < n; i++) {
		err = take_grant(i, json_array_get(array, i), &c->grants[i], ret_error);
		c->grants_count = err ? i : i + 1;
	}
	return err;
}

static int
take_limits(struct client *c, const json_t *body, char ret_error[JSON_ERROR_SIZE])
{
	const struct json_member members[] = {
		{ "requests_per_s", JSON_KIND_INTEGER, false, &c->requests_per_s },
		{ "in_flight", JSON_KIND_INTEGER, false, &c->in_flight },
	};
	char text[JSON_ERROR_SIZE];
	int err = body ? json_take(body, members, STR_COUNT(members), text) : 0;

	if (err)
		snprintf(ret_error, JSON_ERROR_SIZE, "member \"limits\": %.150s", text);
	else if (c->requests_per_s > LIMIT_MAX || c->in_flight > LIMIT_MAX)
		return json_refuse(ret_error, "member \"limits\" has a number above %d", LIMIT_MAX);
	return err;
}

static int
take_changed(struct client *c, const char *changed, const char *changed_by,
	char ret_error[JSON_ERROR_SIZE])
{
	if (changed && clock_parse(changed, &c->changed_us) < 0)
		return json_refuse(ret_error, "member \"changed\" is no time");
	if (*changed_by && !str_is_name(changed_by))
		return json_refuse(ret_error, "member \"changed_by\" is no name");
	snprintf(c->changed_by, sizeof(c->changed_by), "%s", changed_by);
	return 0;
}

static int
take_body(struct record *r, const char *name, const json_t *body, char ret_error[JSON_ERROR_SIZE])
{
	const char *own_name = name;
	const char *changed = NULL, *changed_by = "";
	json_t *identities = NULL, *addresses = NULL, *grants = NULL, *limits = NULL;
	const struct json_member members[] = {
		{ "name", JSON_KIND_STRING, false, &own_name },
		{ "identities", JSON_KIND_ARRAY, true, &identities },
		{ "addresses", JSON_KIND_ARRAY, false, &addresses },
		{ "grants", JSON_KIND_ARRAY, false, &grants },
		{ "limits", JSON_KIND_OBJECT, false, &limits },
		{ "changed", JSON_KIND_STRING, false, &changed },
		{ "changed_by", JSON_KIND_STRING, false, &changed_by },
	};
	int err = json_take(body, members, STR_COUNT(members), ret_error);

	if (err)
		return err;
	if (strcmp(own_name, name) != 0)
		return json_refuse(ret_error, "member \"name\" differs from the client's name");
	err = take_changed(&r->c, changed, changed_by, ret_error);
	if (err)
		return err;
	err = take_identities(r, identities, ret_error);
	if (!err)
		err = take_addresses(r, addresses, ret_error);
	if (!err)
		err = take_grants(&r->c, grants, ret_error);
	return err ? err : take_limits(&r->c, limits, ret_error);
}

int
client_from_json(const char *name, const json_t *body, uint64_t commit, struct client **ret_client,
	char ret_error[JSON_ERROR_SIZE])
{
	struct record *r;
	struct client *c;
	int err;

	if (!str_is_name(name)) {
		json_refuse(ret_error,
			"the client's name must be 1 to 64 of a-z, 0-9, \".\", \"_\" and "
			"\"-\", and start and end with a letter or digit");
		return KEKD_ENAME;
	}
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	c = &r->c;
	atomic_init(&r->references, 1);
	snprintf(c->name, sizeof(c->name), "%s", name);
	c->commit = commit;
	c->limit = limit_new();
	err = c->limit ? take_body(r, name, body, ret_error) : -ENOMEM;
	if (err) {
		client_unrefp(&c);
		return err;
	}
	*ret_client = c;
	return 0;
}

static json_t *
strings_to_json(char *const *list, size_t count)
{
	json_t *array = json_array();

	for (size_t i = 0; i < count; i++)
		json_array_append_new(array, json_string(list[i]));
	return array;
}

static json_t *
operations_to_json(uint32_t bits)
{
	json_t *array = json_array();

	for (int op = 0; op < ACCESS_OPERATIONS_COUNT; op++)
		if (bits & 1u << op)
			json_array_append_new(array, json_string(access_operation_name(op)));
	return array;
}

static json_t *
grant_to_json(const struct access_grant *g)
{
	return json_pack(
		"{s:s, s:o}", "keys", g->keys, "operations", operations_to_json(g->operations));
}

/* What a record made by an earlier release, or by kekd init, does not have. */
static int
add_changed(json_t *o, const struct client *c)
{
	char text[CLOCK_TEXT_SIZE];
	int err = 0;

	clock_format(c->changed_us, text);
	if (c->changed_us)
		err |= json_object_set_new(o, "changed", json_string(text));
	if (*c->changed_by)
		err |= json_object_set_new(o, "changed_by", json_string(c->changed_by));
	return err;
}

json_t *
client_to_json(const struct client *c)
{
	json_t *grants = json_array(), *o;

	for (size_t i = 0; i < c->grants_count; i++)
		json_array_append_new(grants, grant_to_json(&c->grants[i]));
	o = json_pack("{s:s, s:o, s:o, s:o, s:{s:I, s:I}}", "name", c->name, "identities",
		strings_to_json(c->identities, c->identities_count), "addresses",
		strings_to_json(c->addresses, c->addresses_count), "grants", grants, "limits",
		"requests_per_s", (json_int_t)c->requests_per_s, "in_flight",
		(json_int_t)c->in_flight);
	if (o && add_changed(o, c)) {
		json_decref(o);
		return NULL;
	}
	return o;
}

json_t *
client_admin_body(const char *name, json_t *identities)
{
	const uint32_t data = 1u << ACCESS_WRAP | 1u << ACCESS_UNWRAP | 1u << ACCESS_GENERATE |
			      1u << ACCESS_REWRAP;
	const struct access_grant all = { (char[]){ "*" },
		((1u << ACCESS_OPERATIONS_COUNT) - 1) & ~data };

	return json_pack("{s:s, s:O, s:[o]}", "name", name, "identities", identities, "grants",
		grant_to_json(&all));
}

/* ---- decisions ---- */

bool
client_has(const struct client *c, enum access_operation op)
{
	for (size_t i = 0; op < ACCESS_OPERATIONS_COUNT && i < c->grants_count; i++)
		if (c->grants[i].operations & 1u << op)
			return true;
	return false;
}

bool
client_is_privileged(const struct client *c)
{
	return client_has(c, ACCESS_APPROVE) || client_has(c, ACCESS_CLIENT_WRITE);
}

static bool
covers(const struct access_grant *g, const char *key)
{
	return key ? str_glob(g->keys, key) : strcmp(g->keys, "*") == 0;
}

int
client_authorise(const struct client *c, enum access_operation op, const char *key)
{
	if (op == ACCESS_NONE)
		return 0;
	for (size_t i = 0; op < ACCESS_OPERATIONS_COUNT && i < c->grants_count; i++)
		if (c->grants[i].operations & 1u << op && covers(&c->grants[i], key))
			return 0;
	return KEKD_EFORBIDDEN;
}

/* ---- the table: two sorted arrays, one by name and one by identity ---- */

struct by_identity {
	const char *identity; /* the client's */
	struct client *client;
};

struct clients {
	pthread_rwlock_t lock;
	struct client **names; /* owns a reference each */
	size_t names_count, names_cap;
	struct by_identity *identities;
	size_t identities_count, identities_cap;
};

int
clients_open(struct clients **ret_clients)
{
	struct clients *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	pthread_rwlock_init(&c->lock, NULL);
	*ret_clients = c;
	return 0;
}

void
clients_freep(struct clients **clients)
{
	struct clients *c = *clients;

	if (!c)
		return;
	for (size_t i = 0; i < c->names_count; i++)
		client_unrefp(&c->names[i]);
	free(c->names);
	free(c->identities);
	pthread_rwlock_destroy(&c->lock);
	free(c);
	*clients = NULL;
}

/* The first place whose name is not below `name`. */
static size_t
place_name(const struct clients *c, const char *name)
{
	size_t low = 0, high = c->names_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (strcmp(c->names[middle]->name, name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static size_t
place_identity(const struct clients *c, const char *identity)
{
	size_t low = 0, high = c->identities_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (strcmp(c->identities[middle].identity, identity) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct client *
at_name(const struct clients *c, const char *name)
{
	size_t i = place_name(c, name);

	return i < c->names_count && strcmp(c->names[i]->name, name) == 0 ? c->names[i] : NULL;
}

static struct client *
at_identity(const struct clients *c, const char *identity)
{
	size_t i = place_identity(c, identity);

	return *identity && i < c->identities_count &&
			       strcmp(c->identities[i].identity, identity) == 0
		       ? c->identities[i].client
		       : NULL;
}

struct client *
clients_find(struct clients *c, const char *name)
{
	struct client *found;

	pthread_rwlock_rdlock(&c->lock);
	found = at_name(c, name);
	if (found)
		client_ref(found);
	pthread_rwlock_unlock(&c->lock);
	return found;
}

struct client *
clients_find_identity(struct clients *c, const struct identity *id)
{
	struct client *found;

	pthread_rwlock_rdlock(&c->lock);
	found = at_identity(c, id->name);
	if (!found)
		found = at_identity(c, id->spki);
	if (found)
		client_ref(found);
	pthread_rwlock_unlock(&c->lock);
	return found;
}

static struct client *
conflict(const struct clients *c, const struct client *candidate)
{
	for (size_t i = 0; i < candidate->identities_count; i++) {
		struct client *other = at_identity(c, candidate->identities[i]);
		if (other && strcmp(other->name, candidate->name) != 0)
			return other;
	}
	return NULL;
}

struct client *
clients_find_conflict(struct clients *c, const struct client *candidate)
{
	struct client *found;

	pthread_rwlock_rdlock(&c->lock);
	found = conflict(c, candidate);
	if (found)
		client_ref(found);
	pthread_rwlock_unlock(&c->lock);
	return found;
}

static int
reserve(void **array, size_t *cap, size_t need, size_t size)
{
	size_t larger = *cap ? *cap : 16;
	void *p;

	while (larger < need)
		larger *= 2;
	if (larger == *cap)
		return 0;
	p = reallocarray(*array, larger, size);
	if (!p)
		return -ENOMEM;
	*array = p;
	*cap = larger;
	return 0;
}

static void
remove_identities(struct clients *c, const struct client *client)
{
	for (size_t i = 0; i < client->identities_count; i++) {
		size_t at = place_identity(c, client->identities[i]);
		memmove(&c->identities[at], &c->identities[at + 1],
			(--c->identities_count - at) * sizeof(*c->identities));
	}
}

static void
insert_identities(struct clients *c, struct client *client)
{
	for (size_t i = 0; i < client->identities_count; i++) {
		size_t at = place_identity(c, client->identities[i]);
		memmove(&c->identities[at + 1], &c->identities[at],
			(c->identities_count++ - at) * sizeof(*c->identities));
		c->identities[at] = (struct by_identity){ client->identities[i], client };
	}
}

static void
replace(struct clients *c, struct client *client)
{
	size_t at = place_name(c, client->name);

	if (at < c->names_count && strcmp(c->names[at]->name, client->name) == 0) {
		limit_take_over(client, c->names[at], clock_boot_ns());
		remove_identities(c, c->names[at]);
		client_unrefp(&c->names[at]);
	} else {
		memmove(&c->names[at + 1], &c->names[at],
			(c->names_count++ - at) * sizeof(struct client *));
	}
	c->names[at] = client;
	insert_identities(c, client);
}

int
clients_publish(struct clients *c, struct client *client)
{
	int err;

	pthread_rwlock_wrlock(&c->lock);
	err = conflict(c, client) ? KEKD_ETAKEN : 0;
	if (!err)
		err = reserve((void **)&c->names, &c->names_cap, c->names_count + 1,
			sizeof(struct client *));
	if (!err)
		err = reserve((void **)&c->identities, &c->identities_cap,
			c->identities_count + client->identities_count, sizeof(*c->identities));
	if (!err)
		replace(c, client);
	pthread_rwlock_unlock(&c->lock);
	if (err)
		client_unrefp(&client);
	return err;
}

void
clients_remove(struct clients *c, const char *name)
{
	size_t at;

	pthread_rwlock_wrlock(&c->lock);
	at = place_name(c, name);
	if (at < c->names_count && strcmp(c->names[at]->name, name) == 0) {
		remove_identities(c, c->names[at]);
		client_unrefp(&c->names[at]);
		memmove(&c->names[at], &c->names[at + 1],
			(--c->names_count - at) * sizeof(struct client *));
	}
	pthread_rwlock_unlock(&c->lock);
}

/* Readers hold references to the record as it is: a changed one takes its place. */
static struct client *
copy_marked(const struct client *old, bool refused)
{
	_cleanup_(json_freep) json_t *body = client_to_json(old);
	char error[JSON_ERROR_SIZE];
	struct client *copy = NULL;

	if (client_from_json(old->name, body, old->commit, &copy, error) == 0)
		copy->refused = refused;
	return copy;
}

void
clients_mark_refused(struct clients *c, const char *name, bool refused)
{
	struct client *old, *copy;

	pthread_rwlock_wrlock(&c->lock);
	old = at_name(c, name);
	copy = old && old->refused != refused ? copy_marked(old, refused) : NULL;
	if (copy)
		replace(c, copy);
	pthread_rwlock_unlock(&c->lock);
}

size_t
clients_list(struct clients *c, const char *after, size_t limit, struct client **ret_clients)
{
	size_t at, n;

	pthread_rwlock_rdlock(&c->lock);
	at = after ? place_name(c, after) : 0;
	if (after && at < c->names_count && strcmp(c->names[at]->name, after) == 0)
		at++;
	for (n = 0; n < limit && at + n < c->names_count; n++)
		ret_clients[n] = client_ref(c->names[at + n]);
	pthread_rwlock_unlock(&c->lock);
	return n;
}

size_t
clients_count(struct clients *c)
{
	size_t n;

	pthread_rwlock_rdlock(&c->lock);
	n = c->names_count;
	pthread_rwlock_unlock(&c->lock);
	return n;
}
