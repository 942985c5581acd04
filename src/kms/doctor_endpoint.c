/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The doctor at each endpoint: name, connection, clock, identity, node, key, and both directions
 * with 32 random bytes that are thrown away. One that fails ends the checks that stand on it.
 */
#include "ask.h"
#include "doctor.h"

#include "kekd/clock.h"
#include "kekd/random.h"
#include "kekd/secret.h"
#include "kekd/str.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define SKEW_MAX_S 5
#define SLOW_MS 100.0 /* of an Encrypt */

struct visit {
	struct doctor *d;
	struct kekd_client *client;
	size_t index;
	double ms; /* what the last request took */
};

static double
since_ms(uint64_t began_ns)
{
	return (double)(clock_boot_ns() - began_ns) / (double)CLOCK_MS;
}

static struct kekd_ask
ask_here(const struct visit *v)
{
	return (struct kekd_ask){ .deadline_ns = clock_boot_ns() + v->d->config->timeout_ns,
		.chosen = true,
		.alone = true,
		.first = v->index };
}

static const char *
string_of(const json_t *object, const char *member)
{
	const char *s = json_string_value(json_object_get(object, member));

	return s ? s : "";
}

/* ---- what to do about an answer ---- */

/* KEY in a text becomes the configured one's name. */
static const char *
fill(const struct visit *v, const char *text, char ret_text[256])
{
	static const char word[] = "KEY";
	const char *at;
	size_t len = 0;

	while (len < 256 && (at = strstr(text, word))) {
		len += (size_t)snprintf(ret_text + len, 256 - len, "%.*s%s", (int)(at - text), text,
			v->d->config->key);
		text = at + strlen(word);
	}
	if (len < 256)
		snprintf(ret_text + len, 256 - len, "%s", text);
	return ret_text;
}

static const struct {
	const char *code, *remedy;
} remedies[] = {
	{ "certificate_required", "Is the certificate in the configuration the plugin's own?" },
	{ "certificate_untrusted", "Have it issued by a CA of kekd's tls.client_ca." },
	{ "certificate_expired", "Put a new certificate and its key in their place." },
	{ "certificate_not_yet_valid", "Compare the clocks of this host and of kekd's." },
	{ "certificate_purpose", "Have it issued with extendedKeyUsage clientAuth." },
	{ "certificate_identity", "Have it issued with one URI or DNS name." },
	{ "certificate_revoked", "Have another one issued." },
	{ "certificate_crl_missing", "Give kekd the CRL of that CA (crl.file)." },
	{ "certificate_crl_expired", "Give kekd a current CRL (crl.file)." },
	{ "identity_denied", "Take it from deny in kekd.yaml, or have another one issued." },
	{ "unknown_client", "kekctl client add NAME --identity IDENTITY --grant "
			    "KEY:wrap,unwrap,key.read." },
	{ "address_not_allowed", "kekctl client set NAME --address ADDRESS, once for each host "
				 "that it is on, lets it in from here." },
	{ "forbidden", "See the line about grants." },
	{ "key_not_found", "kekctl key create KEY, or correct key in kekd-kms.yaml." },
	{ "frozen", "kekctl key unfreeze KEY, when the reason is gone." },
	{ "rate_limited", "Raise the client's limits: kekctl client show NAME has them." },
	{ "version_unproven", "kekctl hsm status tells about this node's token." },
	{ "key_object_missing", "Is it the right token, and is it whole? kekctl hsm status; as "
				"long as it is missing, kekctl key rotate KEY lets new seeds be "
				"wrapped." },
	{ "unwrap_failed",
		"If a new try fails as well, this node's key KEY is another one than the "
		"other endpoint's: name the nodes of one cluster in endpoints." },
};

static const char *
remedy_for(const char *code, const char *otherwise)
{
	for (size_t i = 0; i < STR_COUNT(remedies); i++)
		if (strcmp(remedies[i].code, code) == 0)
			return remedies[i].remedy;
	return otherwise;
}

static void
say_problem(struct visit *v, const char *check, const struct kekd_reply *r)
{
	const char *remedy = remedy_for(
		r->code, "kekctl status at this endpoint, and kekd's log, tell more.");
	char filled[256];

	doctor_say(v->d, DOCTOR_FAULT, check, fill(v, remedy, filled), "%s (%s)",
		*r->detail ? r->detail : "the answer is none of kekd's",
		*r->code ? r->code : "no code");
}

