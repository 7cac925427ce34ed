// Moonshine: audio into keys and values, tokens into the next ones. See engine_build/model.py, whose arithmetic this is.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "attention.h"
#include "product.h"
#include "team.h"
#include "vectors.h"

namespace moonshine {

constexpr float EPSILON = 1e-5f;  // of the norms
constexpr int KERNELS[3] = {127, 7, 3}, STRIDES[3] = {64, 3, 2};
constexpr int CHUNK_BLOCKS = 32;  // of the vocabulary: so many logits of each row stay near until they are judged
constexpr int MOST_DIM = 1024;

struct Shape {
    int dim, heads, head_dim, rotary_dim, mlp_dim, encoder_layers, decoder_layers, vocabulary, max_positions, end_token;
};

// A vector or a matrix as it comes, not yet packed.
struct Table {
    Array<float> numbers;
    size_t count;
};

// One row of a decoder's pass.
struct Row {
    const int64_t* tokens;
    int count, past, frames;
    float end_bias;
    void* self;   // what it keeps of its own positions: layers x heads of Head<Number>
    void* cross;  // what it hears
};

inline int count_frames(int samples) {
    for (int index = 0; index < 3; ++index) samples = samples < KERNELS[index] ? 0 : (samples - KERNELS[index]) / STRIDES[index] + 1;
    return samples;
}

// Layer normalisation without a bias.
inline void normalise(const float* row, const float* weight, int dim, float* out) {
    Floats total = spread(0.0f);
    for (int d = 0; d < dim; d += LANES) total = total + load(row + d);
    const Floats mean = spread(sum_of(total) / dim);
    Floats squares = spread(0.0f);
    for (int d = 0; d < dim; d += LANES) {
        const Floats centred = load(row + d) - mean;
        squares = multiply_add(centred, centred, squares);
    }
    const Floats inverse = spread(1.0f / std::sqrt(sum_of(squares) / dim + EPSILON));
    for (int d = 0; d < dim; d += LANES) store(out + d, (load(row + d) - mean) * inverse * load(weight + d));
}

template <class Number>
class Model {
  public:
    explicit Model(const Shape& shape) : shape_(shape) {}

    void set_weights(const std::string& name, Weights weights) { weights_[name] = std::move(weights); }
    void set_table(const std::string& name, const float* numbers, size_t count) {
        Table table{zeros<float>(count), count};
        std::copy_n(numbers, count, table.numbers.get());
        tables_[name] = std::move(table);
    }

    // ClipHead is there: biases go to their products, names are looked up once. Throws std::invalid_argument for what is missing,
    // and for a shape that this code is not written for.
    void complete() {
        check_shape();
        for (auto& [name, weights] : weights_)
            if (const auto bias = tables_.find(name + ".bias"); bias != tables_.end()) weights.set_bias(bias->second.numbers.get());
        for (int layer = 0; layer < shape_.encoder_layers; ++layer) encoder_.push_back(encoder_layer(layer));
        for (int layer = 0; layer < shape_.decoder_layers; ++layer) decoder_.push_back(decoder_layer(layer));
        conv_[0] = &weights("conv1"), conv_[1] = &weights("conv2"), conv_[2] = &weights("conv3");
        group_scale_ = table("groupnorm.weight"), group_bias_ = table("groupnorm.bias");
        encoder_norm_ = table("encoder.norm"), decoder_norm_ = table("decoder.norm");
        rotary_ = table("rotary"), embedding_ = table("embedding"), forbidden_ = table("forbidden");
        logits_ = &weights("logits");
    }

    size_t head_size(int positions) const { return Head<Number>::size(positions, shape_.head_dim); }

    // audio: samples floats; cross: decoder_layers x heads of Head<Number> with `positions` positions each, which are filled.
    void encode(Team& team, const float* audio, int samples, Number* cross, int positions) const {
        const int dim = shape_.dim, frames = count_frames(samples);
        Array<float> x = convolve(team, audio, samples);
        for (const EncoderLayer& layer : encoder_) {
            attend_within(team, layer, x.get(), frames);
            feed_forward(team, layer.mlp_norm, *layer.fc1, *layer.fc2, x.get(), frames);
        }
        Prepared heard(weights("cross.0"), frames);
        prepare_normalised(team, encoder_norm_, x.get(), frames, heard);
        Array<Number> keys_values = room<Number>(size_t(frames) * 2 * dim);
        for (int layer = 0; layer < shape_.decoder_layers; ++layer) {
            multiply(team, *decoder_[layer].cross, heard.rows(), frames, [&](int row, int column, Floats values) {
                store(&keys_values[size_t(row) * 2 * dim + column], values);
            });
            team.each(shape_.heads, [&](int index) {
                const Head<Number> head = head_of(cross, layer, index, positions);
                const Number* from = keys_values.get() + index * shape_.head_dim;
                head.keep_all(from, from + dim, 2 * dim, frames);
            });
        }
    }

