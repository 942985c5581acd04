/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Without libFuzzer: gives a target each file of its corpus, so that what was found once stays
 * mended. Without arguments the corpus of the target's name: in the sources, and what the build
 * made (seed.py). Else the files and directories that are named.
 */
#include "fuzz.h"

#include <dirent.h>
#include <sys/stat.h>

#define INPUT_MAX (4u << 20)

static size_t inputs;

static void
run_file(const char *path)
{
	uint8_t *room = malloc(INPUT_MAX), *data;
	FILE *f = fopen(path, "re");
	size_t size;

	require(room && f);
	size = fread(room, 1, INPUT_MAX, f);
	fclose(f);
	/* Just as long as the input: a sanitizer sees what reads past its end. */
	data = malloc(size ? size : 1);
	require(data);
	memcpy(data, room, size);
	free(room);
	printf("%s\n", path);
	LLVMFuzzerTestOneInput(data, size);
	free(data);
	inputs++;
}

static void
run_directory(const char *path)
{
	struct dirent **entries;
	int count = scandir(path, &entries, NULL, alphasort);

	for (int i = 0; i < count; i++) {
		char file[4096];

		snprintf(file, sizeof(file), "%s/%s", path, entries[i]->d_name);
		if (entries[i]->d_name[0] != '.')
			run_file(file);
		free(entries[i]);
	}
	if (count >= 0)
		free(entries);
}

static void
run(const char *path)
{
	struct stat st;

	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		run_directory(path);
	else
		run_file(path);
}

static void
run_own(const char *program)
{
	const char *base = strrchr(program, '/'), *srcdir = getenv("srcdir");
	const char *places[] = { "corpus", "seeds" };
	const char *tops[] = { srcdir ? srcdir : ".", "." };

	base = base ? base + 1 : program;
	require(strncmp(base, "fuzz_", 5) == 0);
	for (size_t i = 0; i < 2; i++) {
		char path[4096];

		snprintf(path, sizeof(path), "%s/tests/fuzz/%s/%s", tops[i], places[i], base + 5);
		run_directory(path);
	}
}

int
main(int argc, char **argv)
{
	/* A crash is to show what it was at. */
	setvbuf(stdout, NULL, _IOLBF, 0);
	LLVMFuzzerInitialize(&argc, &argv);
	LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
	for (int i = 1; i < argc; i++)
		run(argv[i]);
	if (argc < 2)
		run_own(argv[0]);
	printf("%zu inputs\n", inputs);
	return inputs > 0 ? 0 : 1;
}
