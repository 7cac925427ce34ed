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
constexpr int BFLOAT16_ROWS = 12, INT8_ROWS = 12;
#else
constexpr int ROWS = 6;           // 12 sums and those fit 16 registers
constexpr int BFLOAT16_ROWS = 4;  // a product of bfloat16 takes more registers on its way, and so does one of int8 without VNNI
#ifdef __AVXVNNI__
constexpr int INT8_ROWS = 6;
#else
constexpr int INT8_ROWS = 4;
#endif
#endif
constexpr int CHUNK_ROWS = 48;    // rows of one task: as much of them as stays near while all columns pass by
constexpr int QUAD = 4;           // bytes whose products one instruction adds up
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr int BIAS = 128;  // added to a row's int8: VNNI multiplies numbers without a sign by those with one
#else
constexpr int BIAS = 0;
#endif

inline int rounded_up(int count, int unit) { return (count + unit - 1) / unit * unit; }

enum class Kind { FLOATS, BFLOAT16, INT8 };

// A matrix of weights in blocks of columns: in float, in bfloat16, or in int8 with a scale for each column.
struct Weights {
    int columns = 0, depth = 0;
    Kind kind = Kind::FLOATS;
    Array<float> floats;     // [column block][depth][BLOCK]
    Array<Bfloat16> pairs;   // [column block][depth / 2][BLOCK][2]
    Array<int8_t> int8s;  // [column block][depth / QUAD][BLOCK][QUAD]
    Array<float> scales;    // [column], of int8
    Array<int32_t> offsets;  // [column], of int8: what the BIAS of a row adds to its sums
    Array<float> bias;      // [column]; null where there is none

    int blocks() const { return (columns + BLOCK - 1) / BLOCK; }
    int quads() const { return (depth + QUAD - 1) / QUAD; }
    int pair_count() const { return (depth + 1) / 2; }

    void set_bias(const float* numbers) {
        bias = lasting<float>(size_t(blocks()) * BLOCK);
        std::copy_n(numbers, columns, bias.get());
    }
};

// [column block][depth / UNIT][BLOCK][UNIT], filled up with zeros.
template <int UNIT, class Number>
Array<Number> in_blocks(const Number* weight, int columns, int depth) {
    const int units = (depth + UNIT - 1) / UNIT;
    Array<Number> blocks = lasting<Number>(size_t(rounded_up(columns, BLOCK)) * units * UNIT);
    for (int column = 0; column < columns; ++column)
        for (int k = 0; k < depth; ++k)
            blocks[((size_t(column / BLOCK) * units + k / UNIT) * BLOCK + column % BLOCK) * UNIT + k % UNIT] =
                weight[size_t(column) * depth + k];
    return blocks;
}

inline Weights shaped(Kind kind, int columns, int depth) {
    Weights made;
    made.kind = kind, made.columns = columns, made.depth = depth;
    return made;
}

inline Weights packed(const float* weight, int columns, int depth) {
    Weights made = shaped(Kind::FLOATS, columns, depth);
    made.floats = in_blocks<1>(weight, columns, depth);
    return made;
}

inline Weights packed(const Bfloat16* weight, int columns, int depth) {
    Weights made = shaped(Kind::BFLOAT16, columns, depth);
    made.pairs = in_blocks<2>(weight, columns, depth);
    return made;
}

inline Weights packed(const int8_t* weight, const float* scales, int columns, int depth) {
    Weights made = shaped(Kind::INT8, columns, depth);
    made.int8s = in_blocks<QUAD>(weight, columns, depth);
    made.scales = lasting<float>(size_t(made.blocks()) * BLOCK);
    made.offsets = lasting<int32_t>(size_t(made.blocks()) * BLOCK);
    std::copy_n(scales, columns, made.scales.get());
    for (int column = 0; column < columns; ++column)
        for (int k = 0; k < depth; ++k) made.offsets[column] += BIAS * weight[size_t(column) * depth + k];
    return made;
}

// Rows of activations as a product takes them: like its weights, with a scale for each row in int8.
struct Rows {
    const float* floats = nullptr;
    const Bfloat16* pairs = nullptr;  // each row is filled up to whole pairs
    const int8_t* int8s = nullptr;  // with their BIAS; each row is filled up to whole quads
    const float* scales = nullptr;
    int stride = 0;  // numbers from one row to the next
};

