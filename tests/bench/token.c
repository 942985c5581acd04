/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The token limit H: PKCS#11 at its best. So many processes, each with a session and a session
 * object as its key (what a worker's session copy is), encrypt or decrypt 32 bytes by AES-GCM with
 * the AAD of a blob without context. IVs are counted, not drawn.
 *
 *   token MODULE LABEL wrap|unwrap PROCESSES SECONDS   the PIN is in KEKD_BENCH_PIN
 *
 * Prints operations per second of all processes together. A slot of its own for each process is
 * not needed: they share the token, as workers do.
 */
#include <dlfcn.h>
#include <p11-kit/pkcs11.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PLAIN_SIZE 32
#define AAD_SIZE 22
#define IV_SIZE 12
#define CHECK_EVERY 256
#define ATTEMPTS 100

static CK_FUNCTION_LIST *p11;

static void
must(CK_RV rv, const char *what)
{
	if (rv == CKR_OK)
		return;
	fprintf(stderr, "token: %s: 0x%lx\n", what, (unsigned long)rv);
	exit(1);
}

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void
load(const char *path)
{
	void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	CK_RV (*get)(CK_FUNCTION_LIST **);

	*(void **)&get = module ? dlsym(module, "C_GetFunctionList") : NULL;
	if (!get) {
		fprintf(stderr, "token: %s: %s\n", path, dlerror());
		exit(1);
	}
	must(get(&p11), "C_GetFunctionList");
}

static bool
find_slot(const char *label, CK_SLOT_ID *ret_slot)
{
	CK_SLOT_ID slots[64];
	CK_ULONG n = 64;
	CK_TOKEN_INFO info;

	must(p11->C_GetSlotList(CK_TRUE, slots, &n), "C_GetSlotList");
	for (CK_ULONG i = 0; i < n; i++)
		if (p11->C_GetTokenInfo(slots[i], &info) == CKR_OK &&
			strncmp((char *)info.label, label, strlen(label)) == 0 &&
			(strlen(label) == sizeof(info.label) || info.label[strlen(label)] == ' ')) {
			*ret_slot = slots[i];
			return true;
		}
	return false;
}

/* SoftHSM misses a token that another process opens at the same moment. */
static CK_SLOT_ID
open_slot(const char *label)
{
	CK_SLOT_ID slot;

	for (int i = 0; i < ATTEMPTS; i++) {
		must(p11->C_Initialize(NULL), "C_Initialize");
		if (find_slot(label, &slot))
			return slot;
		p11->C_Finalize(NULL);
		usleep(20000);
	}
	fprintf(stderr, "token: there is no token \"%s\"\n", label);
	exit(1);
}

static CK_SESSION_HANDLE
log_in(CK_SLOT_ID slot)
{
	char *pin = getenv("KEKD_BENCH_PIN");
	CK_SESSION_HANDLE s;

	must(p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &s),
		"C_OpenSession");
	if (pin)
		must(p11->C_Login(s, CKU_USER, (unsigned char *)pin, strlen(pin)), "C_Login");
	return s;
}

static CK_OBJECT_HANDLE
make_key(CK_SESSION_HANDLE s)
{
	CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
	CK_ULONG size = 32;
	CK_MECHANISM m = { CKM_AES_KEY_GEN, NULL, 0 };
	CK_ATTRIBUTE template[] = {
		{ CKA_TOKEN, &no, sizeof(no) },
		{ CKA_SENSITIVE, &yes, sizeof(yes) },
		{ CKA_EXTRACTABLE, &no, sizeof(no) },
		{ CKA_ENCRYPT, &yes, sizeof(yes) },
		{ CKA_DECRYPT, &yes, sizeof(yes) },
		{ CKA_VALUE_LEN, &size, sizeof(size) },
	};
	CK_OBJECT_HANDLE key;

	must(p11->C_GenerateKey(s, &m, template, 6, &key), "C_GenerateKey");
	return key;
}

struct loop {
	CK_SESSION_HANDLE s;
	CK_OBJECT_HANDLE key;
	uint8_t plain[PLAIN_SIZE], aad[AAD_SIZE], iv[16], out[PLAIN_SIZE + 32];
	CK_ULONG out_len;
};

static void
encrypt(struct loop *l, uint64_t n)
{
	CK_GCM_PARAMS params = { l->iv, IV_SIZE, IV_SIZE * 8, l->aad, AAD_SIZE, 128 };
	CK_MECHANISM m = { CKM_AES_GCM, &params, sizeof(params) };

	memcpy(l->iv, &n, sizeof(n));
	l->out_len = sizeof(l->out);
	must(p11->C_EncryptInit(l->s, &m, l->key), "C_EncryptInit");
	must(p11->C_Encrypt(l->s, l->plain, PLAIN_SIZE, l->out, &l->out_len), "C_Encrypt");
}

static void
decrypt(struct loop *l, uint64_t n)
{
	uint8_t back[sizeof(l->out)];
	CK_ULONG len = sizeof(back);
	CK_GCM_PARAMS params = { l->iv, IV_SIZE, IV_SIZE * 8, l->aad, AAD_SIZE, 128 };
	CK_MECHANISM m = { CKM_AES_GCM, &params, sizeof(params) };

	(void)n;
	must(p11->C_DecryptInit(l->s, &m, l->key), "C_DecryptInit");
	must(p11->C_Decrypt(l->s, l->out, l->out_len, back, &len), "C_Decrypt");
}

/* One process, from when all are ready. */
static double
run(const char *module, const char *label, bool unwraps, double seconds, int ready, int go)
{
	void (*one)(struct loop *, uint64_t) = unwraps ? decrypt : encrypt;
	struct loop l = { 0 };
	double begin, end;
	uint64_t n = 0;
	char byte = 1;

	load(module);
	l.s = log_in(open_slot(label));
	l.key = make_key(l.s);
	encrypt(&l, 0);
	if (write(ready, &byte, 1) != 1)
		exit(1);
	close(ready); /* where another process fails, nobody waits for it */
	if (read(go, &byte, 1) < 0)
		exit(1);
	begin = now();
	do {
		for (int i = 0; i < CHECK_EVERY; i++)
			one(&l, ++n);
		end = now();
	} while (end - begin < seconds);
	p11->C_Finalize(NULL);
	return (double)n / (end - begin);
}

int
main(int argc, char **argv)
{
	int ready[2], go[2], results[2];
	double sum = 0, rate;
	int processes;
	char byte;

	if (argc != 6 || (strcmp(argv[3], "wrap") != 0 && strcmp(argv[3], "unwrap") != 0)) {
		fputs("token MODULE LABEL wrap|unwrap PROCESSES SECONDS\n", stderr);
		return 2;
	}
	processes = atoi(argv[4]);
	if (pipe(ready) < 0 || pipe(go) < 0 || pipe(results) < 0)
		return 1;
	for (int i = 0; i < processes; i++)
		if (fork() == 0) {
			close(go[1]);
			rate = run(argv[1], argv[2], argv[3][0] == 'u', atof(argv[5]), ready[1],
				go[0]);
			return write(results[1], &rate, sizeof(rate)) != sizeof(rate);
		}
	close(ready[1]);
	close(results[1]);
	for (int i = 0; i < processes; i++)
		if (read(ready[0], &byte, 1) != 1)
			return 1;
	close(go[1]); /* all begin now */
	for (int i = 0; i < processes; i++) {
		if (read(results[0], &rate, sizeof(rate)) != sizeof(rate))
			return 1;
		sum += rate;
	}
	while (wait(NULL) > 0)
		;
	printf("%.0f\n", sum);
	return 0;
}
