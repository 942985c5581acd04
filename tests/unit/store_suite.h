/* SPDX-License-Identifier: Apache-2.0 */
/* What every engine behind store.h does alike: these tests are run once for each of them. */
#ifndef STORE_SUITE_H
#define STORE_SUITE_H

#include "kekd/store.h"

/* The first member of an engine's fixture. store NULL: the engine is not there, and the test is
 * skipped. */
struct suite {
	struct store *store;
	void (*reopen)(struct suite *s);	  /* as after a restart */
	struct store *(*second)(struct suite *s); /* another program's connection, to be freed */
};

/* The words of the tests. */
struct store_op put(const char *path, uint64_t expected, const char *body);
int commit(struct store *s, const struct store_op *ops, size_t count, uint64_t *ret_revision);
uint64_t put_one(struct store *s, const char *path, const char *body); /* its revision */
void assert_body(struct store *s, const char *path, const char *body, uint64_t revision);
void assert_absent(struct store *s, const char *path);

void a_commit_writes_all_with_one_revision(void **state);
void one_failed_compare_leaves_everything_as_it_was(void **state);
void a_commit_has_at_most_100_operations(void **state);
void bad_paths_and_bodies_are_refused(void **state);
void a_listing_is_paged_sorted_and_keeps_to_its_prefix(void **state);
void two_connections_do_not_overwrite_each_other(void **state);
void identity_and_records_outlive_the_process(void **state);
void news_of_others_is_told_once(void **state);
void a_copy_has_all_records_as_they_are(void **state);

#define STORE_SUITE(setup, teardown) \
	cmocka_unit_test_setup_teardown(a_commit_writes_all_with_one_revision, setup, teardown), \
		cmocka_unit_test_setup_teardown( \
			one_failed_compare_leaves_everything_as_it_was, setup, teardown), \
		cmocka_unit_test_setup_teardown( \
			a_commit_has_at_most_100_operations, setup, teardown), \
		cmocka_unit_test_setup_teardown( \
			bad_paths_and_bodies_are_refused, setup, teardown), \
		cmocka_unit_test_setup_teardown( \
			a_listing_is_paged_sorted_and_keeps_to_its_prefix, setup, teardown), \
		cmocka_unit_test_setup_teardown( \
			two_connections_do_not_overwrite_each_other, setup, teardown), \
		cmocka_unit_test_setup_teardown( \
			identity_and_records_outlive_the_process, setup, teardown), \
		cmocka_unit_test_setup_teardown(news_of_others_is_told_once, setup, teardown), \
		cmocka_unit_test_setup_teardown( \
			a_copy_has_all_records_as_they_are, setup, teardown)

#endif
