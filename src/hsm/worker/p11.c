/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The module: loaded, its token found, and what each of its answers means for us. Not here: what is
 * done about it (session.c, ops.c).
 */
#include "worker.h"

#include "kekd/clock.h"
#include "kekd/control.h"
#include "kekd/err.h"
#include "kekd/log.h"
#include "kekd/str.h"

#include <string.h>
#include <time.h>

#define SLOTS_MAX 256
#define LOOKS 4
#define LOGGED_MAX 5 /* failures that are logged in a second */
#define LOOK_PAUSE_NS 100000000
#define ANY_RV (~(CK_RV)0)

/* --- Error classes. */

static const struct class_row {
	enum p11_function function; /* P11_ANY: all */
	CK_RV rv;
	unsigned quirk; /* 0, or the module has this flag */
	enum p11_class class;
} classes[] = {
	/* the first match counts */
	{ P11_Decrypt, CKR_GENERAL_ERROR, QUIRK_TAG_GENERAL_ERROR, P11_CALLER },
	{ P11_Decrypt, CKR_ENCRYPTED_DATA_INVALID, 0, P11_CALLER },
	{ P11_Decrypt, CKR_ENCRYPTED_DATA_LEN_RANGE, 0, P11_CALLER },
	{ P11_Decrypt, CKR_DATA_INVALID, 0, P11_CALLER },
	{ P11_Decrypt, CKR_DATA_LEN_RANGE, 0, P11_CALLER },
	{ P11_Decrypt, CKR_SIGNATURE_INVALID, 0, P11_CALLER },
	{ P11_DecryptInit, CKR_MECHANISM_PARAM_INVALID, 0, P11_CALLER },
	{ P11_DecryptInit, CKR_ARGUMENTS_BAD, 0, P11_CALLER },
	/* What it could tell, it told. */
	{ P11_GetAttributeValue, CKR_ATTRIBUTE_SENSITIVE, 0, P11_OK },
	{ P11_GetAttributeValue, CKR_ATTRIBUTE_TYPE_INVALID, 0, P11_OK },
	{ P11_GetAttributeValue, CKR_BUFFER_TOO_SMALL, 0, P11_OK },
	/* A template that the token does not take. */
	{ P11_GenerateKey, CKR_ATTRIBUTE_READ_ONLY, 0, P11_CALLER },
	{ P11_GenerateKey, CKR_ATTRIBUTE_TYPE_INVALID, 0, P11_CALLER },
	{ P11_GenerateKey, CKR_ATTRIBUTE_VALUE_INVALID, 0, P11_CALLER },
	{ P11_GenerateKey, CKR_TEMPLATE_INCONSISTENT, 0, P11_CALLER },
	{ P11_GenerateKeyPair, CKR_ATTRIBUTE_READ_ONLY, 0, P11_CALLER },
	{ P11_GenerateKeyPair, CKR_ATTRIBUTE_TYPE_INVALID, 0, P11_CALLER },
	{ P11_GenerateKeyPair, CKR_ATTRIBUTE_VALUE_INVALID, 0, P11_CALLER },
	{ P11_GenerateKeyPair, CKR_TEMPLATE_INCONSISTENT, 0, P11_CALLER },
	{ P11_Login, CKR_USER_ALREADY_LOGGED_IN, 0, P11_OK },
	{ P11_Login, CKR_PIN_INCORRECT, 0, P11_PIN }, { P11_Login, CKR_PIN_INVALID, 0, P11_PIN },
	{ P11_Login, CKR_PIN_LEN_RANGE, 0, P11_PIN },
	{ P11_Login, CKR_PIN_LOCKED, 0, P11_PIN_LOCKED },
	{ P11_Login, CKR_PIN_EXPIRED, 0, P11_PIN_EXPIRED },
	{ P11_Login, CKR_USER_PIN_NOT_INITIALIZED, 0, P11_OPERATOR },
	/* Surely not about the PIN. */
	{ P11_Login, CKR_CRYPTOKI_NOT_INITIALIZED, 0, P11_GONE },
	{ P11_Login, CKR_DEVICE_ERROR, 0, P11_RESTART },
	{ P11_Login, CKR_DEVICE_MEMORY, 0, P11_RESTART },
	{ P11_Login, CKR_DEVICE_REMOVED, 0, P11_GONE },
	{ P11_Login, CKR_HOST_MEMORY, 0, P11_RESTART },
	{ P11_Login, CKR_OPERATION_ACTIVE, 0, P11_RESTART },
	{ P11_Login, CKR_SESSION_CLOSED, 0, P11_RESTART },
	{ P11_Login, CKR_SESSION_HANDLE_INVALID, 0, P11_RESTART },
	{ P11_Login, CKR_SESSION_READ_ONLY_EXISTS, 0, P11_RESTART },
	{ P11_Login, CKR_TOKEN_NOT_PRESENT, 0, P11_GONE },
	{ P11_Login, CKR_USER_ANOTHER_ALREADY_LOGGED_IN, 0, P11_RESTART },
	{ P11_Login, CKR_USER_TOO_MANY_TYPES, 0, P11_RESTART },
	/* Everything else may be a vendor's word for a wrong PIN. */
	{ P11_Login, ANY_RV, 0, P11_PIN_DOUBT }, { P11_ANY, CKR_OK, 0, P11_OK },
	{ P11_ANY, CKR_SESSION_HANDLE_INVALID, 0, P11_SESSION },
	{ P11_ANY, CKR_SESSION_CLOSED, 0, P11_SESSION },
	{ P11_ANY, CKR_OPERATION_ACTIVE, 0, P11_SESSION },
	{ P11_ANY, CKR_OPERATION_NOT_INITIALIZED, 0, P11_SESSION },
	{ P11_ANY, CKR_KEY_HANDLE_INVALID, 0, P11_OBJECT },
	{ P11_ANY, CKR_OBJECT_HANDLE_INVALID, 0, P11_OBJECT },
	{ P11_ANY, CKR_USER_NOT_LOGGED_IN, 0, P11_LOGIN },
	{ P11_ANY, CKR_CRYPTOKI_NOT_INITIALIZED, 0, P11_GONE },
	{ P11_ANY, CKR_DEVICE_REMOVED, 0, P11_GONE }, { P11_ANY, CKR_SLOT_ID_INVALID, 0, P11_GONE },
	{ P11_ANY, CKR_TOKEN_NOT_PRESENT, 0, P11_GONE },
	/* The token is well, and will not do this however often it is asked: no client may make
	 * workers restart by asking for it. */
	{ P11_ANY, CKR_ARGUMENTS_BAD, 0, P11_OPERATOR },
	{ P11_ANY, CKR_ATTRIBUTE_READ_ONLY, 0, P11_OPERATOR },
	{ P11_ANY, CKR_ATTRIBUTE_SENSITIVE, 0, P11_OPERATOR },
	{ P11_ANY, CKR_ATTRIBUTE_TYPE_INVALID, 0, P11_OPERATOR },
	{ P11_ANY, CKR_ATTRIBUTE_VALUE_INVALID, 0, P11_OPERATOR },
	{ P11_ANY, CKR_BUFFER_TOO_SMALL, 0, P11_OPERATOR },
	{ P11_ANY, CKR_DATA_INVALID, 0, P11_OPERATOR },
	{ P11_ANY, CKR_DATA_LEN_RANGE, 0, P11_OPERATOR },
	{ P11_ANY, CKR_DEVICE_MEMORY, 0, P11_OPERATOR },
	{ P11_ANY, CKR_FUNCTION_NOT_SUPPORTED, 0, P11_OPERATOR },
	{ P11_ANY, CKR_KEY_FUNCTION_NOT_PERMITTED, 0, P11_OPERATOR },
	{ P11_ANY, CKR_KEY_SIZE_RANGE, 0, P11_OPERATOR },
	{ P11_ANY, CKR_KEY_TYPE_INCONSISTENT, 0, P11_OPERATOR },
	{ P11_ANY, CKR_MECHANISM_INVALID, 0, P11_OPERATOR },
	{ P11_ANY, CKR_MECHANISM_PARAM_INVALID, 0, P11_OPERATOR },
	{ P11_ANY, CKR_PIN_EXPIRED, 0, P11_OPERATOR },
	{ P11_ANY, CKR_RANDOM_NO_RNG, 0, P11_OPERATOR },
	{ P11_ANY, CKR_SESSION_COUNT, 0, P11_OPERATOR },
	{ P11_ANY, CKR_SESSION_READ_ONLY, 0, P11_OPERATOR },
	{ P11_ANY, CKR_TEMPLATE_INCOMPLETE, 0, P11_OPERATOR },
	{ P11_ANY, CKR_TEMPLATE_INCONSISTENT, 0, P11_OPERATOR },
	{ P11_ANY, CKR_TOKEN_NOT_RECOGNIZED, 0, P11_OPERATOR },
	{ P11_ANY, CKR_TOKEN_WRITE_PROTECTED, 0, P11_OPERATOR },
	/* CKR_DEVICE_ERROR, CKR_FUNCTION_FAILED, CKR_GENERAL_ERROR … and what nobody knows:
	 * P11_RESTART. */
};

