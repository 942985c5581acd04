/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small files that a program keeps for itself: written whole or not at all, and on the disk before
 * anyone is told. Errors are negative errno values; nothing is logged. Any thread, but one writer
 * of a name at a time.
 */
#ifndef KEKD_FILE_H
#define KEKD_FILE_H

#include <stddef.h>
#include <sys/types.h>

/*
 * Replaces the file `name` in the directory by these bytes, mode 0600. The new content is written
 * to NAME.new, which is synced, renamed over the file, and then the directory is synced; a NAME.new
 * that somebody left behind is written over. After 0 a power cut finds the new content. A crash
 * leaves the former file (beside it perhaps a NAME.new, which nobody reads) until the rename, one
 * of the two whole until the directory is synced, the new one from then on.
 *
 * On an error the former file stands and NAME.new is gone, but for one: when only the last sync
 * failed, the new content can be read, and a power cut may still bring the former back.
 * -ENAMETOOLONG, or what open, write, fsync or rename said (-ENOSPC, -EACCES, -ELOOP: NAME.new is a
 * symbolic link ...). The directory stays the caller's.
 */
int file_replace_at(int dir, const char *name, const void *data, size_t len);
/* The same by the directory's path; further errors: the directory cannot be opened. */
int file_replace(const char *dir, const char *name, const void *data, size_t len);

/* Up to `size` bytes from the file's start, and how many they are. A negative error: -ENOENT there
 * is none; -ELOOP it is a symbolic link, which is not followed. Waits for no writer of a FIFO. */
ssize_t file_read(const char *dir, const char *name, void *ret_data, size_t size);

/* What was renamed, made or removed in the directory is on the disk behind this. */
int file_sync_dir(const char *dir);

/* The directory of the path, absolute, and of the name that was given: a link's target may lie
 * anywhere. The caller frees it; NULL: errno says why. */
char *file_directory(const char *path);

#endif
