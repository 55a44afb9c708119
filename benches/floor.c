/* floor DIRECTORY THREADS: what the kernel must be asked at least, whoever asks: the names in every directory, statx
 * and llistxattr of every entry, open, read and close of every regular file. Directories right below DIRECTORY are
 * shared out among the threads. Prints the number of regular files. */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { MAX_DIRECTORIES = 1 << 20, MAX_THREADS = 64, BUFFER_BYTES = 1 << 16 };

static char *directories[MAX_DIRECTORIES];
static int count, next;
static long files;

static void look_at(const char *directory, char *buffer) {
    char path[4096];
    DIR *stream = opendir(directory);
    if (stream == NULL) err(1, "%s", directory);
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;) {
        struct statx found;
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        if (statx(dirfd(stream), entry->d_name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &found) != 0) err(1, "%s", path);
        if (llistxattr(path, buffer, BUFFER_BYTES) < 0) err(1, "%s", path);
        if (!S_ISREG(found.stx_mode)) continue;
        int file = openat(dirfd(stream), entry->d_name, O_RDONLY);
        if (file < 0 || read(file, buffer, BUFFER_BYTES) < 0) err(1, "%s", path);
        close(file);
        __atomic_fetch_add(&files, 1, __ATOMIC_RELAXED);
    }
    closedir(stream);
}

static void *work(void *unused) {
    char buffer[BUFFER_BYTES];
    for (int at; (at = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < count;) look_at(directories[at], buffer);
    return unused;
}

int main(int argc, char **argv) {
    int threads = argc == 3 ? atoi(argv[2]) : 0;
    if (threads < 1 || threads > MAX_THREADS) errx(2, "usage: floor DIRECTORY THREADS");
    DIR *stream = opendir(argv[1]);
    if (stream == NULL) err(1, "%s", argv[1]);
    for (struct dirent *entry; (entry = readdir(stream)) != NULL && count < MAX_DIRECTORIES;)
        if (entry->d_name[0] != '.' && asprintf(&directories[count], "%s/%s", argv[1], entry->d_name) > 0) count++;
    closedir(stream);
    pthread_t started[MAX_THREADS];
    for (int i = 0; i < threads; i++) pthread_create(&started[i], NULL, work, NULL);
    for (int i = 0; i < threads; i++) pthread_join(started[i], NULL);
    printf("%ld\n", files);
    return 0;
}
