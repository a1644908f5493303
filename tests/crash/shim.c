/*
 * Makes file operations of the process it is preloaded into fail as a bad disk does.
 *
 * The file named by DUCK_FAULTS holds one rule a line: CALL SUFFIX ACTION. A rule is for calls of that kind on files
 * whose path ends with SUFFIX: open (for writing), write, sync, truncate, punch (a hole), rename, unlink, read; or, by
 * the word any, for all of them but read on files whose path has SUFFIX anywhere. ACTION is
 *   the number of an error: the call does nothing and fails with it;
 *   short: a write is half done and says so, and the next one fails as on a full disk, in turns;
 *   tear: a write is half done, and then the process is killed;
 *   page: as tear, but of a write a page is done, which is where Linux looks whether to kill;
 *   hang: the call never returns;
 *   hold: the call waits until the rules say otherwise;
 *   kill: the process is killed before the call does anything;
 *   kill:N, tear:N, page:N: as these at the Nth call, and nothing at those before; tear and page kill at any kind of call.
 * Each call that a rule is for adds a byte to the file DUCK_FAULTS.hits. The rules are read anew at each call, so that
 * they can change while the process runs. Nothing here allocates: an allocator may call it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define TEAR -1
#define KILL -2
#define SHORT -3
#define HANG -4
#define HOLD -5
#define PAGE -6
#define PAGE_BYTES 4096
#define PATH_BYTES 4096

static int open_raw(const char *path, int flags) {
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, 0644);
}

static void count_hit(const char *control) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s.hits", control);
    int hits = open_raw(path, O_WRONLY | O_CREAT | O_APPEND);
    if (hits < 0) return;
    syscall(SYS_write, hits, "x", 1);
    syscall(SYS_close, hits);
}

static int ends_with(const char *path, const char *suffix) {
    size_t path_bytes = strlen(path), bytes = strlen(suffix);
    return path_bytes >= bytes && strcmp(path + path_bytes - bytes, suffix) == 0;
}

/* Whether this is the call that an action counts to. */
static int is_turn(const char *action) {
    static int calls = 0;
    const char *number = strchr(action, ':');
    return number == NULL || __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST) == atoi(number + 1);
}

static int action_named(const char *action, const char *call) {
    if (strcmp(action, "short") == 0) return SHORT;
    if (strcmp(action, "hang") == 0) return HANG;
    if (strcmp(action, "hold") == 0) return HOLD;
    int part = strncmp(action, "tear", 4) == 0 ? TEAR : strncmp(action, "page", 4) == 0 ? PAGE : 0;
    if (part != 0) return !is_turn(action) ? 0 : strcmp(call, "write") == 0 ? part : KILL;
    if (strncmp(action, "kill", 4) == 0) return is_turn(action) ? KILL : 0;
    return atoi(action);
}

/* The action that the rules have for a call on a path at present; 0 is none. */
static int action_in(const char *control, const char *call, const char *path) {
    char rules[2048];
    int file = open_raw(control, O_RDONLY);
    if (file < 0) return 0;
    ssize_t bytes = syscall(SYS_read, file, rules, sizeof rules - 1);
    syscall(SYS_close, file);
    rules[bytes > 0 ? bytes : 0] = 0;
    char *next = NULL;
    int found = 0;
    for (char *line = strtok_r(rules, "\n", &next); line && !found; line = strtok_r(NULL, "\n", &next)) {
        char rule_call[16], suffix[256], action[16];
        if (sscanf(line, "%15s %255s %15s", rule_call, suffix, action) != 3) continue;
        int any = strcmp(rule_call, "any") == 0 && strcmp(call, "read") != 0;
        if (any ? strstr(path, suffix) == NULL : strcmp(rule_call, call) != 0 || !ends_with(path, suffix)) continue;
        found = action_named(action, call);
    }
    return found;
}

/* The action for a call on a path, once it is not held any more; 0 is none. */
static int action_for(const char *call, const char *path) {
    const char *control = getenv("DUCK_FAULTS");
    if (control == NULL) return 0;
    int before = errno;
    int found = action_in(control, call, path);
    if (found != 0) count_hit(control);
    while (found == HOLD) {
        usleep(1000);
        found = action_in(control, call, path);
    }
    errno = before;
    if (found == KILL) syscall(SYS_kill, getpid(), SIGKILL);
    while (found == HANG) pause();
    return found;
}

/* Whether an open file has a path, which is written to PATH_BYTES bytes. */
static int path_of(int file, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    int before = errno;
    ssize_t bytes = readlink(link, path, PATH_BYTES - 1);
    errno = before;
    if (bytes <= 0 || path[0] != '/') return 0;
    path[bytes] = 0;
    return 1;
}

static int action_for_file(const char *call, int file) {
    char path[PATH_BYTES];
    return path_of(file, path) ? action_for(call, path) : 0;
}

static int fails(int action) {
    if (action <= 0) return 0;
    errno = action;
    return 1;
}

