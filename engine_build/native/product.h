// Products of activations and weights: out[row][column] = sum over depth of x[row][depth] * weight[column][depth].
//
// A row's sums are taken in one order whatever stands beside it, so that a row alone equals the row in a batch bit for bit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "memory.h"
#include "team.h"
#include "vectors.h"

namespace moonshine {

constexpr int BLOCK = 2 * LANES;  // columns that are computed together
#ifdef __AVX512F__
constexpr int ROWS = 12;  // rows that are: 24 sums, 2 vectors of weights and one of a row fit the 32 registers
constexpr int INT8_ROWS = 12;
#else
constexpr int ROWS = 6;       // 12 sums and those fit 16 registers
constexpr int INT8_ROWS = 4;  // a product of int8 takes more registers on its way
#endif
constexpr int CHUNK_ROWS = 48;    // rows of one task: as much of them as stays near while all columns pass by
constexpr int QUAD = 4;           // bytes whose products one instruction adds up
#ifdef __AVX512VNNI__
constexpr int BIAS = 128;  // added to a row's int8: VNNI multiplies numbers without a sign by those with one
#else
constexpr int BIAS = 0;
#endif

inline int rounded_up(int count, int unit) { return (count + unit - 1) / unit * unit; }

// A matrix of weights in blocks of columns, in float or in int8 with a scale for each column.
struct Weights {
    int columns = 0, depth = 0;
    bool is_int8 = false;
    Array<float> floats;    // [column block][depth][BLOCK]
    Array<int8_t> quarters;  // [column block][depth / QUAD][BLOCK][QUAD]
    Array<float> scales;    // [column], of int8
    Array<int32_t> offsets;  // [column], of int8: what the BIAS of a row adds to its sums
    Array<float> bias;      // [column]; zeros where there is none

    int blocks() const { return (columns + BLOCK - 1) / BLOCK; }
    int quads() const { return (depth + QUAD - 1) / QUAD; }
};

inline Weights packed(const float* weight, int columns, int depth) {
    Weights made;
    made.columns = columns, made.depth = depth;
    made.floats = zeros<float>(size_t(made.blocks()) * depth * BLOCK);
    made.bias = zeros<float>(size_t(made.blocks()) * BLOCK);
    for (int column = 0; column < columns; ++column)
        for (int k = 0; k < depth; ++k)
            made.floats[(size_t(column / BLOCK) * depth + k) * BLOCK + column % BLOCK] = weight[size_t(column) * depth + k];
    return made;
}

inline Weights packed(const int8_t* weight, const float* scales, int columns, int depth) {
    Weights made;
    made.columns = columns, made.depth = depth, made.is_int8 = true;
    made.quarters = zeros<int8_t>(size_t(made.blocks()) * made.quads() * BLOCK * QUAD);
    made.scales = zeros<float>(size_t(made.blocks()) * BLOCK);
    made.offsets = zeros<int32_t>(size_t(made.blocks()) * BLOCK);
    made.bias = zeros<float>(size_t(made.blocks()) * BLOCK);
    std::copy_n(scales, columns, made.scales.get());
    for (int column = 0; column < columns; ++column)
        for (int k = 0; k < depth; ++k) {
            const int8_t number = weight[size_t(column) * depth + k];
            made.quarters[((size_t(column / BLOCK) * made.quads() + k / QUAD) * BLOCK + column % BLOCK) * QUAD + k % QUAD] = number;
            made.offsets[column] += BIAS * number;
        }
    return made;
}

// Rows of activations as a product takes them: floats, or int8 with a scale for each row.
struct Rows {
    const float* floats = nullptr;
    const int8_t* quarters = nullptr;  // with their BIAS; each row is filled up to whole quads
    const float* scales = nullptr;
    int stride = 0;  // numbers from one row to the next
};

// A row in int8: its largest number becomes 127. Returns the scale.
inline float quantise(const float* row, int depth, int8_t* quarters) {
    Floats most = spread(0.0f);
    int k = 0;
    for (; k + LANES <= depth; k += LANES) most = larger(most, absolute(load(row + k)));
    float largest = largest_of(most);
    for (; k < depth; ++k) largest = std::max(largest, std::fabs(row[k]));
    const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    for (k = 0; k + LANES <= depth; k += LANES) store_int8(quarters + k, load(row + k) * spread(inverse));
    for (; k < depth; ++k) quarters[k] = static_cast<int8_t>(std::nearbyint(row[k] * inverse));
    for (; k < rounded_up(depth, QUAD); ++k) quarters[k] = 0;
    if (BIAS)
        for (k = 0; k < rounded_up(depth, QUAD); ++k) quarters[k] ^= int8_t(-128);  // to add 128 turns the uppermost bit
    return largest / 127.0f;
}

// Rows being made ready for a product: written one by one, from any thread.
class Prepared {
  public:
    Prepared(const Weights& weights, int rows) : depth_(weights.depth), is_int8_(weights.is_int8) {
        stride_ = rounded_up(depth_, QUAD);
        if (is_int8_) {
            quarters_ = room<int8_t>(size_t(rows) * stride_);
            scales_ = room<float>(rows);
        } else {
            floats_ = room<float>(size_t(rows) * stride_);
        }
    }

    void put(int row, const float* values) {
        if (is_int8_)
            scales_[row] = quantise(values, depth_, quarters_.get() + size_t(row) * stride_);
        else
            std::copy_n(values, depth_, floats_.get() + size_t(row) * stride_);
    }

