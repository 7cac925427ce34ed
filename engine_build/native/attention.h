// Attention of single queries over what a head has kept: keys transposed, values by position.
#pragma once

#include <cmath>
#include <limits>

#include "product.h"
#include "vectors.h"

namespace moonshine {

constexpr int QUERIES = 4;  // that share one reading of the keys

// What one head keeps of `positions` positions: key[dim][positions], value[positions][value_dim]. Both are filled up with zeros:
// positions to whole blocks, dimensions to whole vectors.
template <class Number>
struct Head {
    Number* key;
    Number* value;
    int positions, dim, value_dim;

    static size_t size(int positions, int dim) { return size_t(positions) * (dim + rounded_up(dim, LANES)); }

    // The head number `index` of several that lie one behind the other.
    Head(Number* memory, int index, int positions, int dim)
        : key(memory + size(positions, dim) * index), value(key + size_t(positions) * dim), positions(positions), dim(dim),
          value_dim(rounded_up(dim, LANES)) {}

    void keep(int position, const float* new_key, const float* new_value) const {
        for (int d = 0; d < dim; ++d) store(key + size_t(d) * positions + position, new_key[d]);
        for (int d = 0; d < dim; ++d) store(value + size_t(position) * value_dim + d, new_value[d]);
    }

    // Of `count` positions from `first` on, whose keys and values lie `stride` apart.
    void keep_all(int first, const Number* keys, const Number* values, int stride, int count) const {
        for (int index = 0; index < count; ++index) {
            for (int d = 0; d < dim; ++d) key[size_t(d) * positions + first + index] = keys[size_t(index) * stride + d];
            std::copy_n(values + size_t(index) * stride, dim, value + size_t(first + index) * value_dim);
        }
    }
};

template <int COUNT, class Number>
inline void score(const Head<Number>& head, const float* const* queries, int last, float* const* scores) {
    for (int position = 0; position < last; position += BLOCK) {
        Floats sums[COUNT][2];
        for (int q = 0; q < COUNT; ++q) sums[q][0] = sums[q][1] = spread(0.0f);
        const Number* key = head.key + position;
        for (int d = 0; d < head.dim; ++d, key += head.positions) {
            const Floats first = load(key), second = load(key + LANES);
            for (int q = 0; q < COUNT; ++q) {
                const Floats number = spread(queries[q][d]);
                sums[q][0] = multiply_add(number, first, sums[q][0]);
                sums[q][1] = multiply_add(number, second, sums[q][1]);
            }
        }
        for (int q = 0; q < COUNT; ++q) {
            store(scores[q] + position, sums[q][0]);
            store(scores[q] + position + LANES, sums[q][1]);
        }
    }
}

// exp(score - highest score) of the first `seen` scores, 0 for those behind them up to `last`, each put away with store(position, values).
// Returns the sum. The scores behind `seen` are overwritten.
template <class Store>
inline float exponentials(float* scores, int seen, int last, const Store& put) {
    const int end = rounded_up(last, LANES);
    std::fill(scores + seen, scores + end, -std::numeric_limits<float>::infinity());
    Floats most = load(scores), total = spread(0.0f);
    for (int position = LANES; position < end; position += LANES) most = larger(most, load(scores + position));
    const Floats highest = spread(largest_of(most));
    for (int position = 0; position < end; position += LANES) {
        const Floats share = exponential(load(scores + position) - highest);
        put(position, share);
        total = total + share;  // that of -infinity is next to zero: it changes no sum, and one share is 1
    }
    return sum_of(total);
}

// Turns the first `seen` scores into shares that add up to 1, those behind them up to `last` into 0.
inline void softmax(float* scores, int seen, int last) {
    const Floats inverse = spread(1.0f / exponentials(scores, seen, last, [&](int at, Floats share) { store(scores + at, share); }));
    const int end = rounded_up(last, LANES);
    std::fill(scores + seen, scores + end, 0.0f);  // exponential() gives next to zero for what is far below
    for (int position = 0; position < end; position += LANES) store(scores + position, load(scores + position) * inverse);
}

// The values of all positions below `last`, by their shares, for COUNT queries.
template <int COUNT, int VECTORS, class Number>
inline void gather(const Head<Number>& head, const float* const* shares, int last, float* const* out) {
    Floats sums[COUNT][VECTORS];
    for (int q = 0; q < COUNT; ++q)
        for (int v = 0; v < VECTORS; ++v) sums[q][v] = spread(0.0f);
    const Number* value = head.value;
    for (int position = 0; position < last; ++position, value += head.value_dim)
        for (int v = 0; v < VECTORS; ++v) {
            const Floats part = load(value + v * LANES);
            for (int q = 0; q < COUNT; ++q) sums[q][v] = multiply_add(spread(shares[q][position]), part, sums[q][v]);
        }
    for (int q = 0; q < COUNT; ++q) {
        float whole[VECTORS * LANES];
        for (int v = 0; v < VECTORS; ++v) store(whole + v * LANES, sums[q][v]);
        std::copy_n(whole, head.dim, out[q]);
    }
}

constexpr int LEAST_VECTORS = 1, MOST_VECTORS = 8;  // of a value

template <int COUNT, int VECTORS = MOST_VECTORS, class Number>
inline void gather_values(const Head<Number>& head, const float* const* shares, int last, float* const* out) {
    if constexpr (VECTORS > LEAST_VECTORS)
        if (head.value_dim < VECTORS * LANES) return gather_values<COUNT, VECTORS - 1>(head, shares, last, out);
    gather<COUNT, VECTORS>(head, shares, last, out);
}

// Query number q, of `count`, sees the positions below seen(q); out(q) is where its context goes, and take(q, shares) is shown
// what share of it each position had. scores: room for QUERIES times the head's positions.
template <class Number, class Query, class Seen, class Out, class Take>
void attend(const Head<Number>& head, int count, const Query& query, const Seen& seen, const Out& out, float* scores,
            const Take& take) {
    for (int first = 0; first < count; first += QUERIES) {
        const int together = std::min(QUERIES, count - first);
        const float* queries[QUERIES];
        float* rows[QUERIES];
        int last = 0;
        for (int q = 0; q < together; ++q) {
            queries[q] = query(first + q);
            rows[q] = scores + size_t(q) * head.positions;
            last = std::max(last, seen(first + q));
        }
        switch (together) {
            case 1: score<1>(head, queries, last, rows); break;
            case 2: score<2>(head, queries, last, rows); break;
            case 3: score<3>(head, queries, last, rows); break;
            default: score<4>(head, queries, last, rows); break;
        }
        float* outs[QUERIES];
        for (int q = 0; q < together; ++q) {
            softmax(rows[q], seen(first + q), last);
            outs[q] = out(first + q);
            take(first + q, rows[q]);
        }
        int q = 0;
        for (; q + 2 <= together; q += 2) gather_values<2>(head, rows + q, last, outs + q);
        if (q < together) gather_values<1>(head, rows + q, last, outs + q);
    }
}

// What attention within a clip computes with: bfloat16 where the processor multiplies it, which is so in no build for float32.
#ifdef __AVX512BF16__
typedef Bfloat16 ClipNumber;
constexpr Kind CLIP_KIND = Kind::BFLOAT16;
inline void store_number(ClipNumber* to, Floats values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(values));
}
inline Rows rows_of(const ClipNumber* rows, int stride) { return {nullptr, rows, nullptr, nullptr, stride}; }
#else
typedef float ClipNumber;
constexpr Kind CLIP_KIND = Kind::FLOATS;
inline void store_number(ClipNumber* to, Floats values) { store(to, values); }
inline Rows rows_of(const ClipNumber* rows, int stride) { return {rows, nullptr, nullptr, nullptr, stride}; }
#endif
constexpr int CLIP_UNIT = sizeof(float) / sizeof(ClipNumber);  // numbers that a product takes at a time