// A row in int8: its largest number becomes 127. Returns the scale: NaN where any number of the row is none, which int8 cannot say.
inline float quantise(const float* row, int depth, int8_t* int8s) {
    Floats most = spread(0.0f), total = spread(0.0f);
    int k = 0;
    for (; k + LANES <= depth; k += LANES) most = larger(most, absolute(load(row + k))), total = total + load(row + k);
    float largest = largest_of(most), sum = sum_of(total);
    for (; k < depth; ++k) largest = std::max(largest, std::fabs(row[k])), sum += row[k];
    if (!std::isfinite(sum)) {
        std::fill_n(int8s, rounded_up(depth, QUAD), int8_t(0));
        return NAN;
    }
    const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    for (k = 0; k + LANES <= depth; k += LANES) store_int8(int8s + k, load(row + k) * spread(inverse));
    for (; k < depth; ++k) int8s[k] = static_cast<int8_t>(std::nearbyint(row[k] * inverse));
    for (; k < rounded_up(depth, QUAD); ++k) int8s[k] = 0;
    if (BIAS)
        for (k = 0; k < rounded_up(depth, QUAD); ++k) int8s[k] ^= int8_t(-128);  // to add 128 turns the uppermost bit
    return largest / 127.0f;
}

// Rows being made ready for a product: written one by one, from any thread.
class Prepared {
  public:
    Prepared(const Weights& weights, int rows)
        : depth_(weights.depth), stride_(rounded_up(weights.depth, QUAD)), kind_(weights.kind) {
        const size_t count = size_t(rows) * stride_;
        if (kind_ == Kind::FLOATS) floats_ = room<float>(count);
        if (kind_ == Kind::BFLOAT16) pairs_ = room<Bfloat16>(count);
        if (kind_ == Kind::INT8) int8_ = room<int8_t>(count), scales_ = room<float>(rows);
    }

    void put(int row, const float* values) {
        const size_t at = size_t(row) * stride_;
        if (kind_ == Kind::FLOATS) std::copy_n(values, depth_, floats_.get() + at);
        if (kind_ == Kind::INT8) scales_[row] = quantise(values, depth_, int8_.get() + at);
        if (kind_ == Kind::BFLOAT16) {
            std::transform(values, values + depth_, pairs_.get() + at, bfloat16_of);
            std::fill(pairs_.get() + at + depth_, pairs_.get() + at + stride_, Bfloat16(0));
        }
    }

    Rows rows() const { return {floats_.get(), pairs_.get(), int8_.get(), scales_.get(), stride_}; }

  private:
    int depth_, stride_;
    Kind kind_;
    Array<float> floats_, scales_;
    Array<Bfloat16> pairs_;
    Array<int8_t> int8_;
};

// COUNT rows from `row` on times one block of columns. The totals are variables of their own: `sums` might be anywhere in memory, and
// would be written there each time.
template <int COUNT>
inline void multiply_floats(const Weights& weights, int block, const Rows& x, int row, Floats (&sums)[COUNT][2]) {
    const float* weight = weights.floats.get() + size_t(block) * weights.depth * BLOCK;
    const float* from[COUNT];
    Floats totals[COUNT][2];
#pragma GCC unroll 16
    for (int r = 0; r < COUNT; ++r) {
        from[r] = x.floats + size_t(row + r) * x.stride;
        totals[r][0] = totals[r][1] = spread(0.0f);
    }
    for (int k = 0; k < weights.depth; ++k, weight += BLOCK) {
        const Floats first = load(weight), second = load(weight + LANES);
#pragma GCC unroll 16
        for (int r = 0; r < COUNT; ++r) {
            const Floats number = spread(from[r][k]);
            totals[r][0] = multiply_add(number, first, totals[r][0]);
            totals[r][1] = multiply_add(number, second, totals[r][1]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < COUNT; ++r) sums[r][0] = totals[r][0], sums[r][1] = totals[r][1];
}

// Adds the products of two bfloat16 each. In assembly, as those of int8 below: GCC 12 copies the sums of the intrinsics before they are
// added to, runs out of registers for them, and loses half the speed.
#ifdef __AVX512BF16__
inline Floats add_products(Floats sum, Bytes numbers, Bytes weights) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(numbers), "v"(weights));
    return sum;
}
#else
inline Floats add_products(Floats sum, Bytes numbers, Bytes weights) {
    sum = multiply_add(upper_halves(numbers), upper_halves(weights), sum);
    return multiply_add(lower_halves(numbers), lower_halves(weights), sum);
}
#endif

