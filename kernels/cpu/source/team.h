// The threads of one parallel region: a barrier that spins before it yields, and loops whose tasks they share.
#pragma once

#include <immintrin.h>
#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

namespace tiercel {

// Shared by a team of so many threads at most. The last thread to arrive at the barrier resets the loop's counters, so
// there is one loop between two barriers.
struct alignas(64) TeamState {
    // Of a thread's own tasks, how many are taken: from the front in the lower half, from behind in the upper.
    struct alignas(64) Own {
        std::atomic<uint64_t> taken{0};
    };

    explicit TeamState(int most) : own(new Own[static_cast<size_t>(most)]) {}

    std::atomic<int32_t> arrived{0};
    std::atomic<int32_t> phase{0};
    alignas(64) std::atomic<int64_t> next_task{0};
    std::unique_ptr<Own[]> own;
};

// A thread's view of its team. Lives within an OpenMP parallel region.
class Team {
public:
    explicit Team(TeamState& state) : Team(state, omp_get_thread_num(), omp_get_num_threads()) {}
    Team(TeamState& state, int thread, int size) : thread(thread), size(size), state_(state) {}

    const int thread;
    const int size;

    // Everything that any thread wrote before it is visible to all after it. Who waits calls `meanwhile` now and then.
    void barrier() {
        barrier([] {});
    }
    template <typename Meanwhile>
    void barrier(const Meanwhile& meanwhile) {
        if (size == 1) return reset();
        const int32_t phase = state_.phase.load(std::memory_order_relaxed);
        if (state_.arrived.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
            state_.arrived.store(0, std::memory_order_relaxed);
            reset();
            state_.phase.store(phase + 1, std::memory_order_release);
            return;
        }
        // Sleeping costs tens of microseconds to wake up from, and phases are shorter; but where the machine has
        // fewer free cores than threads, the one that is waited for needs this one's.
        for (int spins = 0; state_.phase.load(std::memory_order_acquire) == phase; ++spins) {
            meanwhile();
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

    // Calls task(thread, i) for each thread and each i below count(thread). Each thread does its own in order; one that is
    // done with them does others', from the last on.
    template <typename Count, typename Task>
    void share_own(const Count& count, const Task& task) {
        constexpr uint64_t kFront = 1, kBehind = uint64_t{1} << 32;
        for (int other = 0; other < size; ++other) {
            const int owner = (thread + other) % size;
            const int64_t tasks = count(owner);
            for (;;) {
                const uint64_t taken =
                    state_.own[owner].taken.fetch_add(other == 0 ? kFront : kBehind, std::memory_order_relaxed);
                const int64_t front = static_cast<int64_t>(taken & 0xffffffffu), behind = static_cast<int64_t>(taken >> 32);
                if (front + behind >= tasks) break;
                task(owner, other == 0 ? front : tasks - 1 - behind);
            }
        }
    }

private:
    void reset() {
        state_.next_task.store(0, std::memory_order_relaxed);
        for (int i = 0; i < size; ++i) state_.own[i].taken.store(0, std::memory_order_relaxed);
    }

    TeamState& state_;
};

}  // namespace tiercel
