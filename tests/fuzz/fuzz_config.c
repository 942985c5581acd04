/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration file, from its YAML to the parts of the children. Beside it lie the files that
 * a sound one names, so that the checks of the file system can be passed.
 */
#include "certificate.h"
#include "fuzz.h"

#include "kekd/config.h"
#include "kekd/json.h"

#include <sys/mman.h>
#include <unistd.h>

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *server = fuzz_certificate(key, false), *ca = fuzz_certificate(key, true);

	(void)argc, (void)argv;
	fuzz_quiet();
	json_open();
	fuzz_write_pem("cert", server, NULL);
	fuzz_write_pem("key", NULL, key);
	fuzz_write_pem("ca", ca, NULL);
	fuzz_write("mod", "", 0);
	fuzz_write("pin", "1\n", 2);
	X509_free(server);
	X509_free(ca);
	EVP_PKEY_free(key);
	return 0;
}

static int
descriptor(json_t *part)
{
	size_t size;
	char *text = json_canonical(part, &size);
	int fd = memfd_create("part", MFD_CLOEXEC);

	require(text && fd >= 0 && write(fd, text, size) == (ssize_t)size);
	require(lseek(fd, 0, SEEK_SET) == 0);
	json_text_free(text);
	json_decref(part);
	return fd;
}

/* What passed the checks, the children can read. */
static void
hand_out(const struct config *c)
{
	struct net_part net;
	struct worker_part worker;

	require(c->listen_count > 0 && c->tokens_count > 0 && c->tokens_count <= CONFIG_TOKENS_MAX);
	require(net_part_read(descriptor(config_net_part(c, NET_SERVE)), &net) == 0);
	require(net.tokens_count == c->tokens_count);
	net_part_free(&net);
	for (unsigned i = 0; i < c->tokens_count; i++) {
		require(worker_part_read(descriptor(config_worker_part(c, i, 0)), &worker) == 0);
		require(strcmp(worker.uri, c->tokens[i].uri) == 0);
		worker_part_free(&worker);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config *c = NULL;

	if (config_load(fuzz_write("kekd.yaml", data, size), &c) == 0)
		hand_out(c);
	config_freep(&c);
	return 0;
}
