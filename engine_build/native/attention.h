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

// Turns the first `seen` scores into shares that add up to 1, those behind them up to `last` into 0.
inline void softmax(float* scores, int seen, int last) {
    const int end = rounded_up(last, LANES);
    std::fill(scores + seen, scores + end, -std::numeric_limits<float>::infinity());
    Floats most = load(scores), total = spread(0.0f);
    for (int position = LANES; position < end; position += LANES) most = larger(most, load(scores + position));
    const Floats highest = spread(largest_of(most));
    for (int position = 0; position < end; position += LANES) {
        const Floats share = exponential(load(scores + position) - highest);
        store(scores + position, share);
    }
    std::fill(scores + seen, scores + end, 0.0f);  // exponential() gives next to zero for what is far below
    for (int position = 0; position < end; position += LANES) total = total + load(scores + position);
    const Floats inverse = spread(1.0f / sum_of(total));
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

constexpr int LEAST_VECTORS = 3, MOST_VECTORS = 8;  // of a value

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

}  // namespace moonshine
