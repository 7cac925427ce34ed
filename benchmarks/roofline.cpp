// How near the native engine's products come to what the processor's units can do. Prints a JSON line for each part.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "attention.h"
#include "product.h"
#include "team.h"

using namespace moonshine;

constexpr int REPEATS = 15;
constexpr double LEAST_SECONDS = 0.01;  // of one measurement

struct Product {
    const char* name;
    int rows, columns, depth;
};
constexpr Product PRODUCTS[] = {
    {"second convolution of 10 s", 831, 832, 2912},
    {"QKV of 10 s", 416, 1248, 416},
    {"output of 10 s", 416, 416, 416},
    {"fc1 of 10 s", 416, 1664, 416},
    {"fc2 of 10 s", 416, 416, 1664},
    {"fc1 of a step of 1 row", 1, 3328, 416},
    {"fc1 of a step of 8 rows", 8, 3328, 416},
    {"fc1 of a draft of 25 tokens", 25, 3328, 416},
    {"logits of a step of 8 rows", 8, 32768, 416},
};

static double seconds_of(const std::function<void()>& work) {
    const auto began = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

// Of one call: the median of several measurements, each of so many calls that it takes long enough.
static double median_seconds(const std::function<void()>& work) {
    const int calls = 1 + static_cast<int>(LEAST_SECONDS / std::max(seconds_of(work), 1e-7));
    std::vector<double> took;
    for (int repeat = 0; repeat < REPEATS; ++repeat)
        took.push_back(seconds_of([&] { for (int call = 0; call < calls; ++call) work(); }) / calls);
    std::nth_element(took.begin(), took.begin() + REPEATS / 2, took.end());
    return took[REPEATS / 2];
}

// One instruction over and over, on sums enough that none waits for itself: multiplications a second.
template <class Sum, class Add>
static double peak_of(Sum start, int each, const Add& add) {
    constexpr int SUMS = 12, ROUNDS = 20000;
    const double seconds = median_seconds([&] {
        Sum sums[SUMS];
#pragma GCC unroll 12
        for (int index = 0; index < SUMS; ++index) sums[index] = start;
        for (int round = 0; round < ROUNDS; ++round) {
#pragma GCC unroll 12
            for (int index = 0; index < SUMS; ++index) {
                sums[index] = add(sums[index]);
                asm volatile("" : "+v"(sums[index]));
            }
        }
#pragma GCC unroll 12
        for (int index = 0; index < SUMS; ++index) asm volatile("" : : "v"(sums[index]));
    });
    return double(SUMS) * ROUNDS * each / seconds;
}

static std::vector<float> numbers(size_t count) {
    std::mt19937 generator(1);
    std::normal_distribution<float> normal;
    std::vector<float> made(count);
    for (float& each : made) each = normal(generator);
    return made;
}

static void print(const char* name, const char* kind, double multiplications, double seconds, double peak) {
    std::printf("{\"name\": \"%s\", \"kind\": \"%s\", \"milliseconds\": %.4f, \"billions_a_second\": %.1f, ", name, kind,
                seconds * 1e3, multiplications / seconds / 1e9);
    std::printf("\"peak_billions_a_second\": %.1f}\n", peak / 1e9);
    std::fflush(stdout);
}

static Weights weights_of(Kind kind, int columns, int depth) {
    const std::vector<float> made = numbers(size_t(columns) * depth);
    if (kind == Kind::FLOATS) return packed(made.data(), columns, depth);
    if (kind == Kind::BFLOAT16) {
        std::vector<Bfloat16> pairs(made.size());
        std::transform(made.begin(), made.end(), pairs.begin(), bfloat16_of);
        return packed(pairs.data(), columns, depth);
    }
    std::vector<int8_t> whole(made.size());
    std::transform(made.begin(), made.end(), whole.begin(), [](float value) { return int8_t(std::clamp(value * 30, -127.0f, 127.0f)); });
    const std::vector<float> scales(columns, 0.01f);
    return packed(whole.data(), scales.data(), columns, depth);
}

static void measure_products(Kind kind, const char* name, double peak) {
    Team alone(1);
    for (const Product& part : PRODUCTS) {
        const Weights weights = weights_of(kind, part.columns, part.depth);
        const std::vector<float> x = numbers(size_t(part.rows) * part.depth);
        Prepared prepared(weights, part.rows);
        for (int row = 0; row < part.rows; ++row) prepared.put(row, &x[size_t(row) * part.depth]);
        Array<float> out = room<float>(size_t(part.rows) * part.columns);
        const double seconds = median_seconds([&] {
            multiply(alone, weights, prepared.rows(), part.rows,
                     [&](int row, int column, Floats values) { store(&out[size_t(row) * part.columns + column], values); });
        });
        print(part.name, name, double(part.rows) * part.columns * part.depth, seconds, peak);
    }
}

static void measure_attention(double peak) {
    constexpr int FRAMES = 416, DIM = 52;
    std::vector<ClipNumber> parts(size_t(FRAMES) * DIM + LANES);
    const std::vector<float> made = numbers(parts.size());
    for (size_t at = 0; at + LANES <= parts.size(); at += LANES) store_number(&parts[at], load(&made[at]));
    std::vector<float> contexts(size_t(FRAMES) * DIM);
    const double seconds = median_seconds([&] {
        ClipHead(parts.data(), parts.data(), DIM, FRAMES, DIM).attend(rows_of(parts.data(), DIM), 0, FRAMES, contexts.data(), DIM);
    });
    print("attention of a head over 10 s", CLIP_UNIT == 2 ? "bfloat16" : "float32", 2.0 * FRAMES * FRAMES * DIM, seconds, peak);
}

int main() {
    const double floats = peak_of(spread(0.0f), LANES, [](Floats sum) { return multiply_add(spread(1.0f), spread(1.0f), sum); });
    const double pairs = peak_of(spread(0.0f), 2 * LANES, [](Floats sum) { return add_products(sum, spread_bytes(0), spread_bytes(0)); });
    const Bytes ones = spread_bytes(1);
    const double quads = peak_of(ones, QUAD * LANES, [&](Bytes sum) { return add_products(sum, ones, ones); });
    measure_products(Kind::FLOATS, "float32", floats);
    measure_products(Kind::BFLOAT16, "bfloat16", pairs);
    measure_products(Kind::INT8, "int8", quads);
    measure_attention(CLIP_UNIT == 2 ? pairs : floats);
}
