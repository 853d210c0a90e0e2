"""Processes whose wall clock is wrong by as much as a test says, and may jump at any moment.

A shared library, compiled here and loaded before all others, adds an offset to CLOCK_REALTIME and
nothing else: timers and the monotonic clock go on, as they do when somebody sets a computer's date.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long offset_s(void) {
    long offset = 0;
    FILE *file = fopen(getenv("SHIFTED_CLOCK_FILE"), "r");
    if (file) { if (fscanf(file, "%ld", &offset) != 1) offset = 0; fclose(file); }
    return offset;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(clock, now);
    if (!answer && clock == CLOCK_REALTIME) now->tv_sec += offset_s();
    return answer;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    int answer = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec; now->tv_usec = exact.tv_nsec / 1000;
    return answer;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
"""


class ShiftedClock:
    """A wall clock that is wrong by `shift` seconds in every process with its environment."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("needs a C compiler")
        self._offset, library = folder / "offset", folder / "shifted_clock.so"
        folder.mkdir()
        source = folder / "shifted_clock.c"
        source.write_text(SOURCE)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
        self.shift(0)
        self.environment = {
            "LD_PRELOAD": str(library),
            "SHIFTED_CLOCK_FILE": str(self._offset),
        }

    def shift(self, seconds: int) -> None:
        """From now on the clock is wrong by this much."""
        draft = self._offset.with_suffix(".draft")
        draft.write_text(str(seconds))
        draft.replace(self._offset)