/* True: an answer came; else it has been said. */
static bool
get(struct visit *v, const char *check, const char *path, struct kekd_reply *ret_reply)
{
	struct kekd_ask ask = ask_here(v);
	uint64_t began_ns = clock_boot_ns();
	char error[512] = "";
	int err = kekd_client_ask(v->client, "GET", path, NULL, &ask, ret_reply, error);

	v->ms = since_ms(began_ns);
	if (err < 0)
		doctor_say(v->d, DOCTOR_FAULT, check,
			v->d->config->endpoints_count > 1
				? "Until then the plugin stands on the other endpoints alone."
				: "Until then no seed is wrapped or unwrapped: one endpoint is "
				  "few.",
			"%s", error);
	return err == 0;
}

/* ---- the name ---- */

static bool
split_url(const char *url, char host[256])
{
	CURLU *u = curl_url();
	char *part = NULL;
	bool good = u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
		    curl_url_get(u, CURLUPART_HOST, &part, 0) == CURLUE_OK;

	if (good)
		snprintf(host, 256, "%s", part);
	curl_free(part);
	curl_url_cleanup(u);
	return good;
}

static void
format_addresses(const struct addrinfo *list, char *ret_text, size_t size)
{
	size_t len = 0;

	ret_text[0] = '\0';
	for (const struct addrinfo *a = list; a && len < size; a = a->ai_next) {
		char text[INET6_ADDRSTRLEN];
		if (getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof(text), NULL, 0,
			    NI_NUMERICHOST) == 0)
			len += (size_t)snprintf(
				ret_text + len, size - len, "%s%s", len ? ", " : "", text);
	}
}

static bool
check_name(struct visit *v)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	struct addrinfo *list = NULL;
	struct in6_addr literal;
	char host[256], addresses[512];
	int error;

	if (!split_url(v->d->endpoint, host) || host[0] == '[' ||
		inet_pton(AF_INET, host, &literal) == 1)
		return true; /* by number */
	error = getaddrinfo(host, NULL, &hints, &list);
	if (error) {
		doctor_say(v->d, DOCTOR_FAULT, "name",
			"Put it into DNS or /etc/hosts, or correct endpoints.", "%s: %s", host,
			gai_strerror(error));
		return false;
	}
	format_addresses(list, addresses, sizeof(addresses));
	freeaddrinfo(list);
	doctor_say(v->d, DOCTOR_OK, "name", "", "%s is %s", host, addresses);
	return true;
}

/* ---- who we are there, and what time it is ---- */

static void
check_clock(struct visit *v, const struct kekd_reply *r)
{
	time_t there = curl_getdate(r->date, NULL), now = time(NULL);
	long long skew = (long long)(there - now);

	if (!*r->date || there < 0)
		return;
	if (skew > SKEW_MAX_S || skew < -SKEW_MAX_S)
		doctor_say(v->d, DOCTOR_WARNING, "clock",
			"Let NTP set the clocks of both: certificates depend on them.",
			"its clock is %lld s %s this host's", skew < 0 ? -skew : skew,
			skew < 0 ? "behind" : "ahead of");
	else
		doctor_say(v->d, DOCTOR_OK, "clock", "", "within %d s of this host's", SKEW_MAX_S);
}

static void
take_whoami(struct visit *v, const struct kekd_reply *r)
{
	const char *client = string_of(r->json, "client");

	doctor_say(v->d, DOCTOR_OK, "identity", "", "client %s, by %s, from %s", client,
		string_of(r->json, "identity"), string_of(r->json, "address"));
	if (!v->d->grants_seen)
		doctor_grants(v->d, client, json_object_get(r->json, "grants"));
	v->d->grants_seen = true;
}

static bool
check_identity(struct visit *v)
{
	_cleanup_(kekd_reply_free) struct kekd_reply r = { 0 };

	if (!get(v, "connection", "/v1/whoami", &r))
		return false;
	doctor_say(v->d, DOCTOR_OK, "connection", "",
		"TLS 1.3, its certificate verifies; connecting and an answer took %.1f ms", v->ms);
	check_clock(v, &r);
	if (r.status != 200 || !r.json) {
		say_problem(v, "identity", &r);
		return false;
	}
	take_whoami(v, &r);
	return true;
}

/* ---- the node ---- */

static void
join_reasons(const json_t *list, char *ret_text, size_t size)
{
	size_t len = 0, i;
	const json_t *reason;

	snprintf(ret_text, size, "it gives no reason");
	json_array_foreach(list, i, reason)
		if (len < size)
			len += (size_t)snprintf(ret_text + len, size - len, "%s%s",
				i > 0 ? "; " : "", json_string_value(reason) ?: "?");
}

