// The encoder of Moonshine's models of clips: audio into the decoder's keys and values. See engine_build/model.py, whose arithmetic this is.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "attention.h"
#include "decoder.h"
#include "layers.h"

namespace moonshine {

constexpr int KERNELS[3] = {127, 7, 3}, STRIDES[3] = {64, 3, 2};

inline int count_frames(int samples) {
    for (int index = 0; index < 3; ++index) samples = samples < KERNELS[index] ? 0 : (samples - KERNELS[index]) / STRIDES[index] + 1;
    return samples;
}

// As wide as the decoder.
template <class Number>
class ClipEncoder {
  public:
    // Throws std::invalid_argument for what is missing, and for a shape that this code is not written for.
    ClipEncoder(const DecoderShape& shape, int layers, const Parameters& parameters) : shape_(shape), width_(shape.dim) {
        if (shape.attention_dim() != shape.dim || shape.head_dim % CLIP_UNIT)
            throw std::invalid_argument("heads of " + std::to_string(shape.head_dim) + " dimensions are not taken");
        for (int layer = 0; layer < layers; ++layer) layers_.push_back(layer_of(parameters, layer));
        for (int layer = 0; layer < shape.layers; ++layer) cross_.push_back(&parameters.weights("cross." + std::to_string(layer)));
        for (int index = 0; index < 3; ++index) conv_[index] = &parameters.weights("conv" + std::to_string(index + 1));
        group_scale_ = parameters.table("groupnorm.weight"), group_bias_ = parameters.table("groupnorm.bias");
        norm_ = parameters.table("encoder.norm"), rotary_ = parameters.table("rotary");
    }

    // audio: samples floats; cross: decoder_layers x heads of Head<Number> with `positions` positions each, which are filled.
    void encode(Team& team, const float* audio, int samples, Number* cross, int positions) const {
        const int dim = shape_.dim, frames = count_frames(samples);
        Array<float> x = convolve(team, audio, samples);
        for (const Layer& layer : layers_) {
            attend_within(team, layer, x.get(), frames);
            feed_forward(team, layer.mlp_norm, *layer.fc1, *layer.fc2, x.get(), width_, frames);
        }
        Prepared encoded(*cross_[0], frames);
        prepare_normalised(team, norm_, x.get(), width_, frames, encoded);
        Array<Number> keys_values = room<Number>(size_t(frames) * 2 * dim);
        for (int layer = 0; layer < shape_.layers; ++layer) {
            multiply(team, *cross_[layer], encoded.rows(), frames, [&](int row, int column, Floats values) {
                store(&keys_values[size_t(row) * 2 * dim + column], values);
            });
            team.each(shape_.heads, [&](int index) {
                const Head<Number> head(cross, layer * shape_.heads + index, positions, shape_.head_dim);
                const Number* from = keys_values.get() + index * shape_.head_dim;
                head.keep_all(0, from, from + dim, 2 * dim, frames);
            });
        }
    }

  private:
    struct Layer {
        const float *attention_norm, *mlp_norm;
        const Weights *qkv, *out, *fc1, *fc2;
    };

    static Layer layer_of(const Parameters& parameters, int layer) {
        const std::string at = "encoder." + std::to_string(layer) + ".";
        return {parameters.table(at + "attention_norm"), parameters.table(at + "mlp_norm"), &parameters.weights(at + "qkv"),
                &parameters.weights(at + "out"), &parameters.weights(at + "fc1"), &parameters.weights(at + "fc2")};
    }