static const char *const function_names[] = { [P11_ANY] = "",
#define P11_FUNCTION_NAME(name) [P11_##name] = "C_" #name,
	P11_FUNCTIONS(P11_FUNCTION_NAME)
#undef P11_FUNCTION_NAME
};

static const int class_errs[] = {
	[P11_OK] = 0,
	[P11_SESSION] = KEKD_EHSM,
	[P11_OBJECT] = KEKD_EOBJECT,
	[P11_LOGIN] = KEKD_EHSM,
	[P11_RESTART] = KEKD_EHSM,
	[P11_GONE] = KEKD_EHSM,
	[P11_CALLER] = KEKD_EUNWRAP,
	[P11_OPERATOR] = KEKD_EHSM,
	[P11_PIN] = KEKD_EPIN,
	[P11_PIN_LOCKED] = KEKD_EPIN,
	[P11_PIN_EXPIRED] = KEKD_EPIN,
	[P11_PIN_DOUBT] = KEKD_EPIN,
	[P11_UNCERTAIN] = KEKD_EHSM,
	[P11_MISSING] = KEKD_EOBJECT,
	[P11_DUPLICATE] = KEKD_EDUPLICATE,
	[P11_LATE] = KEKD_ENOTACTIVE,
	[P11_ATTRIBUTES] = KEKD_EATTRIBUTES,
};

