/* Has a program believe in another time of day. It is loaded before the C library, whose functions for CLOCK_REALTIME it
 * stands for; clocks that nobody can set are as they are. The difference to the true time, in nanoseconds, stands in the file
 * that COORD_TEST_CLOCK names, twice, so that half of a change is never read.
 *
 * Not reached are waits until a time of day: they end when the true time comes. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *difference;

__attribute__((constructor)) static void look(void)
{
    const char *path = getenv("COORD_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *memory = mmap(NULL, 2 * sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    if (memory != MAP_FAILED)
        difference = memory;
    close(file);
}

static void shift(struct timespec *time)
{
    int64_t first, second, sum;
    if (!difference)
        return;
    do {
        first = difference[0];
        second = difference[1];
    } while (first != second);
    sum = time->tv_nsec + first % 1000000000;
    time->tv_sec += first / 1000000000;
    if (sum < 0) {
        sum += 1000000000;
        time->tv_sec -= 1;
    } else if (sum >= 1000000000) {
        sum -= 1000000000;
        time->tv_sec += 1;
    }
    time->tv_nsec = sum;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        shift(time);
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec time;
    struct timezone *asked = zone;
    if (clock_gettime(CLOCK_REALTIME, &time) != 0)
        return -1;
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    if (asked)
        asked->tz_minuteswest = asked->tz_dsttime = 0;
    return 0;
}

time_t time(time_t *now)
{
    struct timespec time;
    if (clock_gettime(CLOCK_REALTIME, &time) != 0)
        return -1;
    if (now)
        *now = time.tv_sec;
    return time.tv_sec;
}
