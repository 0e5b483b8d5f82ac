// The threads of one parallel region: a barrier that spins before it yields, and loops whose tasks they share.
#pragma once

#include <immintrin.h>
#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace tiercel {

// Shared by a team. The last thread to arrive at the barrier resets the loop's counter, so there is one loop between
// two barriers.
struct alignas(64) TeamState {
    std::atomic<int32_t> arrived{0};
    std::atomic<int32_t> phase{0};
    alignas(64) std::atomic<int64_t> next_task{0};
};

// A thread's view of its team. Lives within an OpenMP parallel region.
class Team {
public:
    explicit Team(TeamState& state) : Team(state, omp_get_thread_num(), omp_get_num_threads()) {}
    Team(TeamState& state, int thread, int size) : thread(thread), size(size), state_(state) {}

    const int thread;
    const int size;

    // Everything that any thread wrote before it is visible to all after it.
    void barrier() {
        if (size == 1) {
            state_.next_task.store(0, std::memory_order_relaxed);
            return;
        }
        const int32_t phase = state_.phase.load(std::memory_order_relaxed);
        if (state_.arrived.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
            state_.arrived.store(0, std::memory_order_relaxed);
            state_.next_task.store(0, std::memory_order_relaxed);
            state_.phase.store(phase + 1, std::memory_order_release);
            return;
        }
        // Sleeping costs tens of microseconds to wake up from, and phases are shorter; but where the machine has
        // fewer free cores than threads, the one that is waited for needs this one's.
        for (int spins = 0; state_.phase.load(std::memory_order_acquire) == phase; ++spins) {
            if (spins < 500) _mm_pause();
            else sched_yield();
        }
    }

    // Calls task(i) once for each i below count, on whichever thread is free. No barrier at the end; there must be one
    // before the next loop.
    template <typename Task>
    void share(int64_t count, const Task& task) {
        for (;;) {
            const int64_t i = state_.next_task.fetch_add(1, std::memory_order_relaxed);
            if (i >= count) return;
            task(i);
        }
    }

    // Calls task(i, next) likewise, with the one that this thread will do next, or `count`: as long as there are many
    // left, it is taken ahead.
    template <typename Task>
    void share_ahead(int64_t count, const Task& task) {
        const auto take = [&] { return std::min(count, state_.next_task.fetch_add(1, std::memory_order_relaxed)); };
        for (int64_t i = take(); i < count;) {
            const bool many = i + 3 * size < count;
            const int64_t next = many ? take() : count;
            task(i, next);
            i = many ? next : take();
        }
    }

private:
    TeamState& state_;
};

}  // namespace tiercel