int p11_class_err(enum p11_class class)
{
	return class_errs[class];
}

static enum p11_class
classify(const struct p11 *p, enum p11_function function, CK_RV rv)
{
	unsigned flags = p->quirk ? p->quirk->flags : 0;

	for (size_t i = 0; i < STR_COUNT(classes); i++) {
		const struct class_row *row = &classes[i];
		if ((row->rv == rv || row->rv == ANY_RV) &&
			(row->function == P11_ANY || row->function == function) &&
			(row->quirk == 0 || (flags & row->quirk)))
			return row->class;
	}
	return P11_RESTART;
}

/* A few lines a second at most: a token that is gone fails every call. */
static void
log_failure(struct p11 *p, enum p11_function function, CK_RV rv)
{
	unsigned long long now = clock_boot_ns() / CLOCK_S;

	if (atomic_exchange(&p->logged_s, now) != now)
		atomic_store(&p->logged, 0);
	if (atomic_fetch_add(&p->logged, 1) < LOGGED_MAX)
		log_warning("%s failed with 0x%lx: %s", function_names[function], rv,
			p11_kit_strerror(rv));
}

enum p11_class
p11_classify(struct p11 *p, enum p11_function function, CK_RV rv)
{
	enum p11_class class;

	if (rv == CKR_OK)
		return P11_OK;
	class = classify(p, function, rv);
	if (class != P11_OK && class != P11_CALLER)
		log_failure(p, function, rv);
	return class;
}