static void
check_node(struct visit *v)
{
	_cleanup_(kekd_reply_free) struct kekd_reply ready = { 0 }, active = { 0 };
	char reasons[400];

	if (!get(v, "node", "/health/ready", &ready) || !get(v, "node", "/health/active", &active))
		return;
	join_reasons(json_object_get(ready.json, "reasons"), reasons, sizeof(reasons));
	if (ready.status != 200) {
		doctor_say(v->d, DOCTOR_WARNING, "node", "kekctl status at this endpoint has more.",
			"not ready: %s", reasons);
		return;
	}
	join_reasons(json_object_get(ready.json, "warnings"), reasons, sizeof(reasons));
	if (json_array_size(json_object_get(ready.json, "warnings")) > 0)
		doctor_say(v->d, DOCTOR_WARNING, "node", "kekctl status at this endpoint has more.",
			"ready, but: %s", reasons);
	else
		doctor_say(v->d, DOCTOR_OK, "node", "", "ready, and %s",
			active.status == 200 ? "active" : "a standby, which serves as well");
}

/* ---- the key ---- */

static const json_t *
primary_of(const json_t *key)
{
	const json_t *primary = json_object_get(key, "primary"), *v;
	size_t i;

	json_array_foreach(json_object_get(key, "versions"), i, v)
		if (json_is_integer(primary) && json_equal(json_object_get(v, "version"), primary))
			return v;
	return NULL;
}

static bool
is_usable(const json_t *version)
{
	return version && strcmp(string_of(version, "state"), "enabled") == 0 &&
	       json_is_true(json_object_get(version, "proven"));
}

/* What keeps it from wrapping, with the remedy; NULL: nothing. */
static const char *
fault_of(const json_t *key, const char **ret_remedy)
{
	*ret_remedy = "kekctl key rotate KEY makes one; kekctl key show KEY has their states.";
	if (!is_usable(primary_of(key)))
		return "it has no primary version that is enabled and proven";
	*ret_remedy = "Name another key in kekd-kms.yaml: kekctl key create makes one.";
	if (strcmp(string_of(key, "algorithm"), "aes256-gcm") != 0)
		return "its algorithm is not aes256-gcm";
	*ret_remedy = "kekctl key unfreeze KEY lets it wrap again; until then new seeds are "
		      "refused.";
	return json_is_true(json_object_get(key, "frozen")) ? "it is frozen: it only unwraps"
							    : NULL;
}

static void
compare_key_id(struct visit *v, const struct kms_key_id *id)
{
	const struct kms_key_id *kept = &v->d->announced;

	if (v->d->key_id.activation && strcmp(v->d->key_id.text, id->text) != 0)
		doctor_say(v->d, DOCTOR_WARNING, "key-id",
			"After a rotation this passes in a moment; else the nodes are of two "
			"clusters.",
			"it has %s, and another endpoint %s", id->text, v->d->key_id.text);
	if (kept->activation > id->activation ||
		(kept->activation == id->activation && strcmp(kept->text, id->text) != 0))
		doctor_say(v->d, DOCTOR_WARNING, "key-id",
			"The plugin asks this node last until it catches up; a restored kekd, or a "
			"key that was made anew, needs a rotation: kekctl key rotate.",
			"it has %s, and %s was announced", id->text, kept->text);
	if (id->activation > v->d->key_id.activation)
		v->d->key_id = *id;
}

static bool
take_key(struct visit *v, const json_t *key, struct kms_key_id *ret_id)
{
	const char *remedy, *fault = fault_of(key, &remedy), *id = string_of(key, "kms_key_id");
	char filled[256];

	if (kms_key_id_parse(id, strlen(id), ret_id) < 0)
		*ret_id = (struct kms_key_id){ .activation = 0 };
	if (fault)
		doctor_say(v->d, DOCTOR_FAULT, "key", fill(v, remedy, filled), "%s: %s",
			v->d->config->key, fault);
	else if (json_is_true(json_object_get(key, "refused")))
		doctor_say(v->d, DOCTOR_WARNING, "key",
			"kekctl status tells what happened to kekd's store.",
			"%s: the stored record's seal does not verify", v->d->config->key);
	else
		doctor_say(v->d, DOCTOR_OK, "key", "", "%s: version %lld is enabled and proven, %s",
			v->d->config->key,
			(long long)json_integer_value(json_object_get(key, "primary")), id);
	if (ret_id->activation)
		compare_key_id(v, ret_id);
	return ret_id->activation > 0;
}

