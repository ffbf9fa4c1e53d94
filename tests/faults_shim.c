/* Faults where a process changes files: loaded by LD_PRELOAD, used by faults.py.

   Counts the calls that change something below one folder: creating, emptying, writing, renaming, removing.
   TRACE logs them as "number<TAB>call<TAB>needs space<TAB>path". The others do something at call number `at`:
   FAIL: this call and all later ones that need space fail with errno `value` (ENOSPC: the disk is full).
   KILL: the process is killed. SIGNAL: it gets the signal `value`, and goes on.
   half: a write at `at` first writes half of its bytes, as a disk does when it fills up.

   fault_note() lets every opening below the folder be written to a file: "open<TAB>path", "write<TAB>path" to write only.
   fault_arm() begins; a process of its own is armed by FAULT_* in its environment, which its children do not inherit.
   Neither what C's stdio writes nor system calls without libc are seen (test_faults.py compares with strace). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, TRACE, FAIL, KILL, SIGNAL };
enum verdict { GO_ON, WRITE_HALF, REFUSE };

#define LONGEST 8192
static char folder[LONGEST];
static int mode = OFF, value, half, log_fd = -1, note_fd = -1;
static long at, calls;

void fault_arm(const char *where, int what, long number, int with, int halves, const char *log)
{
    snprintf(folder, sizeof folder, "%s", where);
    at = number, value = with, half = halves, calls = 0;
    log_fd = *log ? syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    mode = what;
}

void fault_note(int fd)
{
    note_fd = fd;
}

__attribute__((constructor)) static void arm_from_environment(void)
{
    const char *where = getenv("FAULT_FOLDER");
    if (where)
        fault_arm(where, atoi(getenv("FAULT_MODE")), atol(getenv("FAULT_AT")), atoi(getenv("FAULT_VALUE")),
                  atoi(getenv("FAULT_HALF")), getenv("FAULT_LOG"));
    unsetenv("FAULT_FOLDER");
}

/* The absolute path of an open file, "" where there is none. */
static const char *path_of(int fd, char *full)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, full, LONGEST - 1);
    full[length < 0 ? 0 : length] = 0;
    return full;
}

/* The absolute path of `path`, seen from the open folder `dir`. */
static const char *absolute(int dir, const char *path, char *full)
{
    char start[LONGEST] = "";
    if (path[0] != '/' && dir == AT_FDCWD && !getcwd(start, sizeof start))
        start[0] = 0;
    if (path[0] != '/' && dir != AT_FDCWD)
        path_of(dir, start);
    snprintf(full, LONGEST, "%s%s%s", start, path[0] == '/' ? "" : "/", path);
    return full;
}

static int below(const char *path)
{
    size_t length = strlen(folder);
    return strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0);
}

/* Count one call, and say what becomes of it. */
static enum verdict meet(const char *call, const char *path, size_t size, int needs_space)
{
    if (mode == OFF || !below(path))
        return GO_ON;
    long number = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (log_fd >= 0) {
        char line[LONGEST + 100];
        int length = snprintf(line, sizeof line, "%ld\t%s\t%d\t%s\n", number, call, needs_space, path);
        syscall(SYS_write, log_fd, line, length);
    }
    if (mode == TRACE || number < at)
        return GO_ON;
    if (number == at && half && size > 1 && mode != SIGNAL)
        return WRITE_HALF;
    if (mode == FAIL && needs_space) {
        errno = value;
        return REFUSE;
    }
    if (number == at && mode == KILL)
        kill(getpid(), SIGKILL);
    if (number == at && mode == SIGNAL)
        kill(getpid(), value);
    return GO_ON;
}

static ssize_t halved(ssize_t written)
{
    if (mode == KILL)
        kill(getpid(), SIGKILL);
    return written;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Whether opening changes anything: 2 creates (and needs space), 1 empties, 0 neither. */
static int changes(const char *full, int flags)
{
    struct stat status;
    if (stat(full, &status) != 0)
        return flags & O_CREAT ? 2 : 0;
    return flags & O_TRUNC ? 1 : 0;
}

static void note(const char *full, int flags)
{
    char line[LONGEST + 10];
    const char *what = (flags & O_ACCMODE) == O_WRONLY ? "write" : "open";
    int length = snprintf(line, sizeof line, "%s\t%s\n", what, full);
    if (below(full))
        syscall(SYS_write, note_fd, line, length);
}

static int may_open(const char *call, int dir, const char *path, int flags)
{
    char full[LONGEST];
    int before = errno;
    int what = mode == OFF ? 0 : changes(absolute(dir, path, full), flags);
    if (note_fd >= 0)
        note(absolute(dir, path, full), flags);
    errno = before;
    return !what || meet(call, full, 0, what == 2) != REFUSE;
}

#define MODE_OF(flags) \
    va_list more; \
    va_start(more, flags); \
    mode_t mode_bits = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
    va_end(more);

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        MODE_OF(flags) \
        return may_open("open", AT_FDCWD, path, flags) ? REAL(name)(path, flags, mode_bits) : -1; \
    }
#define OPENAT(name) \
    int name(int dir, const char *path, int flags, ...) \
    { \
        MODE_OF(flags) \
        return may_open("open", dir, path, flags) ? REAL(name)(dir, path, flags, mode_bits) : -1; \
    }
#define CREAT(name) \
    int name(const char *path, mode_t bits) \
    { \
        return may_open("open", AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC) ? REAL(name)(path, bits) : -1; \
    }
