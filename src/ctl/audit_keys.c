/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keys that nodes sign their audit logs with: shown, so that an auditor can pin them, and read
 * again from the auditor's files. Not here: what is verified with them (audit.c).
 */
#include "ctl.h"

#include "kekd/audit.h"
#include "kekd/client.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <string.h>

#define PINS_MAX 256

/* ---- shown ---- */

static void
show_pem(const char *base64)
{
	puts("-----BEGIN PUBLIC KEY-----");
	for (size_t len = strlen(base64), at = 0; at < len; at += 64)
		printf("%.64s\n", base64 + at);
	puts("-----END PUBLIC KEY-----");
}

static void
show_key(const json_t *status, const json_t *key, const char *since)
{
	printf("# kekd's audit log of node %s, cluster %s: the key %s %s, SHA-256\n# %s\n",
		show_text(status, "node"), show_text(status, "cluster"), since,
		show_time(key, "created"), show_text(key, "key"));
	show_pem(string_of(key, "public"));
}

static int
no_key(const json_t *signing)
{
	say_error("the node has no key for signatures yet: %s",
		*string_of(signing, "reason") ? string_of(signing, "reason") : "it is starting");
	say_hint("\"kekctl status\" and the node's log tell more");
	return CTL_FAILED;
}

int
audit_keys_run(struct ctl *ctl)
{
	_cleanup_(json_freep) json_t *status = NULL;
	const json_t *signing, *before;
	size_t i;
	int exit_status = ctl_get(ctl, "/v1/status", &status);

	if (exit_status != CTL_OK)
		return exit_status;
	signing = json_object_get(json_object_get(status, "audit"), "signing");
	if (!*string_of(signing, "public"))
		return no_key(signing);
	if (strcmp(string_of(signing, "state"), "ready") != 0)
		say_note("nothing is signed at present: %s", string_of(signing, "reason"));
	if (ctl->json) {
		_cleanup_(json_freep) json_t *value = json_copy((json_t *)signing);
		json_object_set(value, "node", json_object_get(status, "node"));
		json_object_set(value, "cluster", json_object_get(status, "cluster"));
		show_json(value);
		return CTL_OK;
	}
	if (ctl->quiet) {
		puts(string_of(signing, "key"));
		return CTL_OK;
	}
	json_array_foreach(json_object_get(signing, "before"), i, before)
		show_key(status, before, "of");
	show_key(status, signing, "since");
	return CTL_OK;
}

/* ---- read ---- */

static bool
take_pin(EVP_PKEY *key, struct audit_pin *ret_pin)
{
	unsigned char *p = ret_pin->public;

	/* On P-256 and with an uncompressed point, it has this length and no other. */
	if (EVP_PKEY_base_id(key) != EVP_PKEY_EC || i2d_PUBKEY(key, NULL) != AUDIT_PUBLIC_SIZE)
		return false;
	return i2d_PUBKEY(key, &p) == AUDIT_PUBLIC_SIZE;
}

static int
no_pin(const char *path, const char *what)
{
	say_error("%s: %s", path, what);
	say_hint("give a file that \"kekctl audit keys\" wrote");
	return CTL_USAGE;
}

/* All keys of a file. */
static int
read_pins(const char *path, struct audit_pin *pins, size_t *count)
{
	FILE *f = fopen(path, "re");
	size_t before = *count;
	EVP_PKEY *key;
	int status = CTL_OK;

	if (!f)
		return no_pin(path, strerror(errno));
	while (status == CTL_OK && (key = PEM_read_PUBKEY(f, NULL, NULL, NULL))) {
		if (*count == PINS_MAX)
			status = no_pin(path, "too many keys");
		else if (!take_pin(key, &pins[*count]))
			status = no_pin(path, "a key is none on the curve P-256");
		else
			++*count;
		EVP_PKEY_free(key);
	}
	ERR_clear_error();
	fclose(f);
	if (status == CTL_OK && *count == before)
		status = no_pin(path, "there is no public key in PEM in it");
	return status;
}

int
audit_pins_read(struct ctl *ctl, struct audit_pin **ret_pins, size_t *ret_count)
{
	size_t files = args_count(&ctl->args, "about-key"), count = 0;
	struct audit_pin *pins = files > 0 ? calloc(PINS_MAX, sizeof(*pins)) : NULL;
	int status = files > 0 && !pins ? CTL_FAILED : CTL_OK;

	for (size_t i = 0; status == CTL_OK && i < files; i++)
		status = read_pins(args_nth(&ctl->args, "about-key", i), pins, &count);
	if (status != CTL_OK) {
		free(pins);
		return status;
	}
	*ret_pins = pins;
	*ret_count = count;
	return CTL_OK;
}

/* ---- the live node ---- */

static void
aim_at(struct ctl *ctl, const char *url)
{
	struct ctl_args *a = &ctl->args;
	size_t left = 0;

	for (size_t i = 0; i < a->given_count; i++)
		if (strcmp(a->given[i].option->name, "endpoint") != 0)
			a->given[left++] = a->given[i];
	a->given_count = left;
	/* --against itself is among them: there is room. */
	for (size_t i = 0; i < left; i++)
		if (strcmp(a->given[i].option->name, "against") == 0)
			a->given[i].option = option_find("--endpoint", NULL);
	for (size_t i = 0; i < left; i++)
		if (strcmp(a->given[i].option->name, "endpoint") == 0)
			a->given[i].value = url;
}

int
audit_against(struct ctl *ctl, json_t **ret_status)
{
	const char *url = args_value(&ctl->args, "against");
	struct ctl node = *ctl;
	int status;

	if (!url)
		return CTL_OK;
	aim_at(&node, url);
	node.client = NULL;
	status = ctl_get(&node, "/v1/status", ret_status);
	kekd_client_freep(&node.client);
	if (status == CTL_OK && !json_is_object(json_object_get(*ret_status, "audit"))) {
		say_error("%s does not tell where its audit log ends: it is starting", url);
		status = CTL_UNAVAILABLE;
	}
	return status;
}