template <int COUNT>
inline void multiply_bfloat16(const Weights& weights, int block, const Rows& x, int row, Floats (&sums)[COUNT][2]) {
    const Bfloat16* weight = weights.pairs.get() + size_t(block) * weights.pair_count() * BLOCK * 2;
    const Bfloat16* from[COUNT];
    Floats totals[COUNT][2];
#pragma GCC unroll 16
    for (int r = 0; r < COUNT; ++r) {
        from[r] = x.pairs + size_t(row + r) * x.stride;
        totals[r][0] = totals[r][1] = spread(0.0f);
    }
    for (int pair = 0; pair < weights.pair_count(); ++pair, weight += BLOCK * 2) {
        const int8_t* bytes = reinterpret_cast<const int8_t*>(weight);
        const Bytes first = load_bytes(bytes), second = load_bytes(bytes + LANES * QUAD);
#pragma GCC unroll 16
        for (int r = 0; r < COUNT; ++r) {
            int two;
            std::memcpy(&two, from[r] + 2 * pair, sizeof two);
            const Bytes numbers = spread_bytes(two);
            totals[r][0] = add_products(totals[r][0], numbers, first);
            totals[r][1] = add_products(totals[r][1], numbers, second);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < COUNT; ++r) sums[r][0] = totals[r][0], sums[r][1] = totals[r][1];
}

// Adds the products of four int8 each.
#if defined(EMULATED)  // AVX-512 by tests/avx512_emulated.h
inline Bytes add_products(Bytes sum, Bytes number, Bytes weight) { return _mm512_dpbusd_epi32(sum, number, weight); }
#elif defined(__AVX512VNNI__)
inline Bytes add_products(Bytes sum, Bytes number, Bytes weight) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(number), "v"(weight));
    return sum;
}
#elif defined(__AVXVNNI__)
inline Bytes add_products(Bytes sum, Bytes number, Bytes weight) { return _mm256_dpbusd_avx_epi32(sum, number, weight); }
#else
// Pairs are added up in 16 bits first: 2 * 127 * 127 fits, so nothing is cut off.
inline Bytes add_products(Bytes sum, Bytes number, Bytes weight) {
    const Bytes pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(number), _mm256_sign_epi8(weight, number));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif

template <int COUNT>
inline void multiply_int8(const Weights& weights, int block, const Rows& x, int row, Floats (&sums)[COUNT][2]) {
    const int8_t* weight = weights.int8s.get() + size_t(block) * weights.quads() * BLOCK * QUAD;
    const int8_t* from[COUNT];
    Bytes totals[COUNT][2];
#pragma GCC unroll 16
    for (int r = 0; r < COUNT; ++r) {
        from[r] = x.int8s + size_t(row + r) * x.stride;
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
    Floats sums[COUNT][2];
    switch (weights.kind) {
        case Kind::FLOATS: multiply_floats<COUNT>(weights, block, x, row, sums); break;
        case Kind::BFLOAT16: multiply_bfloat16<COUNT>(weights, block, x, row, sums); break;
        case Kind::INT8: multiply_int8<COUNT>(weights, block, x, row, sums); break;
    }
#pragma GCC unroll 16
    for (int r = 0; r < COUNT; ++r)
        for (int half = 0; half < 2; ++half) {
            const int column = block * BLOCK + half * LANES;
            if (column < weights.columns) then(row + r, column, weights.bias ? sums[r][half] + load(&weights.bias[column]) : sums[r][half]);
        }
}

// As many rows as `count` says, at most COUNT: each number of them has code of its own, whose sums stay in registers.
template <int COUNT, class Then>
inline void multiply_some(int count, const Weights& weights, int block, const Rows& x, int row, const Then& then) {
    if constexpr (COUNT > 1)
        if (count < COUNT) return multiply_some<COUNT - 1>(count, weights, block, x, row, then);
    multiply_rows<COUNT>(weights, block, x, row, then);
}

inline int rows_together(Kind kind) {
    return kind == Kind::FLOATS ? ROWS : kind == Kind::BFLOAT16 ? BFLOAT16_ROWS : INT8_ROWS;
}

// Rows first..last-1 times some blocks of columns: then(row, column, values) takes LANES columns of a row with their bias added.
template <class Then>
void multiply_part(const Weights& weights, int first_block, int last_block, const Rows& x, int first, int last, const Then& then) {
    for (int block = first_block; block < last_block; ++block) {
        const int most = rows_together(weights.kind);
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
