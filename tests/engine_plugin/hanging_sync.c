/* Preloaded into an engine: its syncs wait while the file that SYNC_HANGS_WHILE names exists. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static void hang(void) {
    const char *flag = getenv("SYNC_HANGS_WHILE");
    while (flag && access(flag, F_OK) == 0) usleep(20000);
}

int fsync(int fd) {
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    hang();
    return next(fd);
}

int fdatasync(int fd) {
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    hang();
    return next(fd);
}