    Rows rows() const { return {floats_.get(), quarters_.get(), scales_.get(), stride_}; }

  private:
    int depth_, stride_;
    bool is_int8_;
    Array<float> floats_, scales_;
    Array<int8_t> quarters_;
};

// COUNT rows from `row` on times one block of columns.
template <int COUNT>
inline void multiply_floats(const Weights& weights, int block, const Rows& x, int row, Floats (&sums)[ROWS][2]) {
    const float* weight = weights.floats.get() + size_t(block) * weights.depth * BLOCK;
    const float* from[COUNT];
#pragma GCC unroll 16
    for (int r = 0; r < COUNT; ++r) {
        from[r] = x.floats + size_t(row + r) * x.stride;
        sums[r][0] = sums[r][1] = spread(0.0f);
    }
    for (int k = 0; k < weights.depth; ++k, weight += BLOCK) {
        const Floats first = load(weight), second = load(weight + LANES);
#pragma GCC unroll 16
        for (int r = 0; r < COUNT; ++r) {
            const Floats number = spread(from[r][k]);
            sums[r][0] = multiply_add(number, first, sums[r][0]);
            sums[r][1] = multiply_add(number, second, sums[r][1]);
        }
    }
}

// Adds the products of four int8 each.
#ifdef __AVX512VNNI__
inline Bytes add_products(Bytes sum, Bytes number, Bytes weight) { return _mm512_dpbusd_epi32(sum, number, weight); }
#else
// Pairs are added up in 16 bits first: 2 * 127 * 127 fits, so nothing is cut off.
inline Bytes add_products(Bytes sum, Bytes number, Bytes weight) {
    const Bytes pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(number), _mm256_sign_epi8(weight, number));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif

template <int COUNT>
inline void multiply_int8(const Weights& weights, int block, const Rows& x, int row, Floats (&sums)[ROWS][2]) {
    const int8_t* weight = weights.quarters.get() + size_t(block) * weights.quads() * BLOCK * QUAD;
    const int8_t* from[COUNT];
    Bytes totals[COUNT][2];
#pragma GCC unroll 16
    for (int r = 0; r < COUNT; ++r) {
        from[r] = x.quarters + size_t(row + r) * x.stride;
        totals[r][0] = totals[r][1] = spread_bytes(0);
    }
    for (int quad = 0; quad < weights.quads(); ++quad, weight += BLOCK * QUAD) {
        const Bytes first = load_bytes(weight), second = load_bytes(weight + LANES * QUAD);
#pragma GCC unroll 16
        for (int r = 0; r < COUNT; ++r) {
            int four;
            std::memcpy(&four, from[r] + quad * QUAD, QUAD);
            const Bytes number = spread_bytes(four);
            totals[r][0] = add_products(totals[r][0], number, first);
            totals[r][1] = add_products(totals[r][1], number, second);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < COUNT; ++r)
        for (int half = 0; half < 2; ++half) {
            const int column = block * BLOCK + half * LANES;
            const Bytes offset = load_bytes(reinterpret_cast<const int8_t*>(weights.offsets.get() + column));
            const Floats scale = load(weights.scales.get() + column) * spread(x.scales[row + r]);
            sums[r][half] = floats_of(difference(totals[r][half], offset)) * scale;
        }
}

template <int COUNT, class Then>
inline void multiply_rows(const Weights& weights, int block, const Rows& x, int row, const Then& then) {
    Floats sums[ROWS][2];
    if (weights.is_int8)
        multiply_int8<COUNT>(weights, block, x, row, sums);
    else
        multiply_floats<COUNT>(weights, block, x, row, sums);
#pragma GCC unroll 16
    for (int r = 0; r < COUNT; ++r)
        for (int half = 0; half < 2; ++half) {
            const int column = block * BLOCK + half * LANES;
            if (column < weights.columns) then(row + r, column, sums[r][half] + load(weights.bias.get() + column));
        }
}

// As many rows as `count` says, at most COUNT: each number of them has code of its own, whose sums stay in registers.
template <int COUNT, class Then>
inline void multiply_some(int count, const Weights& weights, int block, const Rows& x, int row, const Then& then) {
    if constexpr (COUNT > 1)
        if (count < COUNT) return multiply_some<COUNT - 1>(count, weights, block, x, row, then);
    multiply_rows<COUNT>(weights, block, x, row, then);
}

// Rows first..last-1 times some blocks of columns: then(row, column, values) takes LANES columns of a row with their bias added.
template <class Then>
void multiply_part(const Weights& weights, int first_block, int last_block, const Rows& x, int first, int last, const Then& then) {
    for (int block = first_block; block < last_block; ++block) {
        const int most = weights.is_int8 ? INT8_ROWS : ROWS;
        for (int row = first; row < last; row += most) multiply_some<ROWS>(std::min(most, last - row), weights, block, x, row, then);
    }
}

// All rows times all columns, shared out among the team.
template <class Then>
void multiply(Team& team, const Weights& weights, const Rows& x, int rows, const Then& then) {
    const int chunks = (rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    const int parts = std::min(weights.blocks(), chunks >= 4 * team.size() ? 1 : 4 * team.size());
    team.each(chunks * parts, [&](int task) {
        const int part = task % parts, first = task / parts * CHUNK_ROWS;
        multiply_part(weights, weights.blocks() * part / parts, weights.blocks() * (part + 1) / parts, x, first,
                      std::min(rows, first + CHUNK_ROWS), then);
    });
}

}  // namespace moonshine
