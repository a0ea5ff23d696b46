"""A file system that fails on demand: system calls of one process, by a small library that is loaded before libc.

`environment(directory, call=…, path=…, error=…)` compiles it (gcc is needed) and gives the variables for a process in
which the n-th matching call fails. With `after`, the call is made first and only then reported as failed: what a
network file system does when the answer to a request was lost and the request is repeated.
"""

from __future__ import annotations

import errno
import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int hits = 0;

/* Whether this call fails: the calls from FAULT_NTH on, FAULT_TIMES of them (0: all). */
static int fails(const char *call, const char *path) {
    const char *which = getenv("FAULT_CALL"), *part = getenv("FAULT_PATH");
    if (!which || !part || strcmp(which, call) || !strstr(path, part)) return 0;
    int nth = atoi(getenv("FAULT_NTH")), times = atoi(getenv("FAULT_TIMES"));
    hits++;
    return hits >= nth && (!times || hits < nth + times);
}
static int after(void) { return atoi(getenv("FAULT_AFTER")); }
static int told(void) { errno = atoi(getenv("FAULT_ERRNO")); return -1; }
static const char *name_of(int fd, char *buffer) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, buffer, PATH_MAX - 1);
    buffer[n < 0 ? 0 : n] = 0;
    return buffer;
}
#define REAL(name) dlsym(RTLD_NEXT, name)

int rename(const char *from, const char *to) {
    int (*real)(const char *, const char *) = REAL("rename");
    if (!fails("rename", to)) return real(from, to);
    if (after()) real(from, to);
    return told();
}
int link(const char *from, const char *to) {
    int (*real)(const char *, const char *) = REAL("link");
    if (!fails("link", to)) return real(from, to);
    if (after()) real(from, to);
    return told();
}
int unlink(const char *path) {
    int (*real)(const char *) = REAL("unlink");
    if (!fails("unlink", path)) return real(path);
    if (after()) real(path);
    return told();
}
int mkdir(const char *path, mode_t mode) {
    int (*real)(const char *, mode_t) = REAL("mkdir");
    if (!fails("mkdir", path)) return real(path, mode);
    if (after()) real(path, mode);
    return told();
}
int fsync(int fd) {
    char buffer[PATH_MAX];
    int (*real)(int) = REAL("fsync");
    return fails("fsync", name_of(fd, buffer)) ? told() : real(fd);
}
ssize_t write(int fd, const void *data, size_t size) {
    char buffer[PATH_MAX];
    ssize_t (*real)(int, const void *, size_t) = REAL("write");
    return fails("write", name_of(fd, buffer)) ? told() : real(fd, data, size);
}
static int opened(const char *call, const char *path, int flags, mode_t mode) {
    int (*real)(const char *, int, ...) = REAL(call);
    if ((flags & O_ACCMODE) != O_RDONLY && fails("open", path)) return told();
    return real(path, flags, mode);
}
int open(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);
    return opened("open", path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);
    return opened("open64", path, flags, mode);
}
"""


def environment(
    directory: Path,
    *,
    call: str,
    path: str,
    error: int = errno.ENOENT,
    nth: int = 1,
    times: int = 0,
    after: bool = False,
) -> dict[str, str]:
    """Variables for a process in which `call` fails for paths that contain `path`. Skips the test without gcc."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not there: no library can be made that lets system calls fail")
    library = directory / "failing.so"
    if not library.exists():
        source = directory / "failing.c"
        source.write_text(_SOURCE)
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-w", "-o", library, source, "-ldl"], check=True)
    return {
        "LD_PRELOAD": str(library),
        "FAULT_CALL": call,
        "FAULT_PATH": path,
        "FAULT_ERRNO": str(error),
        "FAULT_NTH": str(nth),
        "FAULT_TIMES": str(times),
        "FAULT_AFTER": str(int(after)),
    }