    // Convolutions are products whose rows overlap: frame i reads the numbers from i * stride on.
    Array<float> convolve(Team& team, const float* audio, int samples) const {
        const int dim = shape_.dim;
        int frames = (samples - KERNELS[0]) / STRIDES[0] + 1;
        Array<float> x = room<float>(size_t(frames) * dim);
        multiply(team, *conv_[0], Rows{audio, nullptr, nullptr, nullptr, STRIDES[0]}, frames, [&](int row, int column, Floats values) {
            store(&x[size_t(row) * dim + column], hyperbolic_tangent(values));
        });
        normalise_group(team, x.get(), frames);
        for (int index = 1; index < 3; ++index) {
            const int width = conv_[index]->columns, before = index == 1 ? dim : conv_[1]->columns;
            const int next = (frames - KERNELS[index]) / STRIDES[index] + 1;
            Prepared overlapping(*conv_[index], next);
            team.each(next, [&](int row) { overlapping.put(row, &x[size_t(row) * STRIDES[index] * before]); });
            Array<float> y = room<float>(size_t(next) * width);
            multiply(team, *conv_[index], overlapping.rows(), next, [&](int row, int column, Floats values) {
                store(&y[size_t(row) * width + column], gelu(values));
            });
            x = std::move(y), frames = next;
        }
        return x;
    }

    // The GroupNorm of one group: over all frames and channels. Sums of sums, so that no digit is lost.
    void normalise_group(Team& team, float* x, int frames) const {
        const int dim = shape_.dim;
        double total = 0, squares = 0;
        for (int frame = 0; frame < frames; ++frame) {
            Floats sum = spread(0.0f);
            for (int d = 0; d < dim; d += LANES) sum = sum + load(x + size_t(frame) * dim + d);
            total += sum_of(sum);
        }
        const Floats mean = spread(static_cast<float>(total / (double(frames) * dim)));
        for (int frame = 0; frame < frames; ++frame) {
            Floats sum = spread(0.0f);
            for (int d = 0; d < dim; d += LANES) {
                const Floats centred = load(x + size_t(frame) * dim + d) - mean;
                sum = multiply_add(centred, centred, sum);
            }
            squares += sum_of(sum);
        }
        const Floats inverse = spread(static_cast<float>(1.0 / std::sqrt(squares / (double(frames) * dim) + EPSILON)));
        team.each(frames, [&](int frame) {
            float* row = x + size_t(frame) * dim;
            for (int d = 0; d < dim; d += LANES)
                store(row + d, multiply_add((load(row + d) - mean) * inverse, load(group_scale_ + d), load(group_bias_ + d)));
        });
    }

    void attend_within(Team& team, const Layer& layer, float* x, int frames) const {
        const int dim = shape_.dim, width = 3 * dim;
        Array<float> qkv = project(team, layer.attention_norm, *layer.qkv, x, width_, frames);
        Array<ClipNumber> rotated = room<ClipNumber>(size_t(frames) * width);
        team.each(frames, [&](int frame) {
            float* row = &qkv[size_t(frame) * width];
            for (int head = 0; head < 2 * shape_.heads; ++head)
                rotate(rotary_, shape_.head_dim, shape_.rotary_dim, row + head * shape_.head_dim, frame);
            for (int d = 0; d < width; d += LANES) store_number(&rotated[size_t(frame) * width + d], load(row + d));
        });
        Array<float> context = room<float>(size_t(frames) * dim);
        const int shares = team.size() > 1 ? (4 * team.size() + shape_.heads - 1) / shape_.heads : 1;  // of a head's queries
        team.each(shape_.heads * shares, [&](int task) {
            const int column = task / shares * shape_.head_dim, share = task % shares;
            const ClipHead seen(rotated.get() + dim + column, rotated.get() + 2 * dim + column, width, frames, shape_.head_dim);
            const Rows queries = rows_of(rotated.get() + column, width);
            seen.attend(queries, frames * share / shares, frames * (share + 1) / shares, context.get() + column, dim);
        });
        add_product(team, *layer.out, context.get(), dim, frames, x);
    }

    DecoderShape shape_;
    Width width_;
    std::vector<Layer> layers_;
    std::vector<const Weights*> cross_;
    const Weights* conv_[3] = {};
    const float *group_scale_ = nullptr, *group_bias_ = nullptr, *norm_ = nullptr, *rotary_ = nullptr;
};

}  // namespace moonshine
