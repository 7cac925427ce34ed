// A few threads that share the tasks of a loop. Whoever calls works along.
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <immintrin.h>

namespace moonshine {

constexpr int SPINS = 4000;  // 50 to 200 us: the next loop of a pass comes sooner; behind the last one the core belongs to others

class Team {
  public:
    // Throws std::system_error where there cannot be so many threads.
    explicit Team(int threads) {
        try {
            for (int index = 1; index < threads; ++index) helpers_.emplace_back([this] { help(); });
        } catch (...) {
            end();
            throw;
        }
    }

    ~Team() { end(); }

    int size() const { return 1 + static_cast<int>(helpers_.size()); }

    // Calls function(task) for each task from 0 on, in any order, on any of the threads. One caller at a time. Throws what one of
    // them threw, once all have ended.
    template <class Function>
    void each(int tasks, const Function& function) {
        if (helpers_.empty() || tasks < 2) {
            for (int task = 0; task < tasks; ++task) function(task);
            return;
        }
        call_ = [](const void* closure, int task) { (*static_cast<const Function*>(closure))(task); };
        closure_ = &function;
        tasks_ = tasks;
        next_.store(0);
        busy_.store(static_cast<int>(helpers_.size()));
        {
            const std::lock_guard<std::mutex> lock(mutex_);  // a helper about to sleep must not miss it
            round_.fetch_add(1);
        }
        wake_.notify_all();
        work();
        for (int spin = 0; busy_.load(std::memory_order_acquire); ++spin) {  // one that has lost its core needs this one
            if (spin < SPINS)
                _mm_pause();
            else
                std::this_thread::yield();
        }
        if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
    }

  private:
    void end() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            ending_ = true;
            round_.fetch_add(1);
        }
        wake_.notify_all();
        for (std::thread& helper : helpers_) helper.join();
    }

    void work() {
        try {
            for (int task; (task = next_.fetch_add(1)) < tasks_;) call_(closure_, task);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(mutex_);
            thrown_ = std::current_exception();
        }
    }

    void help() {
        for (long seen = 0;;) {
            for (int spin = 0; spin < SPINS && round_.load(std::memory_order_acquire) == seen; ++spin) _mm_pause();
            if (round_.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return round_.load() != seen; });
            }
            ++seen;
            if (ending_) return;
            work();
            busy_.fetch_sub(1, std::memory_order_release);
        }
    }

    std::vector<std::thread> helpers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<long> round_{0};
    std::atomic<int> next_{0}, busy_{0};
    std::atomic<bool> ending_{false};
    std::exception_ptr thrown_;
    int tasks_ = 0;
    void (*call_)(const void*, int) = nullptr;
    const void* closure_ = nullptr;
};

}  // namespace moonshine