    // chosen, log_probs: of all tokens of all rows, one behind the other.
    void decode(Team& team, const std::vector<Row>& rows, int self_positions, int64_t* chosen, float* log_probs) const {
        const std::vector<Place> places = places_of(rows);
        const int count = static_cast<int>(places.size());
        Array<float> x = embedded(rows, places);
        for (int layer = 0; layer < shape_.decoder_layers; ++layer) {
            attend_to_itself(team, layer, rows, places, self_positions, x.get());
            attend_to_audio(team, layer, rows, places, x.get(), [](int, int, const float*) {});
            feed_forward_gated(team, decoder_[layer], x.get(), count);
        }
        choose(team, rows, places, x.get(), chosen, log_probs);
    }

    // heads: pairs of layer and head. shares: float (tokens, frames) of the one row, the mean of these heads.
    void align(Team& team, const Row& row, const int* heads, int head_count, int self_positions, float* shares) const {
        const std::vector<Row> rows{row};
        const std::vector<Place> places = places_of(rows);
        Array<float> x = embedded(rows, places);
        int layers = 0;
        for (int index = 0; index < head_count; ++index) layers = std::max(layers, heads[2 * index] + 1);
        std::fill_n(shares, size_t(row.count) * row.frames, 0.0f);
        std::mutex adding;
        for (int layer = 0; layer < layers; ++layer) {
            attend_to_itself(team, layer, rows, places, self_positions, x.get());
            attend_to_audio(team, layer, rows, places, x.get(), [&](int head, int place, const float* share) {
                for (int index = 0; index < head_count; ++index) {
                    if (heads[2 * index] != layer || heads[2 * index + 1] != head) continue;
                    const std::lock_guard<std::mutex> lock(adding);
                    float* to = shares + size_t(place) * row.frames;
                    for (int frame = 0; frame < row.frames; ++frame) to[frame] += share[frame] / head_count;
                }
            });
            feed_forward_gated(team, decoder_[layer], x.get(), row.count);
        }
    }

  private:
    struct EncoderLayer {
        const float *attention_norm, *mlp_norm;
        const Weights *qkv, *out, *fc1, *fc2;
    };
    struct DecoderLayer {
        const float *attention_norm, *cross_norm, *mlp_norm;
        const Weights *qkv, *out, *cross, *cross_query, *cross_out, *fc1, *fc2;
    };
    // A token of a pass: which row's, and its number within it.
    struct Place {
        int row, index;
    };

    void check_shape() const {
        const int vectors = rounded_up(shape_.head_dim, LANES) / LANES;
        if (shape_.dim % LANES || shape_.mlp_dim % LANES || shape_.vocabulary % LANES || shape_.dim > MOST_DIM)
            throw std::invalid_argument("dimensions must be whole vectors of " + std::to_string(LANES) + ", at most 1,024");
        if (vectors < LEAST_VECTORS || vectors > MOST_VECTORS || shape_.heads * shape_.head_dim != shape_.dim ||
            shape_.head_dim % CLIP_UNIT)
            throw std::invalid_argument("heads of " + std::to_string(shape_.head_dim) + " dimensions are not taken");
    }

