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
constexpr int ROWS = 6;           // rows that are: 12 sums, 2 vectors of weights and one of a row fit the 16 registers
constexpr int INT8_ROWS = 4;      // a product of int8 takes more registers on its way
constexpr int CHUNK_ROWS = 48;    // rows of one task: as much of them as stays near while all columns pass by
constexpr int QUAD = 4;           // bytes whose products one instruction adds up

inline int rounded_up(int count, int unit) { return (count + unit - 1) / unit * unit; }

// A matrix of weights in blocks of columns, in float or in int8 with a scale for each column.
struct Weights {
    int columns = 0, depth = 0;
    bool is_int8 = false;
    Array<float> floats;    // [column block][depth][BLOCK]
    Array<int8_t> quarters;  // [column block][depth / QUAD][BLOCK][QUAD]
    Array<float> scales;    // [column], of int8
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
    made.bias = zeros<float>(size_t(made.blocks()) * BLOCK);
    std::copy_n(scales, columns, made.scales.get());
    for (int column = 0; column < columns; ++column)
        for (int k = 0; k < depth; ++k)
            made.quarters[((size_t(column / BLOCK) * made.quads() + k / QUAD) * BLOCK + column % BLOCK) * QUAD + k % QUAD] =
                weight[size_t(column) * depth + k];
    return made;
}

// Rows of activations as a product takes them: floats, or int8 with a scale for each row.
struct Rows {
    const float* floats = nullptr;
    const int8_t* quarters = nullptr;  // each row filled up with zeros to whole quads
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
    for (k = 0; k + LANES <= depth; k += LANES) {
        const __m256i whole = _mm256_cvtps_epi32(load(row + k) * spread(inverse));
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(quarters + k), _mm_packs_epi16(words, words));
    }
    for (; k < depth; ++k) quarters[k] = static_cast<int8_t>(std::nearbyint(row[k] * inverse));
    for (; k < rounded_up(depth, QUAD); ++k) quarters[k] = 0;
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
    for (int r = 0; r < COUNT; ++r) {
        from[r] = x.floats + size_t(row + r) * x.stride;
        sums[r][0] = sums[r][1] = spread(0.0f);
    }
    for (int k = 0; k < weights.depth; ++k, weight += BLOCK) {
        const Floats first = load(weight), second = load(weight + LANES);
        for (int r = 0; r < COUNT; ++r) {
            const Floats number = spread(from[r][k]);
            sums[r][0] = multiply_add(number, first, sums[r][0]);
            sums[r][1] = multiply_add(number, second, sums[r][1]);
        }
    }
}

// Adds the products of four int8 each. Pairs are added up in 16 bits first: 2 * 127 * 127 fits, so nothing is cut off.
inline Bytes add_products(Bytes sum, Bytes magnitude, Bytes number, Bytes weight) {
    const Bytes pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(weight, number));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

template <int COUNT>
inline void multiply_int8(const Weights& weights, int block, const Rows& x, int row, Floats (&sums)[ROWS][2]) {
    const int8_t* weight = weights.quarters.get() + size_t(block) * weights.quads() * BLOCK * QUAD;
    const int8_t* from[COUNT];
    Bytes totals[COUNT][2];
    for (int r = 0; r < COUNT; ++r) {
        from[r] = x.quarters + size_t(row + r) * x.stride;
        totals[r][0] = totals[r][1] = _mm256_setzero_si256();
    }
    for (int quad = 0; quad < weights.quads(); ++quad, weight += BLOCK * QUAD) {
        const Bytes first = _mm256_load_si256(reinterpret_cast<const Bytes*>(weight));
        const Bytes second = _mm256_load_si256(reinterpret_cast<const Bytes*>(weight + LANES * QUAD));
        for (int r = 0; r < COUNT; ++r) {
            int four;
            std::memcpy(&four, from[r] + quad * QUAD, QUAD);
            const Bytes number = _mm256_set1_epi32(four), magnitude = _mm256_abs_epi8(number);
            totals[r][0] = add_products(totals[r][0], magnitude, number, first);
            totals[r][1] = add_products(totals[r][1], magnitude, number, second);
        }
    }
    for (int r = 0; r < COUNT; ++r)
        for (int half = 0; half < 2; ++half) {
            const Floats scale = load(weights.scales.get() + block * BLOCK + half * LANES) * spread(x.scales[row + r]);
            sums[r][half] = _mm256_cvtepi32_ps(totals[r][half]) * scale;
        }
}

template <int COUNT, class Then>
inline void multiply_rows(const Weights& weights, int block, const Rows& x, int row, const Then& then) {
    Floats sums[ROWS][2];
    if (weights.is_int8)
        multiply_int8<COUNT>(weights, block, x, row, sums);
    else
        multiply_floats<COUNT>(weights, block, x, row, sums);
    for (int r = 0; r < COUNT; ++r)
        for (int half = 0; half < 2; ++half) {
            const int column = block * BLOCK + half * LANES;
            if (column < weights.columns) then(row + r, column, sums[r][half] + load(weights.bias.get() + column));
        }
}

// Rows first..last-1 times some blocks of columns: then(row, column, values) takes LANES columns of a row with their bias added.
template <class Then>
void multiply_part(const Weights& weights, int first_block, int last_block, const Rows& x, int first, int last, const Then& then) {
    for (int block = first_block; block < last_block; ++block) {
        const int most = weights.is_int8 ? INT8_ROWS : ROWS;
        for (int row = first; row < last; row += most) switch (std::min(most, last - row)) {
                case 1: multiply_rows<1>(weights, block, x, row, then); break;
                case 2: multiply_rows<2>(weights, block, x, row, then); break;
                case 3: multiply_rows<3>(weights, block, x, row, then); break;
                case 4: multiply_rows<4>(weights, block, x, row, then); break;
                case 5: multiply_rows<5>(weights, block, x, row, then); break;
                default: multiply_rows<ROWS>(weights, block, x, row, then); break;
            }
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
