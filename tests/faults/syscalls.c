/* Between a process and its kernel: counts what it does to the files below one folder and
 * what it sends to its peers, and kills it, fails it or sets its clock at a given point.
 *
 * Loaded by LD_PRELOAD; it does nothing until faults_begin. SQLite writes from C, so only
 * here can one stand before and after each of its writes. Every call is made under one
 * lock, so the record has them in the order in which they took effect.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { OPEN = 1, CLOSE, WRITE, SYNC, TRUNCATE, RENAME, LINK, UNLINK, MKDIR, RMDIR, SEND, MARK };
enum { BEFORE, HALF, AFTER };
enum { FDS = 4096 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[4096], root[4097]; /* the second with a slash behind it */
static size_t root_length;
static int record = -1;
static long points, kill_at = -1, failing_from = -1, failing_times, failing_seen;
static int how, armed_kinds, failing_kinds, failing_error;
static char failing_name[256];
static long clock_seconds;
static char *ours[FDS]; /* the names of files below root, by descriptor */

static void *found(void **kept, const char *name) {
    if (!*kept) *kept = dlsym(RTLD_NEXT, name);
    return *kept;
}
#define REAL(name) ((__typeof__(real_##name))found((void **)&real_##name, #name))
#define HAVE(type, name, ...) static type (*real_##name)(__VA_ARGS__)

HAVE(int, open, const char *, int, ...);
HAVE(int, open64, const char *, int, ...);
HAVE(int, openat, int, const char *, int, ...);
HAVE(int, openat64, int, const char *, int, ...);
HAVE(int, close, int);
HAVE(ssize_t, write, int, const void *, size_t);
HAVE(ssize_t, pwrite, int, const void *, size_t, off_t);
HAVE(ssize_t, pwrite64, int, const void *, size_t, off64_t);
HAVE(int, fsync, int);
HAVE(int, fdatasync, int);
HAVE(int, ftruncate, int, off_t);
HAVE(int, ftruncate64, int, off64_t);
HAVE(int, posix_fallocate, int, off_t, off_t);
HAVE(int, rename, const char *, const char *);
HAVE(int, link, const char *, const char *);
HAVE(int, unlink, const char *);
HAVE(int, mkdir, const char *, mode_t);
HAVE(int, rmdir, const char *);
HAVE(ssize_t, send, int, const void *, size_t, int);
HAVE(int, clock_gettime, clockid_t, struct timespec *);

/* ------------------------------------------------------------------------ control */

/* From here on: files in the folder `below` (absolute) count. At point `at`, from 1, the process
 * dies: before the call, after half of what it writes, or after it. */
void faults_begin(const char *below, int record_fd, long at, int when) {
    snprintf(folder, sizeof folder, "%s", below);
    snprintf(root, sizeof root, "%s/", folder);
    root_length = strlen(root);
    record = record_fd;
    kill_at = at;
    how = when;
}

/* The next call of these kinds is the last point. */
void faults_arm(int kinds) { armed_kinds = kinds; }

/* Calls of these kinds (a mask of 1 << kind) on files whose name ends in `name` fail with
 * `error`, from the `from`th on, `times` of them. */
void faults_fail(int kinds, const char *name, long from, long times, int error) {
    snprintf(failing_name, sizeof failing_name, "%s", name);
    failing_kinds = kinds;
    failing_from = from;
    failing_times = times;
    failing_error = error;
}

void faults_clock(long seconds) { clock_seconds = seconds; }

long faults_points(void) { return points; }

long faults_failed(void) {
    long n = failing_seen - failing_from + 1;
    return failing_from < 1 || n < 0 ? 0 : n < failing_times ? n : failing_times;
}

/* ------------------------------------------------------------------------ the record */

static void note(int kind, int fd, int64_t at, const void *a, size_t na, const void *b, size_t nb) {
    struct { int32_t kind, fd; int64_t at; uint32_t na, nb; } head = {kind, fd, at, na, nb};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)a, na}, {(void *)b, nb}};
    if (record >= 0 && syscall(SYS_writev, record, parts, 3) != (long)(sizeof head + na + nb))
        abort();
}