/* --- Module and token. */

static void
copy_text(char *ret_text, size_t size, const unsigned char *padded, size_t padded_size)
{
	snprintf(ret_text, size, "%.*s", (int)p11_kit_space_strlen(padded, padded_size),
		(const char *)padded);
}

#define COPY_TEXT(ret_text, padded) copy_text(ret_text, sizeof(ret_text), padded, sizeof(padded))

static void
describe_module(const CK_INFO *info, char *ret_text, size_t size)
{
	snprintf(ret_text, size, "%.*s %u.%u",
		(int)p11_kit_space_strlen(
			info->libraryDescription, sizeof(info->libraryDescription)),
		(const char *)info->libraryDescription, info->libraryVersion.major,
		info->libraryVersion.minor);
}

/* For sessions of several threads, with the system's locks. p11_kit_module_initialize would ask an
 * unmanaged module for no locks at all. */
static enum p11_class
initialize(struct p11 *p)
{
	CK_C_INITIALIZE_ARGS args = { .flags = CKF_OS_LOCKING_OK };

	return p11_call(p, Initialize, &args);
}

static int
load_module(struct worker *w)
{
	struct p11 *p = &w->p11;
	/* Unmanaged: the module's own functions, without p11-kit's wrapping of each call. */
	CK_FUNCTION_LIST *f = p11_kit_module_load(w->part.module, P11_KIT_MODULE_UNMANAGED);

	if (!f)
		return worker_fail(w, HSM_STATE_NO_MODULE, CHILD_EXIT_OPERATOR,
			"token \"%s\": the PKCS#11 module %s cannot be loaded: check the path and "
			"that the module is installed",
			w->part.token, w->part.module);
	p->f = f;
	if (initialize(p)) {
		p11_kit_module_release(f);
		p->f = NULL;
		return worker_fail(w, HSM_STATE_NO_MODULE, CHILD_EXIT_OPERATOR,
			"token \"%s\": the PKCS#11 module %s cannot be initialised: check its "
			"configuration and that this user may read its files",
			w->part.token, w->part.module);
	}
	if (p11_call(p, GetInfo, &p->info))
		return worker_fail(w, HSM_STATE_NO_MODULE, CHILD_EXIT_OPERATOR,
			"token \"%s\": the PKCS#11 module %s does not say what it is",
			w->part.token, w->part.module);
	p->quirk = quirk_find(&p->info);
	w->hello.iv_len = p->quirk->iv_len;
	w->hello.session_copies = (p->quirk->flags & QUIRK_SESSION_COPIES) != 0;
	describe_module(&p->info, w->hello.module, sizeof(w->hello.module));
	return 0;
}

/* The number of tokens that match; the last one's slot and information in p. */
static enum p11_class
match_tokens(struct p11 *p, P11KitUri *uri, size_t *ret_matching)
{
	CK_SLOT_ID slots[SLOTS_MAX];
	CK_ULONG count = SLOTS_MAX;
	CK_TOKEN_INFO info;
	enum p11_class class = p11_call(p, GetSlotList, CK_TRUE, slots, &count);

	if (class)
		return class;
	*ret_matching = 0;
	for (CK_ULONG i = 0; i < count; i++) {
		if (p11_call(p, GetTokenInfo, slots[i], &info))
			continue; /* taken out just now */
		if (!p11_kit_uri_match_token_info(uri, &info))
			continue;
		p->slot = slots[i];
		p->token = info;
		++*ret_matching;
	}
	return P11_OK;
}

/* SoftHSM does not see a token while another process writes its flags (each login does), and reads
 * the directory at its start only: none is believed to be there after a few looks. */
