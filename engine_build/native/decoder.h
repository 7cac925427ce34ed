// The decoder: tokens into the next ones. See engine_build/model.py, whose arithmetic this is.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "attention.h"
#include "layers.h"

namespace moonshine {

constexpr int CHUNK_BLOCKS = 32;  // of the vocabulary: so many logits of each row stay near until they are judged

struct DecoderShape {
    int dim, heads, head_dim, rotary_dim, mlp_dim, layers, vocabulary, max_positions, end_token;

    int attention_dim() const { return heads * head_dim; }
};

// One row of a pass.
struct Row {
    const int64_t* tokens;
    int count, past, frames;
    float end_bias;
    void* self;   // what it keeps of its own positions: layers x heads of Head<Number>
    void* cross;  // keys and values of its audio, likewise
    int cross_positions;  // of these: room for so many frames
};

// What is added to the logits of some tokens, which ascend, for one choice.
struct BiasList {
    const int64_t* tokens;
    const float* values;
    int count;
};

// The leading dimensions of a head, by halves: x * cosine + swapped(x) * sine.
inline void rotate(const float* rotary, int head_dim, int rotary_dim, float* head, int position) {
    const float* cosine = rotary + size_t(position) * 2 * head_dim;
    const float* sine = cosine + head_dim;
    const int half = rotary_dim / 2;
    for (int d = 0; d < half; ++d) {
        const float first = head[d], second = head[half + d];
        head[d] = first * cosine[d] + second * sine[d];
        head[half + d] = second * cosine[half + d] + first * sine[half + d];
    }
}

template <class Number>
class Decoder {
  public:
    // Throws std::invalid_argument for what is missing, and for a shape that this code is not written for.
    Decoder(const DecoderShape& shape, const Parameters& parameters) : shape_(shape), width_(shape.dim) {
        check_shape();
        for (int layer = 0; layer < shape_.layers; ++layer) layers_.push_back(layer_of(parameters, layer));
        norm_ = parameters.table("decoder.norm"), rotary_ = parameters.table("rotary");
        embedding_ = parameters.table("embedding"), forbidden_ = parameters.table("forbidden");
        logits_ = &parameters.weights("logits");
    }

    // list_numbers, chosen, log_probs: of all tokens of all rows, one behind the other.
    void decode(Team& team, const std::vector<Row>& rows, int self_positions, const std::vector<BiasList>& lists, const int* list_numbers,
                int64_t* chosen, float* log_probs) const {
        const std::vector<Place> places = places_of(rows);
        const int count = static_cast<int>(places.size());
        Array<float> x = embedded(rows, places);
        for (int layer = 0; layer < shape_.layers; ++layer) {
            attend_to_itself(team, layer, rows, places, self_positions, x.get());
            attend_to_audio(team, layer, rows, places, x.get(), [](int, int, const float*) {});
            feed_forward_gated(team, layers_[layer], x.get(), count);
        }
        choose(team, rows, places, x.get(), lists, list_numbers, chosen, log_probs);
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
            feed_forward_gated(team, layers_[layer], x.get(), row.count);
        }
    }

  private:
    struct Layer {
        const float *attention_norm, *cross_norm, *mlp_norm;
        const Weights *qkv, *out, *cross_query, *cross_out, *fc1, *fc2;
    };
    // A token of a pass: which row's, and its number within it.
    struct Place {
        int row, index;
    };

    void check_shape() const {
        const int vectors = rounded_up(shape_.head_dim, LANES) / LANES;
        check_width("the decoder's dimensions", shape_.dim);
        check_width("the decoder's attention", shape_.attention_dim());
        if (shape_.mlp_dim % LANES || shape_.vocabulary % LANES)
            throw std::invalid_argument("dimensions must be whole vectors of " + std::to_string(LANES));
        if (vectors > MOST_VECTORS) throw std::invalid_argument("heads of " + std::to_string(shape_.head_dim) + " dimensions are not taken");
    }

    static Layer layer_of(const Parameters& parameters, int layer) {
        const std::string at = "decoder." + std::to_string(layer) + ".";
        return {parameters.table(at + "attention_norm"), parameters.table(at + "cross_norm"), parameters.table(at + "mlp_norm"),
                &parameters.weights(at + "qkv"), &parameters.weights(at + "out"), &parameters.weights(at + "cross_query"),
                &parameters.weights(at + "cross_out"), &parameters.weights(at + "fc1"), &parameters.weights(at + "fc2")};
    }
    Head<Number> head_of(void* memory, int layer, int index, int positions) const {
        return Head<Number>(static_cast<Number*>(memory), layer * shape_.heads + index, positions, shape_.head_dim);
    }

    void rotate_queries_and_keys(float* qkv, int position) const {
        for (int head = 0; head < 2 * shape_.heads; ++head)
            rotate(rotary_, shape_.head_dim, shape_.rotary_dim, qkv + head * shape_.head_dim, position);
    }

    void feed_forward_gated(Team& team, const Layer& layer, float* x, int rows) const {
        const int width = shape_.mlp_dim;
        Array<float> both = project(team, layer.mlp_norm, *layer.fc1, x, width_, rows);
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
        const Layer& layer = layers_[number];
        const int dim = shape_.attention_dim(), width = 3 * dim, count = static_cast<int>(places.size());
        Array<float> qkv = project(team, layer.attention_norm, *layer.qkv, x, width_, count);
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
        const Layer& layer = layers_[number];
        const int dim = shape_.attention_dim(), count = static_cast<int>(places.size());
        Array<float> queries = project(team, layer.cross_norm, *layer.cross_query, x, width_, count);
        Array<float> context = room<float>(size_t(count) * dim);
        each_head(team, rows, [&](int index, const Row& row, int begin) {
            Array<float> scores = room<float>(size_t(QUERIES) * row.cross_positions);
            attend(
                head_of(row.cross, number, index, row.cross_positions), row.count,
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
        float judged;               // the chosen one's logit as it was judged: with its bias
        int token;
    };

    void choose(Team& team, const std::vector<Row>& rows, const std::vector<Place>& places, const float* x,
                const std::vector<BiasList>& lists, const int* list_numbers, int64_t* chosen, float* log_probs) const {
        const int count = static_cast<int>(places.size()), chunks = (logits_->blocks() + CHUNK_BLOCKS - 1) / CHUNK_BLOCKS;
        Prepared prepared(*logits_, count);
        prepare_normalised(team, norm_, x, width_, count, prepared);
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
                const int columns = std::min(width, shape_.vocabulary - begin);
                float* own = &logits[size_t(place - first) * width];
                Best& best = found[size_t(place) * chunks + chunk] = best_of(own, begin, columns, bias);
                prefer_biased(lists[list_numbers[place]], own, begin, columns, best);
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

    // The best one becomes a token of the list where its logit and its bias are more.
    static void prefer_biased(const BiasList& list, const float* logits, int begin, int count, Best& best) {
        const int64_t* last = list.tokens + list.count;
        for (const int64_t* token = std::lower_bound(list.tokens, last, begin); token != last && *token < begin + count; ++token) {
            const float logit = logits[*token - begin], judged = logit + list.values[token - list.tokens];
            if (judged > best.judged) best.judged = judged, best.logit = logit, best.token = static_cast<int>(*token);
        }
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

    DecoderShape shape_;
    Width width_;
    std::vector<Layer> layers_;
    const Weights* logits_ = nullptr;
    const float *norm_ = nullptr, *rotary_ = nullptr, *embedding_ = nullptr, *forbidden_ = nullptr;
};

}  // namespace moonshine