void faults_mark(const char *text) {
    pthread_mutex_lock(&lock);
    note(MARK, -1, 0, text, strlen(text), NULL, 0);
    pthread_mutex_unlock(&lock);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static int ends_in(const char *path) {
    size_t n = strlen(path), m = strlen(failing_name);
    return n >= m && !strcmp(path + n - m, failing_name);
}

/* Whether the call is to fail; the process may not live to know. Takes the lock. */
static int enter(int kind, int named) {
    pthread_mutex_lock(&lock);
    points++;
    if (armed_kinds & 1 << kind) {
        kill_at = points;
        armed_kinds = 0;
    }
    if (points == kill_at && (how == BEFORE || (how == HALF && kind != WRITE && kind != SEND))) die();
    if (!named || !(failing_kinds & 1 << kind)) return 0;
    failing_seen++;
    return failing_seen >= failing_from && failing_seen < failing_from + failing_times;
}

static void leave(void) {
    if (points == kill_at && how == AFTER) die();
    int kept = errno;
    pthread_mutex_unlock(&lock);
    errno = kept;
}

static int refused(void) {
    errno = failing_error;
    return -1;
}

static int below(const char *path) {
    /* Whoever is counted uses absolute paths; the model of the disk notices if not. */
    return root_length && (!strncmp(path, root, root_length) || !strcmp(path, folder));
}

static const char *known(int fd) { return fd >= 0 && fd < FDS ? ours[fd] : NULL; }

/* --------------------------------------------------------------------- files by name */

static int opened(int fd, const char *path, int flags) {
    if (fd >= 0 && fd < FDS) {
        free(ours[fd]);
        ours[fd] = strdup(path);
        note(OPEN, fd, flags, path, strlen(path), NULL, 0);
    }
    return fd;
}

#define OPEN_LIKE(function, fixed_types, fixed)                                        \
    int function fixed_types {                                                         \
        mode_t mode = 0;                                                               \
        if (flags & (O_CREAT | O_TMPFILE)) {                                           \
            va_list rest;                                                              \
            va_start(rest, flags);                                                     \
            mode = va_arg(rest, mode_t);                                               \
            va_end(rest);                                                              \
        }                                                                              \
        if (!below(path)) return REAL(function) fixed;                                 \
        int changes = flags & (O_CREAT | O_TRUNC);                                     \
        int fd = -1;                                                                   \
        if (changes && enter(OPEN, ends_in(path))) fd = refused();                     \
        else {                                                                         \
            if (!changes) pthread_mutex_lock(&lock);                                   \
            fd = opened(REAL(function) fixed, path, flags);                            \
        }                                                                              \
        if (changes) leave();                                                          \
        else pthread_mutex_unlock(&lock);                                              \
        return fd;                                                                     \
    }
OPEN_LIKE(open, (const char *path, int flags, ...), (path, flags, mode))
OPEN_LIKE(open64, (const char *path, int flags, ...), (path, flags, mode))
OPEN_LIKE(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode))
OPEN_LIKE(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode))

int close(int fd) {
    if (known(fd)) {
        pthread_mutex_lock(&lock);
        free(ours[fd]);
        ours[fd] = NULL;
        note(CLOSE, fd, 0, NULL, 0, NULL, 0);
        int done = REAL(close)(fd);
        pthread_mutex_unlock(&lock);
        return done;
    }
    return REAL(close)(fd);
}

#define ONE_NAME(function, types, call, path, kind)                                    \
    int function types {                                                               \
        if (!below(path)) return REAL(function) call;                                  \
        int done = enter(kind, ends_in(path)) ? refused() : REAL(function) call;       \
        if (!done) note(kind, -1, 0, path, strlen(path), NULL, 0);                     \
        leave();                                                                       \
        return done;                                                                   \
    }