static enum p11_class
look_for_tokens(struct p11 *p, P11KitUri *uri, size_t *ret_matching)
{
	const struct timespec pause = { 0, LOOK_PAUSE_NS };
	enum p11_class class = match_tokens(p, uri, ret_matching);

	for (int i = 1; i < LOOKS && !class && *ret_matching == 0; i++) {
		nanosleep(&pause, NULL);
		p11_call(p, Finalize, NULL);
		class = initialize(p);
		if (!class)
			class = match_tokens(p, uri, ret_matching);
	}
	return class;
}

static int
find_token(struct worker *w)
{
	P11KitUri *uri = p11_kit_uri_new();
	size_t matching = 0;
	enum p11_class class = P11_OK;
	int parsed;

	if (!uri)
		return worker_fail(w, HSM_STATE_FAILED, CHILD_EXIT_FAILED, "no memory");
	parsed = p11_kit_uri_parse(w->part.uri, P11_KIT_URI_FOR_ANY, uri);
	if (parsed == P11_KIT_URI_OK && !p11_kit_uri_any_unrecognized(uri))
		class = look_for_tokens(&w->p11, uri, &matching);
	else
		parsed = -1;
	p11_kit_uri_free(uri);
	if (parsed != P11_KIT_URI_OK)
		return worker_fail(w, HSM_STATE_NO_TOKEN, CHILD_EXIT_OPERATOR,
			"token \"%s\": %s is no PKCS#11 URI: correct it (RFC 7512)", w->part.token,
			w->part.uri);
	if (class)
		return worker_fail(w, HSM_STATE_FAILED, CHILD_EXIT_FAILED,
			"token \"%s\": the module does not list its slots", w->part.token);
	if (matching == 0)
		return worker_fail(w, HSM_STATE_NO_TOKEN, CHILD_EXIT_OPERATOR,
			"token \"%s\": no token matches %s: compare with what \"p11tool "
			"--list-tokens\" shows to this user, initialise or connect it",
			w->part.token, w->part.uri);
	if (matching > 1)
		return worker_fail(w, HSM_STATE_NO_TOKEN, CHILD_EXIT_OPERATOR,
			"token \"%s\": %zu tokens match %s: name one by its serial", w->part.token,
			matching, w->part.uri);
	return 0;
}

static void
describe_token(struct worker *w)
{
	const CK_TOKEN_INFO *t = &w->p11.token;

	COPY_TEXT(w->hello.token_label, t->label);
	COPY_TEXT(w->hello.token_serial, t->serialNumber);
	COPY_TEXT(w->hello.manufacturer, t->manufacturerID);
	COPY_TEXT(w->hello.model, t->model);
}

static int
check_initialised(struct worker *w)
{
	if (!(w->p11.token.flags & CKF_TOKEN_INITIALIZED))
		return worker_fail(w, HSM_STATE_NOT_INITIALISED, CHILD_EXIT_OPERATOR,
			"token \"%s\": %s is not initialised: initialise it with the vendor's tool "
			"(SoftHSM: softhsm2-util --init-token)",
			w->part.token, w->part.uri);
	if (!(w->p11.token.flags & CKF_USER_PIN_INITIALIZED))
		return worker_fail(w, HSM_STATE_NOT_INITIALISED, CHILD_EXIT_OPERATOR,
			"token \"%s\": %s has no user PIN yet: set one with the vendor's tool (or "
			"pkcs11-tool --init-pin)",
			w->part.token, w->part.uri);
	return 0;
}

int
p11_open(struct worker *w)
{
	int err = load_module(w);

	if (!err)
		err = find_token(w);
	if (err)
		return err;
	describe_token(w);
	return check_initialised(w);
}

void
p11_close(struct p11 *p)
{
	if (!p->f)
		return;
	p11_call(p, Finalize, NULL);
	p11_kit_module_release(p->f);
	p->f = NULL;
}

enum p11_class
p11_refresh_token(struct p11 *p)
{
	return p11_call(p, GetTokenInfo, p->slot, &p->token);
}