#define FOPEN(name) \
    FILE *name(const char *path, const char *how) \
    { \
        int flags = how[0] == 'w' ? O_WRONLY | O_CREAT | O_TRUNC : how[0] == 'a' ? O_WRONLY | O_CREAT : 0; \
        return may_open("open", AT_FDCWD, path, flags) ? REAL(name)(path, how) : NULL; \
    }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64) CREAT(creat) CREAT(creat64) FOPEN(fopen) FOPEN(fopen64)

/* Calls that write `count` bytes to an open file; `partly` is the same call with half of them. */
#define WRITING(name, result, signature, fd, count, whole, partly) \
    result name signature \
    { \
        char full[LONGEST]; \
        int before = errno; \
        enum verdict verdict = mode == OFF ? GO_ON : meet(#name, path_of(fd, full), count, 1); \
        if (verdict == REFUSE) \
            return -1; \
        errno = before; \
        return verdict == GO_ON ? REAL(name) whole : halved(REAL(name) partly); \
    }
WRITING(write, ssize_t, (int fd, const void *from, size_t n), fd, n, (fd, from, n), (fd, from, n / 2))
WRITING(pwrite, ssize_t, (int fd, const void *from, size_t n, off_t to), fd, n, (fd, from, n, to), (fd, from, n / 2, to))
WRITING(pwrite64, ssize_t, (int fd, const void *from, size_t n, off64_t to), fd, n, (fd, from, n, to), (fd, from, n / 2, to))
WRITING(writev, ssize_t, (int fd, const struct iovec *from, int n), fd, n, (fd, from, n), (fd, from, n / 2))
WRITING(pwritev, ssize_t, (int fd, const struct iovec *from, int n, off_t to), fd, n, (fd, from, n, to), (fd, from, n / 2, to))
WRITING(copy_file_range, ssize_t, (int in, off64_t *from, int out, off64_t *to, size_t n, unsigned flags), out, n,
        (in, from, out, to, n, flags), (in, from, out, to, n / 2, flags))
ssize_t sendfile(int out, int in, off_t *from, size_t n);
ssize_t sendfile64(int out, int in, off64_t *from, size_t n);
WRITING(sendfile, ssize_t, (int out, int in, off_t *from, size_t n), out, n, (out, in, from, n), (out, in, from, n / 2))
WRITING(sendfile64, ssize_t, (int out, int in, off64_t *from, size_t n), out, n, (out, in, from, n), (out, in, from, n / 2))
#define UNHALVED(name, result, signature, fd, whole) WRITING(name, result, signature, fd, 0, whole, whole)
UNHALVED(ftruncate, int, (int fd, off_t size), fd, (fd, size))
UNHALVED(ftruncate64, int, (int fd, off64_t size), fd, (fd, size))
UNHALVED(fallocate, int, (int fd, int how, off_t from, off_t size), fd, (fd, how, from, size))
UNHALVED(fallocate64, int, (int fd, int how, off64_t from, off64_t size), fd, (fd, how, from, size))

/* Whether a call on a name changes anything: one that makes it (and needs space) only where it is not there yet. */
static int is_news(const char *full, int makes)
{
    struct stat status;
    return !makes || lstat(full, &status) != 0;
}

/* Calls on names. Only making a name needs space: a full disk still renames and removes. */
#define NAMING(name, signature, dir, path, makes, whole) \
    int name signature \
    { \
        char full[LONGEST]; \
        int before = errno; \
        if (mode != OFF && is_news(absolute(dir, path, full), makes) && meet(#name, full, 0, makes) == REFUSE) \
            return -1; \
        errno = before; \
        return REAL(name) whole; \
    }
NAMING(mkdir, (const char *path, mode_t bits), AT_FDCWD, path, 1, (path, bits))
NAMING(mkdirat, (int dir, const char *path, mode_t bits), dir, path, 1, (dir, path, bits))
NAMING(link, (const char *from, const char *to), AT_FDCWD, to, 1, (from, to))
NAMING(linkat, (int dir, const char *from, int todir, const char *to, int flags), todir, to, 1, (dir, from, todir, to, flags))
NAMING(symlink, (const char *from, const char *to), AT_FDCWD, to, 1, (from, to))
NAMING(symlinkat, (const char *from, int todir, const char *to), todir, to, 1, (from, todir, to))
NAMING(rename, (const char *from, const char *to), AT_FDCWD, to, 0, (from, to))
NAMING(renameat, (int dir, const char *from, int todir, const char *to), todir, to, 0, (dir, from, todir, to))
NAMING(renameat2, (int dir, const char *from, int todir, const char *to, unsigned flags), todir, to, 0, (dir, from, todir, to, flags))
NAMING(unlink, (const char *path), AT_FDCWD, path, 0, (path))
NAMING(unlinkat, (int dir, const char *path, int flags), dir, path, 0, (dir, path, flags))
NAMING(rmdir, (const char *path), AT_FDCWD, path, 0, (path))

/* Once it is full, the disk says so. */
#define ASKING(name, kind, signature, path, whole) \
    int name signature \
    { \
        char full[LONGEST]; \
        int done = REAL(name) whole; \
        if (done == 0 && mode == FAIL && calls >= at && below(path)) \
            status->f_bfree = status->f_bavail = 0; \
        return done; \
    }
ASKING(statvfs, statvfs, (const char *path, struct statvfs *status), absolute(AT_FDCWD, path, full), (path, status))
ASKING(fstatvfs, statvfs, (int fd, struct statvfs *status), path_of(fd, full), (fd, status))
ASKING(statvfs64, statvfs64, (const char *path, struct statvfs64 *status), absolute(AT_FDCWD, path, full), (path, status))
ASKING(fstatvfs64, statvfs64, (int fd, struct statvfs64 *status), path_of(fd, full), (fd, status))