// One head of a clip, whose positions are all seen by all: scores and contexts are products, with keys and values in place of weights.
class ClipHead {
  public:
    // keys and values lie `stride` apart.
    ClipHead(const ClipNumber* keys, const ClipNumber* values, int stride, int positions, int dim)
        : keys_(shaped(CLIP_KIND, positions, dim)), values_(shaped(CLIP_KIND, dim, positions)) {
        pack_keys(keys, stride);
        pack_values(values, stride);
    }

    // Of queries first..last-1. contexts: those of query 0 first, `stride` apart.
    void attend(const Rows& queries, int first, int last, float* contexts, int stride) const {
        const int width = keys_.blocks() * BLOCK, together = rows_together(CLIP_KIND);
        Array<float> scores = room<float>(size_t(together) * width);
        Array<ClipNumber> shares = room<ClipNumber>(size_t(together) * width);
        float inverses[ROWS];
        for (int begin = first; begin < last; begin += together) {
            const int end = std::min(last, begin + together);
            multiply_part(keys_, 0, keys_.blocks(), queries, begin, end,
                          [&](int row, int column, Floats values) { store(&scores[size_t(row - begin) * width + column], values); });
            for (int row = 0; row < end - begin; ++row)
                inverses[row] = 1.0f / share_out(&scores[size_t(row) * width], &shares[size_t(row) * width]);
            multiply_part(values_, 0, values_.blocks(), rows_of(shares.get(), width), 0, end - begin,
                          [&](int row, int column, Floats values) {
                              float* to = contexts + size_t(begin + row) * stride + column;
                              store_some(to, values * spread(inverses[row]), values_.columns - column);
                          });
        }
    }

