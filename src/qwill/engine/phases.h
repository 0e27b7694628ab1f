// How threads share a pass: they share out the tasks of a phase, and a phase is over when its tasks are done, not when
// every thread has come by: a thread that the system has put to sleep (a busy or stolen processor) is not waited for.
#pragma once
#include <sched.h>
#include <stdatomic.h>
#include "rows.h"

// Tasks handed out and tasks done, on a cache line of their own.
typedef struct Phase {
    _Alignas(64) atomic_long taken;
    atomic_long done;
} Phase;

// Every thread walks through all phases in order: `for (i = take(p); i < total; i = another(p)) …; p = finish(p, total);`
INLINE int64_t take(Phase *p) { return atomic_fetch_add_explicit(&p->taken, 1, memory_order_relaxed); }

INLINE int64_t another(Phase *p) {
    atomic_fetch_add_explicit(&p->done, 1, memory_order_release);
    return take(p);
}

// Tasks that stream weights: each thread has a share of them, one beside the other in memory, because two that take turns
// along one stream get two thirds of the memory's speed. Who is done with his share helps the others.
typedef struct {
    Phase *first;
    atomic_long *taken;  // [threads][phases], of each share
    int64_t phases, thread, threads, did;  // did: tasks of the present phase
} Team;

INLINE int64_t share_start(int64_t total, int64_t thread, const Team *a) { return total * thread / a->threads; }

INLINE int64_t take_near(const Team *a, const Phase *p, int64_t total) {
    for (int64_t i = 0; i < a->threads; i++) {
        int64_t owner = (a->thread + i) % a->threads;
        int64_t from = share_start(total, owner, a), size = share_start(total, owner + 1, a) - from;
        atomic_long *taken = a->taken + owner * a->phases + (p - a->first);
        if (i && atomic_load_explicit(taken, memory_order_relaxed) >= size) continue;
        int64_t task = atomic_fetch_add_explicit(taken, 1, memory_order_relaxed);
        if (task < size) return from + task;
    }
    return total;
}

INLINE Phase *finish(Phase *p, int64_t total) {
    for (int spins = 0; atomic_load_explicit(&p->done, memory_order_acquire) < total; spins++) {
        if (spins > 10000) sched_yield();
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    return p + 1;
}

// Tasks done are counted for all at the end: a counter that threads fetch from each other after every task would halt the
// streams.
INLINE int64_t another_near(Team *a, const Phase *p, int64_t total) {
    a->did++;
    return take_near(a, p, total);
}

INLINE Phase *finish_near(Team *a, Phase *p, int64_t total) {
    atomic_fetch_add_explicit(&p->done, a->did, memory_order_release);
    a->did = 0;
    return finish(p, total);
}
