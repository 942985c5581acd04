/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A PKCS#11 module for tests: forwards every call to another module, and
 *   KEKD_TEST_MODULE       the other module's path (SoftHSM where there is none)
 *   KEKD_TEST_LOG          a file that gets a line for each C_Initialize, C_Login and C_GenerateKey
 *   KEKD_TEST_EXTRACTABLE  =1: of secret keys it says that they could have been extracted once
 *   KEKD_TEST_DELAY_US     C_Encrypt and C_Decrypt take this much longer
 *   KEKD_TEST_DELAY_FILE   the same, read from this file at every call
 *   KEKD_TEST_HANG_FILE    C_Initialize, C_Login, C_GenerateKey, C_Encrypt and C_Decrypt wait while
 *                          this file holds their name
 *   KEKD_TEST_FLAGS        token flags to be shown as set, a number
 *   KEKD_TEST_LOGIN_SIGNAL a signal's number: it comes while C_Login is under way
 * Not part of the program, and not installed.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <p11-kit/pkcs11.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MODULE_DEFAULT "/usr/lib/softhsm/libsofthsm2.so"

static CK_FUNCTION_LIST *real; /* the module behind */
static CK_FUNCTION_LIST shown; /* its functions, some of them ours */
static long delay_us;

static void
log_call(const char *name)
{
	const char *path = getenv("KEKD_TEST_LOG");
	char line[64];
	int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
	int n = snprintf(line, sizeof(line), "%s\n", name);

	if (fd < 0)
		return;
	(void)!write(fd, line, (size_t)n);
	close(fd);
}

/* The file's first bytes as a text; empty where there is no file. */
static void
read_text(const char *variable, char *ret_text, size_t size)
{
	const char *path = getenv(variable);
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	ssize_t n = fd < 0 ? 0 : read(fd, ret_text, size - 1);

	ret_text[n > 0 ? n : 0] = '\0';
	if (fd >= 0)
		close(fd);
}

static void
pause_us(long us)
{
	struct timespec t = { us / 1000000, us % 1000000 * 1000 };

	if (us > 0)
		nanosleep(&t, NULL);
}

static void
hang(const char *name)
{
	char text[128];

	for (;;) {
		read_text("KEKD_TEST_HANG_FILE", text, sizeof(text));
		if (!strstr(text, name))
			return;
		pause_us(20000);
	}
}

static void
delay(const char *name)
{
	char text[32];

	hang(name);
	read_text("KEKD_TEST_DELAY_FILE", text, sizeof(text));
	pause_us(*text ? strtol(text, NULL, 10) : delay_us);
}

static CK_RV
logged_initialize(void *args)
{
	log_call("C_Initialize");
	hang("C_Initialize");
	return real->C_Initialize(args);
}

static CK_RV
logged_login(CK_SESSION_HANDLE s, CK_USER_TYPE user, CK_UTF8CHAR *pin, CK_ULONG pin_size)
{
	const char *number = getenv("KEKD_TEST_LOGIN_SIGNAL");

	log_call("C_Login");
	hang("C_Login");
	if (number)
		kill(getpid(), atoi(number));
	return real->C_Login(s, user, pin, pin_size);
}

static CK_RV
logged_generate_key(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_ATTRIBUTE *template, CK_ULONG n,
	CK_OBJECT_HANDLE *ret_key)
{
	log_call("C_GenerateKey");
	hang("C_GenerateKey");
	return real->C_GenerateKey(s, m, template, n, ret_key);
}

static CK_RV
flagged_token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *ret_info)
{
	const char *text = getenv("KEKD_TEST_FLAGS");
	CK_RV rv = real->C_GetTokenInfo(slot, ret_info);

	if (rv == CKR_OK && text)
		ret_info->flags |= strtoul(text, NULL, 0);
	return rv;
}

static CK_RV
lying_attribute_value(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *template, CK_ULONG n)
{
	const char *lies = getenv("KEKD_TEST_EXTRACTABLE");
	CK_RV rv = real->C_GetAttributeValue(s, o, template, n);

	for (CK_ULONG i = 0; lies && strcmp(lies, "1") == 0 && i < n; i++)
		if (template[i].type == CKA_NEVER_EXTRACTABLE && template[i].pValue &&
			template[i].ulValueLen == sizeof(CK_BBOOL))
			*(CK_BBOOL *)template[i].pValue = CK_FALSE;
	return rv;
}

static CK_RV
slow_encrypt(CK_SESSION_HANDLE s, unsigned char *in, CK_ULONG size, unsigned char *ret_out,
	CK_ULONG *ret_size)
{
	delay("C_Encrypt");
	return real->C_Encrypt(s, in, size, ret_out, ret_size);
}

static CK_RV
slow_decrypt(CK_SESSION_HANDLE s, unsigned char *in, CK_ULONG size, unsigned char *ret_out,
	CK_ULONG *ret_size)
{
	delay("C_Decrypt");
	return real->C_Decrypt(s, in, size, ret_out, ret_size);
}

static CK_RV
shown_function_list(CK_FUNCTION_LIST **ret_list)
{
	*ret_list = &shown;
	return CKR_OK;
}

static int
load(void)
{
	const char *path = getenv("KEKD_TEST_MODULE"), *us = getenv("KEKD_TEST_DELAY_US");
	void *module = dlopen(path ? path : MODULE_DEFAULT, RTLD_NOW | RTLD_LOCAL);
	CK_RV (*get)(CK_FUNCTION_LIST **);

	if (!module)
		return -1;
	*(void **)&get = dlsym(module, "C_GetFunctionList");
	if (!get || get(&real) != CKR_OK)
		return -1;
	delay_us = us ? strtol(us, NULL, 10) : 0;
	shown = *real;
	shown.C_GetFunctionList = shown_function_list;
	shown.C_Initialize = logged_initialize;
	shown.C_Login = logged_login;
	shown.C_GenerateKey = logged_generate_key;
	shown.C_GetTokenInfo = flagged_token_info;
	shown.C_GetAttributeValue = lying_attribute_value;
	shown.C_Encrypt = slow_encrypt;
	shown.C_Decrypt = slow_decrypt;
	return 0;
}

CK_RV
C_GetFunctionList(CK_FUNCTION_LIST **ret_list)
{
	if (!real && load() < 0)
		return CKR_GENERAL_ERROR;
	return shown_function_list(ret_list);
}