  private:
    float share_out(float* scores, ClipNumber* shares) const {
        const int positions = keys_.columns;
        const float sum = exponentials(scores, positions, positions, [&](int at, Floats share) { store_number(shares + at, share); });
        std::fill(shares + positions, shares + rounded_up(positions, CLIP_UNIT), ClipNumber(0));
        return sum;
    }

    static void store_some(float* to, Floats values, int count) {
        if (count >= LANES) return store(to, values);
        float all[LANES];
        store(all, values);
        std::copy_n(all, count, to);
    }

    // [block of positions][dim / CLIP_UNIT][BLOCK][CLIP_UNIT]
    void pack_keys(const ClipNumber* keys, int stride) {
        const int units = keys_.depth / CLIP_UNIT;
        float* to = blocks_of(keys_, size_t(keys_.blocks()) * BLOCK * units);
        for (int position = 0; position < keys_.columns; ++position) {
            float* block = to + size_t(position / BLOCK) * units * BLOCK + position % BLOCK;
            const ClipNumber* key = keys + size_t(position) * stride;
            for (int unit = 0; unit < units; ++unit) std::memcpy(block + unit * BLOCK, key + unit * CLIP_UNIT, sizeof(float));
        }
    }

    // [block of dimensions][positions / CLIP_UNIT][BLOCK][CLIP_UNIT]
    void pack_values(const ClipNumber* values, int stride) {
        const int units = rounded_up(values_.depth, CLIP_UNIT) / CLIP_UNIT;
        ClipNumber* to = reinterpret_cast<ClipNumber*>(blocks_of(values_, size_t(values_.blocks()) * BLOCK * units));
        for (int begin = 0; begin < values_.columns; begin += BLOCK, to += size_t(units) * BLOCK * CLIP_UNIT)
            for (int position = 0; position < units * CLIP_UNIT; ++position) {
                const ClipNumber* value = values + size_t(position) * stride + begin;
                ClipNumber* at = to + size_t(position / CLIP_UNIT) * BLOCK * CLIP_UNIT + position % CLIP_UNIT;
                const int count = std::min(BLOCK, values_.columns - begin);
                for (int d = 0; d < count; ++d) at[d * CLIP_UNIT] = position < values_.depth ? value[d] : ClipNumber(0);
            }
    }

    static float* blocks_of(Weights& weights, size_t units) {
        if (CLIP_KIND == Kind::FLOATS) return (weights.floats = room<float>(units)).get();
        return reinterpret_cast<float*>((weights.pairs = room<Bfloat16>(units * CLIP_UNIT)).get());
    }

    Weights keys_, values_;
};

}  // namespace moonshine
