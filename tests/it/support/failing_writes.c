/* Stands before the C library's write() and writev() and lets one call that writes to a regular file fail, or it and
 * all later ones. strace cannot tell those from the runtime's own wake-ups, which no system refuses.
 *
 * PACKVAULT_WRITES_FILE    where each such call is told, in strace's words
 * PACKVAULT_WRITES_PLACE   the call that fails, counted over all threads from 1; 0 for none
 * PACKVAULT_WRITES_ERROR   the number of its error; 0: it writes half of what it was given, as a call may
 * PACKVAULT_WRITES_ON      set: all later ones fail as well
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long calls;

static void tell(int fd, long nth, int fails) {
    const char *path = getenv("PACKVAULT_WRITES_FILE");
    char line[128];
    int saved = errno;
    int told = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (told >= 0) {
        int length = snprintf(line, sizeof line, "1 write(%d<file>) number %ld%s\n", fd, nth, fails ? " (INJECTED)" : "");
        syscall(SYS_write, told, line, length);
        close(told);
    }
    errno = saved;
}

/* Returns 0 where the call is made as asked, -1 where it fails with errno, 1 where it is cut short. */
static int verdict(int fd) {
    struct stat found;
    const char *wanted = getenv("PACKVAULT_WRITES_PLACE"), *error = getenv("PACKVAULT_WRITES_ERROR");
    if (!wanted || fstat(fd, &found) != 0 || !S_ISREG(found.st_mode)) {
        return 0;
    }
    long nth = atomic_fetch_add(&calls, 1) + 1, place = atol(wanted);
    int fails = place > 0 && (nth == place || (nth > place && getenv("PACKVAULT_WRITES_ON")));
    tell(fd, nth, fails);
    if (!fails) {
        return 0;
    }
    errno = error ? atoi(error) : EIO;
    return errno == 0 ? 1 : -1;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    int said = verdict(fd);
    if (said < 0) {
        return -1;
    }
    return syscall(SYS_write, fd, bytes, said && count > 1 ? count / 2 : count);
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
    int said = verdict(fd);
    if (said < 0) {
        return -1;
    }
    if (said && count > 0 && pieces[0].iov_len > 1) {
        return syscall(SYS_write, fd, pieces[0].iov_base, pieces[0].iov_len / 2);
    }
    return syscall(SYS_writev, fd, pieces, count);
}