ONE_NAME(unlink, (const char *path), (path), path, UNLINK)
ONE_NAME(rmdir, (const char *path), (path), path, RMDIR)
ONE_NAME(mkdir, (const char *path, mode_t mode), (path, mode), path, MKDIR)

#define TWO_NAMES(function, kind)                                                      \
    int function(const char *from, const char *to) {                                   \
        if (!below(to)) return REAL(function)(from, to);                               \
        int done = enter(kind, ends_in(to)) ? refused() : REAL(function)(from, to);    \
        if (!done) note(kind, -1, 0, from, strlen(from), to, strlen(to));              \
        leave();                                                                       \
        return done;                                                                   \
    }
TWO_NAMES(rename, RENAME)
TWO_NAMES(link, LINK)

/* --------------------------------------------------------------- files by descriptor */

/* `at` < 0: where the file stands. A disk that fills up first takes a part. */
static ssize_t put(int fd, const void *data, size_t n, off64_t at) {
    int fails = enter(WRITE, ends_in(known(fd)));
    int first = fails && failing_seen == failing_from && failing_error == ENOSPC && n > 1;
    int half = points == kill_at && how == HALF;
    size_t some = half || first ? n / 2 : n;
    ssize_t done;
    if (fails && !first) done = refused();
    else if (at >= 0) done = REAL(pwrite64)(fd, data, some, at);
    else done = REAL(write)(fd, data, some);
    if (done > 0) note(WRITE, fd, at >= 0 ? at : lseek(fd, 0, SEEK_CUR) - done, data, done, NULL, 0);
    if (half) die();
    leave();
    return done;
}

ssize_t write(int fd, const void *data, size_t n) {
    return known(fd) ? put(fd, data, n, -1) : REAL(write)(fd, data, n);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    return known(fd) ? put(fd, data, n, at) : REAL(pwrite)(fd, data, n, at);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    return known(fd) ? put(fd, data, n, at) : REAL(pwrite64)(fd, data, n, at);
}

#define ON_FD(function, types, call, kind, value)                                      \
    int function types {                                                               \
        if (!known(fd)) return REAL(function) call;                                    \
        int done = enter(kind, ends_in(known(fd))) ? refused() : REAL(function) call;      \
        if (!done) note(kind, fd, value, NULL, 0, NULL, 0);                            \
        leave();                                                                       \
        return done;                                                                   \
    }
ON_FD(fsync, (int fd), (fd), SYNC, 0)
ON_FD(fdatasync, (int fd), (fd), SYNC, 0)
ON_FD(ftruncate, (int fd, off_t length), (fd, length), TRUNCATE, length)
ON_FD(ftruncate64, (int fd, off64_t length), (fd, length), TRUNCATE, length)

/* Room asked for ahead: a full disk says so here. It isn't recorded: who is recorded asks for none. */
int posix_fallocate(int fd, off_t at, off_t n) {
    if (!known(fd)) return REAL(posix_fallocate)(fd, at, n);
    int error = enter(WRITE, ends_in(known(fd))) ? failing_error : REAL(posix_fallocate)(fd, at, n);
    leave();
    return error;
}

/* ------------------------------------------------------------------- peers and clock */

ssize_t send(int fd, const void *data, size_t n, int flags) {
    struct sockaddr_storage own;
    socklen_t size = sizeof own;
    /* An event loop wakes itself through a pair of local sockets: those aren't peers. */
    if (!root_length || getsockname(fd, (struct sockaddr *)&own, &size) || own.ss_family != AF_INET)
        return REAL(send)(fd, data, n, flags);
    enter(SEND, 0);
    int half = points == kill_at && how == HALF;
    ssize_t done = REAL(send)(fd, data, half ? n / 2 : n, flags);
    if (done > 0) note(SEND, fd, 0, data, done, NULL, 0);
    if (half) die();
    leave();
    return done;
}

int clock_gettime(clockid_t which, struct timespec *now) {
    int done = REAL(clock_gettime)(which, now);
    if (!done && which == CLOCK_REALTIME) now->tv_sec += clock_seconds;
    return done;
}
