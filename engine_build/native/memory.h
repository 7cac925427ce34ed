// Arrays that are made and given back many times in a pass: their memory is kept, for a page that is new costs more than its use.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

namespace moonshine {

constexpr size_t BOUNDARY = 64;  // bytes: a line of the cache, and the longest vector

// Memory of powers of two, kept by size. Used from any thread.
class Store {
  public:
    static Store& shared() {
        static Store* store = new Store;  // never destroyed: threads may outlive what is
        return *store;
    }

    void* take(size_t bytes) {
        std::vector<void*>& kept = kept_[class_of(bytes)];
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (!kept.empty()) {
                void* memory = kept.back();
                kept.pop_back();
                return memory;
            }
        }
        void* memory = std::aligned_alloc(BOUNDARY, size_t(1) << class_of(bytes));
        if (memory == nullptr) throw std::bad_alloc();
        return memory;
    }

    void give_back(void* memory, size_t bytes) {
        const std::lock_guard<std::mutex> lock(mutex_);
        kept_[class_of(bytes)].push_back(memory);
    }

    // What is not in use goes back to the system.
    void clear() {
        const std::lock_guard<std::mutex> lock(mutex_);
        for (std::vector<void*>& kept : kept_) {
            for (void* memory : kept) std::free(memory);
            kept.clear();
        }
    }

  private:
    static int class_of(size_t bytes) { return bytes <= 4096 ? 12 : 64 - __builtin_clzll(bytes - 1); }

    std::mutex mutex_;
    std::vector<void*> kept_[64];
};

template <class Number>
struct GiveBack {
    size_t bytes = 0;  // 0: not the store's
    void operator()(Number* memory) const { bytes ? Store::shared().give_back(memory, bytes) : std::free(memory); }
};
template <class Number>
using Array = std::unique_ptr<Number[], GiveBack<Number>>;

// Holds anything at first; one vector more than asked for may be read and written. Throws std::bad_alloc.
template <class Number>
Array<Number> room(size_t count) {
    const size_t bytes = count * sizeof(Number) + BOUNDARY;
    return Array<Number>(static_cast<Number*>(Store::shared().take(bytes)), GiveBack<Number>{bytes});
}

template <class Number>
Array<Number> zeros(size_t count) {
    Array<Number> made = room<Number>(count);
    std::memset(made.get(), 0, count * sizeof(Number) + BOUNDARY);
    return made;
}

// Zeros, for what lasts: not from the store.
template <class Number>
Array<Number> lasting(size_t count) {
    const size_t bytes = (count * sizeof(Number) + 2 * BOUNDARY - 1) / BOUNDARY * BOUNDARY;
    void* memory = std::aligned_alloc(BOUNDARY, bytes);
    if (memory == nullptr) throw std::bad_alloc();
    std::memset(memory, 0, bytes);
    return Array<Number>(static_cast<Number*>(memory), GiveBack<Number>{});
}

}  // namespace moonshine
