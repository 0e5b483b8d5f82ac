// The threads of one parallel region: loops whose tasks they share, and a barrier that waits for the tasks, not for the
// threads. Where other processes want the cores, a thread is taken away at any time: the others do its tasks, and when it
// comes back it passes by the loops that are over. Only a task that it had begun is waited for.
#pragma once

#include <immintrin.h>
#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

namespace tiercel {

// Which of a loop's tasks are taken, for one loop after the other.
class alignas(64) Tickets {
public:
    // A task of `count` of a loop, from the front or from behind; -1 if none is left. Loops ascend.
    int64_t take(uint64_t loop, int64_t count, bool from_behind) {
        uint64_t seen = taken_.load(std::memory_order_relaxed);
        for (;;) {
            const uint64_t last = seen >> (2 * kBits);
            if (last > loop) return -1;
            const uint64_t front = last < loop ? 0 : seen & kMask, behind = last < loop ? 0 : seen >> kBits & kMask;
            if (static_cast<int64_t>(front + behind) >= count) return -1;
            const uint64_t next = loop << (2 * kBits) | (behind + from_behind) << kBits | (front + !from_behind);
            if (taken_.compare_exchange_weak(seen, next, std::memory_order_relaxed))
                return static_cast<int64_t>(from_behind ? static_cast<uint64_t>(count) - 1 - behind : front);
        }
    }

private:
    static constexpr int kBits = 23;  // of either number of tasks; the others are the loop's number
    static constexpr uint64_t kMask = (uint64_t{1} << kBits) - 1;
    std::atomic<uint64_t> taken_{0};
};

// Shared by a team of so many threads at most.
struct TeamState {
    explicit TeamState(int most) : own(new Tickets[static_cast<size_t>(most)]) {}

    alignas(64) std::atomic<int64_t> done{0};  // tasks of all loops
    Tickets tickets;
    std::unique_ptr<Tickets[]> own;
};

// A thread's view of its team. Lives within an OpenMP parallel region. All threads make the same loops and barriers in the
// same order, one loop between two barriers at most; between them they do nothing that another one needs.
class Team {
public:
    explicit Team(TeamState& state) : Team(state, omp_get_thread_num(), omp_get_num_threads()) {}
    Team(TeamState& state, int thread, int size) : thread(thread), size(size), state_(state) {}

    const int thread;
    const int size;

    // All tasks of the loops before it are done, and what they wrote is visible. Who waits calls `meanwhile` now and then.
    void barrier() {
        barrier([] {});
    }
    template <typename Meanwhile>
    void barrier(const Meanwhile& meanwhile) {
        ++loop_;
        if (size == 1) return;
        // Sleeping costs tens of microseconds to wake up from, and loops are shorter; but where the machine has fewer
        // free cores than threads, the one that is waited for needs this one's.
        for (int spins = 0; state_.done.load(std::memory_order_acquire) < expected_; ++spins) {
            meanwhile();
            if (spins < 500) _mm_pause();
            else sched_yield();
        }
    }

    // Calls task(i) once for each i below count, on whichever thread is free. No barrier at the end.
    template <typename Task>
    void share(int64_t count, const Task& task) {
        int64_t finished = 0;
        for (int64_t i = take(count); i < count; i = take(count), ++finished) task(i);
        end_loop(finished, count);
    }

    // Calls task(i, next) likewise, with the one that this thread will do next, or `count`: as long as there are many
    // left, it is taken ahead.
    template <typename Task>
    void share_ahead(int64_t count, const Task& task) {
        int64_t finished = 0;
        for (int64_t i = take(count); i < count; ++finished) {
            const bool many = i + 3 * size < count;
            const int64_t next = many ? take(count) : count;
            task(i, next);
            i = many ? next : take(count);
        }
        end_loop(finished, count);
    }

    // Calls task(thread, i) for each thread and each i below count(thread). Each thread does its own in order; one that is
    // done with them does others', from the last on.
    template <typename Count, typename Task>
    void share_own(const Count& count, const Task& task) {
        int64_t finished = 0, all = 0;
        for (int other = 0; other < size; ++other) {
            const int owner = (thread + other) % size;
            const int64_t tasks = count(owner);
            all += tasks;
            for (int64_t i; (i = state_.own[owner].take(loop_, tasks, other > 0)) >= 0; ++finished) task(owner, i);
        }
        end_loop(finished, all);
    }

private:
    int64_t take(int64_t count) {
        const int64_t i = state_.tickets.take(loop_, count, false);
        return i < 0 ? count : i;
    }

    void end_loop(int64_t finished, int64_t count) {
        expected_ += count;
        if (finished > 0) state_.done.fetch_add(finished, std::memory_order_acq_rel);
    }

    TeamState& state_;
    uint64_t loop_ = 0;
    int64_t expected_ = 0;  // tasks of the loops so far
};

}  // namespace tiercel