/* What the journal has of an operation, in the machine's order of bytes; `payload` bytes come behind it. */
struct operation {
    uint64_t kind, file, at, bytes, payload;
};

/* Held while something is done to a file and written down, so that the journal has the order in which things are done. */
static pthread_mutex_t journal_lock = PTHREAD_MUTEX_INITIALIZER;

/* The name of a path in the directory that is journaled; NULL of any other path. */
static const char *journaled(const char *path) {
    const char *directory = getenv("DUCK_JOURNALED");
    if (directory == NULL || getenv("DUCK_JOURNAL") == NULL) return NULL;
    size_t bytes = strlen(directory);
    if (strncmp(path, directory, bytes) != 0 || path[bytes] != '/') return NULL;
    const char *name = path + bytes + 1;
    return strchr(name, '/') == NULL ? name : NULL;
}

/* The number of an open file in that directory, with the journal locked; 0 of any other file. */
static uint64_t lock_journal(int file) {
    char path[PATH_BYTES];
    struct stat status;
    if (!path_of(file, path) || journaled(path) == NULL || fstat(file, &status) != 0) return 0;
    pthread_mutex_lock(&journal_lock);
    return status.st_ino;
}

static void unlock_journal(void) { pthread_mutex_unlock(&journal_lock); }

/* Writes an operation down. The journal must be locked. */
static void note(char kind, uint64_t file, uint64_t at, uint64_t bytes, const void *payload, size_t payload_bytes) {
    static int journal = -1;
    int before = errno;
    if (journal < 0) journal = open_raw(getenv("DUCK_JOURNAL"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC);
    struct operation operation = {(uint64_t)kind, file, at, bytes, payload_bytes};
    struct iovec parts[] = {{&operation, sizeof operation}, {(void *)payload, payload_bytes}};
    ssize_t noted = syscall(SYS_writev, journal, parts, 2);
    /* Without a journal there is no test. */
    if (noted != (ssize_t)(sizeof operation + payload_bytes)) abort();
    errno = before;
}

static int open_noted(const char *path, int flags, mode_t mode) {
    const char *name = (flags & (O_CREAT | O_TRUNC)) != 0 ? journaled(path) : NULL;
    if (name == NULL) return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    struct stat status;
    pthread_mutex_lock(&journal_lock);
    int is_new = stat(path, &status) != 0;
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (file >= 0 && fstat(file, &status) == 0) {
        if (is_new) note('m', status.st_ino, 0, 0, name, strlen(name));
        if ((flags & O_TRUNC) != 0) note('t', status.st_ino, 0, 0, NULL, 0);
    }
    unlock_journal();
    return file;
}

static ssize_t write_noted(int file, const void *data, size_t bytes) {
    uint64_t number = lock_journal(file);
    ssize_t written = syscall(SYS_write, file, data, bytes);
    if (number == 0) return written;
    if (written > 0) {
        uint64_t end = (uint64_t)syscall(SYS_lseek, file, 0, SEEK_CUR);
        note('w', number, end - (uint64_t)written, (uint64_t)written, data, (size_t)written);
    }
    unlock_journal();
    return written;
}

static ssize_t pwrite_noted(int file, const void *data, size_t bytes, off_t at) {
    uint64_t number = lock_journal(file);
    ssize_t written = syscall(SYS_pwrite64, file, data, bytes, at);
    if (number == 0) return written;
    if (written > 0) note('w', number, (uint64_t)at, (uint64_t)written, data, (size_t)written);
    unlock_journal();
    return written;
}

/* The beginning and the end of a sync: only what was done before its beginning is surely synced at its end. */
static int sync_noted(long call, int file) {
    static uint64_t syncs = 0;
    uint64_t number = lock_journal(file), sync = 0;
    if (number != 0) {
        sync = ++syncs;
        note('b', number, sync, 0, NULL, 0);
        unlock_journal();
    }
    int result = (int)syscall(call, file);
    if (number != 0 && result == 0) {
        pthread_mutex_lock(&journal_lock);
        note('e', number, sync, 0, NULL, 0);
        unlock_journal();
    }
    return result;
}

static int truncate_noted(int file, off_t bytes) {
    uint64_t number = lock_journal(file);
    int result = (int)syscall(SYS_ftruncate, file, bytes);
    if (number == 0) return result;
    if (result == 0) note('t', number, (uint64_t)bytes, 0, NULL, 0);
    unlock_journal();
    return result;
}

/* DuckDB punches holes, and allocates nothing. */
static int punch_noted(int file, int mode, off_t at, off_t bytes) {
    uint64_t number = lock_journal(file);
    int result = (int)syscall(SYS_fallocate, file, mode, at, bytes);
    if (number == 0) return result;
    if (result == 0) note('p', number, (uint64_t)at, (uint64_t)bytes, NULL, 0);
    unlock_journal();
    return result;
}

static int rename_noted(const char *from, const char *to) {
    const char *old_name = journaled(from), *new_name = journaled(to);
    if (old_name == NULL || new_name == NULL) return (int)syscall(SYS_rename, from, to);
    char names[PATH_BYTES];
    int bytes = snprintf(names, sizeof names, "%s/%s", old_name, new_name);
    pthread_mutex_lock(&journal_lock);
    int result = (int)syscall(SYS_rename, from, to);
    if (result == 0) note('r', 0, 0, 0, names, (size_t)bytes);
    unlock_journal();
    return result;
}

static int unlink_noted(const char *path) {
    const char *name = journaled(path);
    if (name == NULL) return (int)syscall(SYS_unlink, path);
    pthread_mutex_lock(&journal_lock);
    int result = (int)syscall(SYS_unlink, path);
    if (result == 0) note('u', 0, 0, 0, name, strlen(name));
    unlock_journal();
    return result;
}

static int open_or_fail(const char *path, int flags, mode_t mode) {
    if ((flags & O_ACCMODE) != O_RDONLY && fails(action_for("open", path))) return -1;
    return open_noted(path, flags, mode);
}

#define OPEN(name)                                       \
    int name(const char *path, int flags, ...) {         \
        va_list arguments;                               \
        va_start(arguments, flags);                      \
        mode_t mode = (mode_t)va_arg(arguments, int);    \
        va_end(arguments);                               \
        return open_or_fail(path, flags, mode);          \
    }
OPEN(open)
OPEN(open64)

/* Every other short write finds the disk full. */
static int is_full(void) {
    static int calls = 0;
    if (__atomic_fetch_add(&calls, 1, __ATOMIC_SEQ_CST) % 2 == 0) return 0;
    errno = ENOSPC;
    return 1;
}

/* How much of a write is done by an action that does a part of it. */
static size_t part_of(size_t bytes, int action) {
    return action == PAGE && bytes > PAGE_BYTES ? PAGE_BYTES : bytes / 2;
}

ssize_t write(int file, const void *data, size_t bytes) {
    int action = action_for_file("write", file);
    if (fails(action) || (action == SHORT && is_full())) return -1;
    if (action < 0) {
        ssize_t part = write_noted(file, data, part_of(bytes, action));
        if (action == SHORT) return part;
        syscall(SYS_kill, getpid(), SIGKILL);
    }
    return write_noted(file, data, bytes);
}

static ssize_t pwrite_or_fail(int file, const void *data, size_t bytes, off_t at) {
    int action = action_for_file("write", file);
    if (fails(action) || (action == SHORT && is_full())) return -1;
    if (action < 0) {
        ssize_t part = pwrite_noted(file, data, part_of(bytes, action), at);
        if (action == SHORT) return part;
        syscall(SYS_kill, getpid(), SIGKILL);
    }
    return pwrite_noted(file, data, bytes, at);
}

ssize_t pwrite(int file, const void *data, size_t bytes, off_t at) { return pwrite_or_fail(file, data, bytes, at); }
ssize_t pwrite64(int file, const void *data, size_t bytes, off_t at) { return pwrite_or_fail(file, data, bytes, at); }

int fsync(int file) { return fails(action_for_file("sync", file)) ? -1 : sync_noted(SYS_fsync, file); }
int fdatasync(int file) { return fails(action_for_file("sync", file)) ? -1 : sync_noted(SYS_fdatasync, file); }

/* DuckDB calls the one name, Rust the other. */
static int truncate_or_fail(int file, off_t bytes) {
    return fails(action_for_file("truncate", file)) ? -1 : truncate_noted(file, bytes);
}

int ftruncate(int file, off_t bytes) { return truncate_or_fail(file, bytes); }
int ftruncate64(int file, off_t bytes) { return truncate_or_fail(file, bytes); }

int fallocate(int file, int mode, off_t at, off_t bytes) {
    return fails(action_for_file("punch", file)) ? -1 : punch_noted(file, mode, at, bytes);
}

ssize_t read(int file, void *data, size_t bytes) {
    return fails(action_for_file("read", file)) ? -1 : syscall(SYS_read, file, data, bytes);
}

static ssize_t pread_or_fail(int file, void *data, size_t bytes, off_t at) {
    return fails(action_for_file("read", file)) ? -1 : syscall(SYS_pread64, file, data, bytes, at);
}

ssize_t pread(int file, void *data, size_t bytes, off_t at) { return pread_or_fail(file, data, bytes, at); }
ssize_t pread64(int file, void *data, size_t bytes, off_t at) { return pread_or_fail(file, data, bytes, at); }

int rename(const char *from, const char *to) {
    return fails(action_for("rename", from)) ? -1 : rename_noted(from, to);
}

int unlink(const char *path) { return fails(action_for("unlink", path)) ? -1 : unlink_noted(path); }

int remove(const char *path) {
    int result = unlink(path);
    return result != 0 && errno == EISDIR ? rmdir(path) : result;
}
