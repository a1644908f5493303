/*
 * Makes file operations of the process it is preloaded into fail as a bad disk does.
 *
 * The file named by DUCK_FAULTS holds one rule a line: CALL SUFFIX ACTION. A rule is for calls of that kind on files
 * whose path ends with SUFFIX: open (for writing), write, sync, truncate, punch (a hole), rename, unlink, read; or, by
 * the word any, for all of them but read on files whose path has SUFFIX anywhere. ACTION is
 *   the number of an error: the call does nothing and fails with it;
 *   short: a write is half done and says so, and the next one fails as on a full disk, in turns;
 *   tear: a write is half done, and then the process is killed;
 *   hang: the call never returns;
 *   hold: the call waits until the rules say otherwise;
 *   kill: the process is killed before the call does anything;
 *   kill:N, tear:N: as kill and tear at the Nth call, and nothing at those before; tear kills at any kind of call.
 * Each call that a rule is for adds a byte to the file DUCK_FAULTS.hits. The rules are read anew at each call, so that
 * they can change while the process runs. Nothing here allocates: an allocator may call it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define TEAR -1
#define KILL -2
#define SHORT -3
#define HANG -4
#define HOLD -5
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
    if (strncmp(action, "tear", 4) == 0) return !is_turn(action) ? 0 : strcmp(call, "write") == 0 ? TEAR : KILL;
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

static int action_for_file(const char *call, int file) {
    char link[64], path[PATH_BYTES];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    int before = errno;
    ssize_t bytes = readlink(link, path, sizeof path - 1);
    errno = before;
    if (bytes <= 0 || path[0] != '/') return 0;
    path[bytes] = 0;
    return action_for(call, path);
}

static int fails(int action) {
    if (action <= 0) return 0;
    errno = action;
    return 1;
}

static int open_or_fail(const char *path, int flags, mode_t mode) {
    if ((flags & O_ACCMODE) != O_RDONLY && fails(action_for("open", path))) return -1;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
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

ssize_t write(int file, const void *data, size_t bytes) {
    int action = action_for_file("write", file);
    if (fails(action) || (action == SHORT && is_full())) return -1;
    if (action < 0) {
        ssize_t half = syscall(SYS_write, file, data, bytes / 2);
        if (action == SHORT) return half;
        syscall(SYS_kill, getpid(), SIGKILL);
    }
    return syscall(SYS_write, file, data, bytes);
}

static ssize_t pwrite_or_fail(int file, const void *data, size_t bytes, off_t at) {
    int action = action_for_file("write", file);
    if (fails(action) || (action == SHORT && is_full())) return -1;
    if (action < 0) {
        ssize_t half = syscall(SYS_pwrite64, file, data, bytes / 2, at);
        if (action == SHORT) return half;
        syscall(SYS_kill, getpid(), SIGKILL);
    }
    return syscall(SYS_pwrite64, file, data, bytes, at);
}

ssize_t pwrite(int file, const void *data, size_t bytes, off_t at) { return pwrite_or_fail(file, data, bytes, at); }
ssize_t pwrite64(int file, const void *data, size_t bytes, off_t at) { return pwrite_or_fail(file, data, bytes, at); }

int fsync(int file) { return fails(action_for_file("sync", file)) ? -1 : (int)syscall(SYS_fsync, file); }
int fdatasync(int file) { return fails(action_for_file("sync", file)) ? -1 : (int)syscall(SYS_fdatasync, file); }

/* DuckDB calls the one name, Rust the other. */
static int truncate_or_fail(int file, off_t bytes) {
    return fails(action_for_file("truncate", file)) ? -1 : (int)syscall(SYS_ftruncate, file, bytes);
}

int ftruncate(int file, off_t bytes) { return truncate_or_fail(file, bytes); }
int ftruncate64(int file, off_t bytes) { return truncate_or_fail(file, bytes); }

int fallocate(int file, int mode, off_t at, off_t bytes) {
    return fails(action_for_file("punch", file)) ? -1 : (int)syscall(SYS_fallocate, file, mode, at, bytes);
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
    return fails(action_for("rename", from)) ? -1 : (int)syscall(SYS_rename, from, to);
}

int unlink(const char *path) { return fails(action_for("unlink", path)) ? -1 : (int)syscall(SYS_unlink, path); }

int remove(const char *path) {
    int result = unlink(path);
    return result != 0 && errno == EISDIR ? rmdir(path) : result;
}
