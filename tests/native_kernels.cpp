// What the native engine computes with (engine_build/native/), so that it can be held against numpy.
#include "clip_encoder.h"

using namespace moonshine;

extern "C" {

int lanes() { return LANES; }

int bias() { return BIAS; }

void activate(int which, const float *from, float *to, int count)
{
    Floats (*functions[])(Floats) = {exponential, hyperbolic_tangent, silu, gelu};
    for (int index = 0; index < count; index += LANES) store(to + index, functions[which](load(from + index)));
}

void normalise_row(const float *row, const float *weight, int dim, float *out) { normalise(row, weight, Width(dim), out); }

float quantise_row(const float *row, int depth, int8_t *out) { return quantise(row, depth, out); }

// scales: of int8 only. out: rows x columns.
void product(int threads, int kind, const void *weight, const float *scales, const float *bias, int columns, int depth, const float *x, int rows,
             float *out)
{
    Team team(threads);
    Weights weights = Kind(kind) == Kind::INT8       ? packed(static_cast<const int8_t *>(weight), scales, columns, depth)
                      : Kind(kind) == Kind::BFLOAT16 ? packed(static_cast<const Bfloat16 *>(weight), columns, depth)
                                                     : packed(static_cast<const float *>(weight), columns, depth);
    weights.set_bias(bias);
    Prepared prepared(weights, rows);
    team.each(rows, [&](int row) { prepared.put(row, x + size_t(row) * depth); });
    const int width = rounded_up(columns, LANES);
    std::vector<float> wide(size_t(rows) * width);
    multiply(team, weights, prepared.rows(), rows, [&](int row, int column, Floats values) {
        store(&wide[size_t(row) * width + column], values);
    });
    for (int row = 0; row < rows; ++row) std::copy_n(&wide[size_t(row) * width], columns, out + size_t(row) * columns);
}

// Query q sees the first seen[q] of the positions. out: queries x dim; shares: queries x positions.
void attention(int dim, int positions, const float *keys, const float *values, const float *queries, const int *seen, int count,
               float *out, float *shares)
{
    const int whole = rounded_up(positions, BLOCK);
    Array<float> memory = zeros<float>(Head<float>::size(whole, dim));
    const Head<float> head(memory.get(), 0, whole, dim);
    for (int position = 0; position < positions; ++position) head.keep(position, keys + position * dim, values + position * dim);
    Array<float> scores = room<float>(size_t(QUERIES) * whole);
    attend(
        head, count, [&](int q) { return queries + q * dim; }, [&](int q) { return seen[q]; }, [&](int q) { return out + q * dim; },
        scores.get(), [&](int q, const float *row) { std::copy_n(row, seen[q], shares + size_t(q) * positions); });
}

// Of all positions over all. parts: ClipNumber, (positions, 3 * dim): queries, keys, values. out: positions x dim.
void attention_over_everything(int dim, int positions, const float *parts, int first, int last, float *out)
{
    const int width = 3 * dim;
    std::vector<ClipNumber> rounded(size_t(positions) * width + LANES);
    std::vector<float> padded(parts, parts + size_t(positions) * width);
    padded.resize(rounded_up(padded.size(), LANES));
    for (size_t at = 0; at < padded.size(); at += LANES) store_number(&rounded[at], load(&padded[at]));
    const ClipHead seen(&rounded[dim], &rounded[2 * dim], width, positions, dim);
    seen.attend(rows_of(rounded.data(), width), first, last, out, dim);
}

int rounds_attention() { return CLIP_KIND == Kind::BFLOAT16; }

}  // extern "C"