static bool
check_key(struct visit *v, struct kms_key_id *ret_id)
{
	_cleanup_(kekd_reply_free) struct kekd_reply r = { 0 };
	char path[128];

	snprintf(path, sizeof(path), "/v1/keys/%.64s", v->d->config->key);
	if (!get(v, "key", path, &r))
		return false;
	if (r.status == 200 && r.json)
		return take_key(v, r.json, ret_id);
	say_problem(v, "key", &r);
	return false;
}

/* ---- both directions ---- */

static void
say_took(struct visit *v, const char *check, const char *what)
{
	if (v->ms > SLOW_MS)
		doctor_say(v->d, DOCTOR_WARNING, check,
			"An API server expects an Encrypt within 100 ms: is the node, its token or "
			"the network overloaded?",
			"%s in %.1f ms", what, v->ms);
	else
		doctor_say(v->d, DOCTOR_OK, check, "", "%s in %.1f ms", what, v->ms);
}

static void
say_refused(struct visit *v, const char *check, const struct ask_answer *a)
{
	const char *remedy = remedy_for(a->code,
		"The lines about grants, key and node tell why; kekctl audit query has the "
		"refusal.");
	char filled[256];

	doctor_say(v->d, DOCTOR_FAULT, check, fill(v, remedy, filled), "%s", a->text);
}

static bool
try_wrap(
	struct visit *v, const struct kms_key_id *id, struct kms_bytes sample, struct buf *ret_blob)
{
	struct kekd_ask ask = ask_here(v);
	struct ask_answer a = { 0 };
	uint64_t began_ns = clock_boot_ns();
	bool good;

	ask_wrap(v->client, v->d->config, id, sample, &ask, &a);
	v->ms = since_ms(began_ns);
	good = a.status == KMS_OK;
	if (good) {
		buf_put(ret_blob, a.bytes.data, a.bytes.len);
		say_took(v, "wrap", "32 random bytes wrapped");
	} else {
		say_refused(v, "wrap", &a);
	}
	ask_answer_free(&a);
	return good;
}

/* sample: what must come out; NULL: whatever another node wrapped. */
static void
try_unwrap(struct visit *v, const char *check, const struct buf *blob, const uint8_t *sample)
{
	struct kekd_ask ask = ask_here(v);
	struct ask_answer a = { 0 };
	uint64_t began_ns = clock_boot_ns();
	const char *what = sample ? "unwrapped again" : "unwraps what another endpoint wrapped";

	ask_unwrap(v->client, v->d->config, (struct kms_bytes){ blob->data, blob->len }, &ask, &a);
	v->ms = since_ms(began_ns);
	if (a.status != KMS_OK)
		say_refused(v, check, &a);
	else if (sample &&
		 (a.bytes.len != KMS_SEED_MIN || memcmp(a.bytes.data, sample, KMS_SEED_MIN) != 0))
		doctor_say(v->d, DOCTOR_FAULT, check,
			"Stop this node, and look at its token: kekctl hsm status.",
			"what was unwrapped is not what was wrapped");
	else
		say_took(v, check, what);
	ask_answer_free(&a);
}

static void
check_directions(struct visit *v, const struct kms_key_id *id)
{
	struct buf blob = BUF_INIT(KMS_CIPHERTEXT_MAX);
	uint8_t sample[KMS_SEED_MIN];

	if (random_piece(sample, sizeof(sample)) < 0)
		return;
	if (try_wrap(v, id, (struct kms_bytes){ sample, sizeof(sample) }, &blob))
		try_unwrap(v, "unwrap", &blob, sample);
	if (v->d->blob.len > 0)
		try_unwrap(v, "unwrap-other", &v->d->blob, NULL);
	else
		buf_put(&v->d->blob, blob.data, blob.len);
	buf_free(&blob);
	secret_wipe(sample, sizeof(sample));
}

/* ---- all of them ---- */

static void
visit(struct visit *v)
{
	struct kms_key_id id;

	if (!check_name(v) || !check_identity(v))
		return;
	check_node(v);
	if (check_key(v, &id))
		check_directions(v, &id);
}

void
doctor_endpoints(struct doctor *d)
{
	struct visit v = { .d = d };
	char error[256];

	if (ask_client_open(d->config, NULL, &v.client, error) < 0) {
		doctor_say(d, DOCTOR_FAULT, "connection", "See the lines about the certificate.",
			"%s", error);
		return;
	}
	for (v.index = 0; v.index < d->config->endpoints_count; v.index++) {
		d->endpoint = d->config->endpoints[v.index];
		visit(&v);
	}
	d->endpoint = NULL;
	kekd_client_freep(&v.client);
}