    const Weights& weights(const std::string& name) const {
        const auto found = weights_.find(name);
        if (found == weights_.end()) throw std::invalid_argument("the weights lack " + name);
        return found->second;
    }
    const float* table(const std::string& name) const {
        const auto found = tables_.find(name);
        if (found == tables_.end()) throw std::invalid_argument("the weights lack " + name);
        return found->second.numbers.get();
    }
    EncoderLayer encoder_layer(int layer) const {
        const std::string at = "encoder." + std::to_string(layer) + ".";
        return {table(at + "attention_norm"), table(at + "mlp_norm"), &weights(at + "qkv"), &weights(at + "out"),
                &weights(at + "fc1"), &weights(at + "fc2")};
    }
    DecoderLayer decoder_layer(int layer) const {
        const std::string at = "decoder." + std::to_string(layer) + ".";
        return {table(at + "attention_norm"), table(at + "cross_norm"), table(at + "mlp_norm"), &weights(at + "qkv"),
                &weights(at + "out"), &weights("cross." + std::to_string(layer)), &weights(at + "cross_query"),
                &weights(at + "cross_out"), &weights(at + "fc1"), &weights(at + "fc2")};
    }
    Head<Number> head_of(void* memory, int layer, int index, int positions) const {
        return Head<Number>(static_cast<Number*>(memory), layer * shape_.heads + index, positions, shape_.head_dim);
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

    void prepare_normalised(Team& team, const float* norm, const float* x, int rows, Prepared& prepared) const {
        team.each(rows, [&](int row) {
            float normalised[MOST_DIM];
            normalise(x + size_t(row) * shape_.dim, norm, shape_.dim, normalised);
            prepared.put(row, normalised);
        });
    }

    // out = weights * (norm of x); returns rows x columns.
    Array<float> project(Team& team, const float* norm, const Weights& weights, const float* x, int rows) const {
        Prepared prepared(weights, rows);
        prepare_normalised(team, norm, x, rows, prepared);
        Array<float> out = room<float>(size_t(rows) * weights.columns);
        multiply(team, weights, prepared.rows(), rows, [&](int row, int column, Floats values) {
            store(&out[size_t(row) * weights.columns + column], values);
        });
        return out;
    }

    // x += weights * from, whose rows lie `stride` apart
    void add_product(Team& team, const Weights& weights, const float* from, int stride, int rows, float* x) const {
        Prepared prepared(weights, rows);
        team.each(rows, [&](int row) { prepared.put(row, from + size_t(row) * stride); });
        multiply(team, weights, prepared.rows(), rows, [&](int row, int column, Floats values) {
            float* to = x + size_t(row) * shape_.dim + column;
            store(to, load(to) + values);
        });
    }

    // The leading dimensions of a head, by halves: x * cosine + swapped(x) * sine.
    void rotate(float* head, int position) const {
        const float* cosine = rotary_ + size_t(position) * 2 * shape_.head_dim;
        const float* sine = cosine + shape_.head_dim;
        const int half = shape_.rotary_dim / 2;
        for (int d = 0; d < half; ++d) {
            const float first = head[d], second = head[half + d];
            head[d] = first * cosine[d] + second * sine[d];
            head[half + d] = second * cosine[half + d] + first * sine[half + d];
        }
    }

    void rotate_queries_and_keys(float* qkv, int position) const {
        for (int head = 0; head < 2 * shape_.heads; ++head) rotate(qkv + head * shape_.head_dim, position);
    }

    void attend_within(Team& team, const EncoderLayer& layer, float* x, int frames) const {
        const int dim = shape_.dim, width = 3 * dim;
        Array<float> qkv = project(team, layer.attention_norm, *layer.qkv, x, frames);
        Array<ClipNumber> rotated = room<ClipNumber>(size_t(frames) * width);
        team.each(frames, [&](int frame) {
            float* row = &qkv[size_t(frame) * width];
            rotate_queries_and_keys(row, frame);
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

    void feed_forward(Team& team, const float* norm, const Weights& fc1, const Weights& fc2, float* x, int rows) const {
        Prepared prepared(fc1, rows);
        prepare_normalised(team, norm, x, rows, prepared);
        Array<float> inner = room<float>(size_t(rows) * fc1.columns);
        multiply(team, fc1, prepared.rows(), rows, [&](int row, int column, Floats values) {
            store(&inner[size_t(row) * fc1.columns + column], gelu(values));
        });
        add_product(team, fc2, inner.get(), fc1.columns, rows, x);
    }

    void feed_forward_gated(Team& team, const DecoderLayer& layer, float* x, int rows) const {
        const int width = shape_.mlp_dim;
        Array<float> both = project(team, layer.mlp_norm, *layer.fc1, x, rows);
        team.each(rows, [&](int row) {
            float *inner = &both[size_t(row) * 2 * width], *gate = inner + width;
            for (int d = 0; d < width; d += LANES) store(inner + d, silu(load(gate + d)) * load(inner + d));
        });
        add_product(team, *layer.fc2, both.get(), 2 * width, rows, x);
    }

    std::vector<Place> places_of(const std::vector<Row>& rows) const {
        std::vector<Place> places;
        for (int row = 0; row < static_cast<int>(rows.size()); ++row)
            for (int index = 0; index < rows[row].count; ++index) places.push_back({row, index});
        return places;
    }

    Array<float> embedded(const std::vector<Row>& rows, const std::vector<Place>& places) const {
        Array<float> x = room<float>(places.size() * shape_.dim);
        for (size_t place = 0; place < places.size(); ++place) {
            const int64_t token = rows[places[place].row].tokens[places[place].index];
            if (token < 0 || token >= shape_.vocabulary) throw std::invalid_argument("token " + std::to_string(token) + " is none");
            std::copy_n(embedding_ + size_t(token) * shape_.dim, shape_.dim, &x[place * shape_.dim]);
        }
        return x;
    }

    // Calls function(head, row, first place of the row) for every head of every row.
    template <class Function>
    void each_head(Team& team, const std::vector<Row>& rows, const Function& function) const {
        std::vector<int> begins(1, 0);
        for (const Row& row : rows) begins.push_back(begins.back() + row.count);
        team.each(static_cast<int>(rows.size()) * shape_.heads, [&](int task) {
            const int row = task / shape_.heads;
            function(task % shape_.heads, rows[row], begins[row]);
        });
    }

    void attend_to_itself(Team& team, int number, const std::vector<Row>& rows, const std::vector<Place>& places, int positions,
                     float* x) const {
        const DecoderLayer& layer = decoder_[number];
        const int dim = shape_.dim, width = 3 * dim, count = static_cast<int>(places.size());
        Array<float> qkv = project(team, layer.attention_norm, *layer.qkv, x, count);
        team.each(count, [&](int place) {
            rotate_queries_and_keys(&qkv[size_t(place) * width], rows[places[place].row].past + places[place].index);
        });
        Array<float> context = room<float>(size_t(count) * dim);
        each_head(team, rows, [&](int index, const Row& row, int begin) {
            const Head<Number> head = head_of(row.self, number, index, positions);
            const float* query = qkv.get() + size_t(begin) * width + index * shape_.head_dim;
            for (int token = 0; token < row.count; ++token)
                head.keep(row.past + token, query + size_t(token) * width + dim, query + size_t(token) * width + 2 * dim);
            Array<float> scores = room<float>(size_t(QUERIES) * positions);
            attend(
                head, row.count, [&](int q) { return query + size_t(q) * width; }, [&](int q) { return row.past + q + 1; },
                [&](int q) { return context.get() + size_t(begin + q) * dim + index * shape_.head_dim; }, scores.get(),
                [](int, const float*) {});
        });
        add_product(team, *layer.out, context.get(), dim, count, x);
    }

    template <class Take>
    void attend_to_audio(Team& team, int number, const std::vector<Row>& rows, const std::vector<Place>& places, float* x,
                    const Take& take) const {
        const DecoderLayer& layer = decoder_[number];
        const int dim = shape_.dim, count = static_cast<int>(places.size());
        Array<float> queries = project(team, layer.cross_norm, *layer.cross_query, x, count);
        Array<float> context = room<float>(size_t(count) * dim);
        each_head(team, rows, [&](int index, const Row& row, int begin) {
            const int positions = rounded_up(row.frames, BLOCK);
            Array<float> scores = room<float>(size_t(QUERIES) * positions);
            attend(
                head_of(row.cross, number, index, positions), row.count,
                [&](int q) { return queries.get() + size_t(begin + q) * dim + index * shape_.head_dim; },
                [&](int) { return row.frames; },
                [&](int q) { return context.get() + size_t(begin + q) * dim + index * shape_.head_dim; }, scores.get(),
                [&](int q, const float* shares) { take(index, begin + q, shares); });
        });
        add_product(team, *layer.cross_out, context.get(), dim, count, x);
    }

    // Of some columns of a row's logits.
    struct Best {
        float logit, highest, sum;  // of the chosen one; the highest of all; the sum of exp(logit - highest)
        float judged;               // the chosen one's logit as it was judged: with the end token's bias
        int token;
    };

    void choose(Team& team, const std::vector<Row>& rows, const std::vector<Place>& places, const float* x, int64_t* chosen,
                float* log_probs) const {
        const int count = static_cast<int>(places.size()), chunks = (logits_->blocks() + CHUNK_BLOCKS - 1) / CHUNK_BLOCKS;
        Prepared prepared(*logits_, count);
        prepare_normalised(team, decoder_norm_, x, count, prepared);
        std::vector<Best> found(size_t(count) * chunks);
        const int row_chunks = (count + CHUNK_ROWS - 1) / CHUNK_ROWS, width = CHUNK_BLOCKS * BLOCK;
        team.each(chunks * row_chunks, [&](int task) {
            const int chunk = task % chunks, first = task / chunks * CHUNK_ROWS, last = std::min(count, first + CHUNK_ROWS);
            const int block = chunk * CHUNK_BLOCKS, begin = block * BLOCK;
            Array<float> logits = room<float>(size_t(last - first) * width);
            multiply_part(*logits_, block, std::min(logits_->blocks(), block + CHUNK_BLOCKS), prepared.rows(), first, last,
                          [&](int row, int column, Floats values) {
                              store(&logits[size_t(row - first) * width + column - begin], values + load(forbidden_ + column));
                          });
            for (int place = first; place < last; ++place) {
                const Row& row = rows[places[place].row];
                const float bias = row.past + places[place].index == 0 ? row.end_bias : 0.0f;
                found[size_t(place) * chunks + chunk] = best_of(&logits[size_t(place - first) * width], begin,
                                                                std::min(width, shape_.vocabulary - begin), bias);
            }
        });
        for (int place = 0; place < count; ++place) {
            const Best best = joined(&found[size_t(place) * chunks], chunks);
            chosen[place] = best.token;
            log_probs[place] = is_finite(x + size_t(place) * shape_.dim) ? best.logit - best.highest - std::log(best.sum) : NAN;
        }
    }

    // Whatever is no number reaches what layers add to, and stays in it; int8 would hide it.
    bool is_finite(const float* row) const {
        Floats total = spread(0.0f);
        for (int d = 0; d < shape_.dim; d += LANES) total = total + load(row + d);
        return std::isfinite(sum_of(total));
    }

    Best best_of(float* logits, int begin, int count, float bias) const {
        Floats most = load(logits), total = spread(0.0f);
        for (int column = LANES; column < count; column += LANES) most = larger(most, load(logits + column));
        Best best{};
        best.highest = largest_of(most);
        for (int column = 0; column < count; column += LANES) total = total + exponential(load(logits + column) - spread(best.highest));
        best.sum = sum_of(total);
        best.judged = best.highest;
        const int end = shape_.end_token - begin;
        if (bias != 0.0f && end >= 0 && end < count) {
            logits[end] -= bias;
            best.judged = *std::max_element(logits, logits + count);
        }
        const int index = static_cast<int>(std::find(logits, logits + count, best.judged) - logits);
        best.token = begin + (index < count ? index : 0);  // none equals it where it is no number
        best.logit = index == end ? best.judged + bias : best.judged;
        return best;
    }

    static Best joined(const Best* parts, int count) {
        Best best = parts[0];
        for (int index = 1; index < count; ++index) best.highest = std::max(best.highest, parts[index].highest);
        best.sum = 0.0f;
        for (int index = 0; index < count; ++index) {
            best.sum += parts[index].sum * std::exp(parts[index].highest - best.highest);
            if (parts[index].judged > best.judged)
                best.judged = parts[index].judged, best.logit = parts[index].logit, best.token = parts[index].token;
        }
        return best;
    }

    Shape shape_;
    std::map<std::string, Weights> weights_;
    std::map<std::string, Table> tables_;
    std::vector<EncoderLayer> encoder_;
    std::vector<DecoderLayer> decoder_;
    const Weights *conv_[3] = {}, *logits_ = nullptr;
    const float *group_scale_ = nullptr, *group_bias_ = nullptr, *encoder_norm_ = nullptr, *decoder_norm_ = nullptr;
    const float *rotary_ = nullptr, *embedding_ = nullptr, *forbidden_ = nullptr;
};

}  // namespace moonshine
