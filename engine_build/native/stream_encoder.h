// The encoder of Moonshine's streaming models: new audio of many streams into the decoder's keys and values, each frame once.
//
// A layer sees some frames before and some after each frame. What it computes for a frame whose later frames have all come is final
// and goes on to the next layer once. The newest frames, which lack later ones, are computed in every call as if the audio ended
// here, and are forgotten when more comes. So the output is always that of one pass over the audio so far. No row of a product knows
// of another, and keys and values are kept as they were computed: the output is the same bit for bit, whatever the pieces.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "attention.h"
#include "decoder.h"
#include "layers.h"

namespace moonshine {

constexpr int FRAME_SAMPLES = 80;       // of the first stage; two strides of 2 follow
constexpr int TAPS = 5, CONV_STRIDE = 2;  // of both convolutions, which see the past only
constexpr float CENTRED_EPSILON = 1e-6f;  // of the first stage's normalisation
constexpr int CROSS_STEP = 5 * BLOCK;   // frames by which a stream's room for keys and values grows

struct StreamEncoderShape {
    int dim, heads, head_dim, mlp_dim, layers, decoder_layers, decoder_heads, decoder_head_dim;

    int attention_dim() const { return heads * head_dim; }
    int decoder_attention_dim() const { return decoder_heads * decoder_head_dim; }
};

// What one stream keeps between calls.
template <class Number>
struct Stream {
    // The newest inputs of a convolution, as many as it looks back, and how many there have been.
    struct Tail {
        Array<float> frames;
        int seen = 0;
    };
    // Of one layer: `waiting` frames whose later ones have not come, with their queries; keys and values of these and of `past`
    // frames before them.
    struct Layer {
        Array<float> frames, queries, keys, values;
        int past = 0, waiting = 0;
    };

    Array<float> samples;  // fewer than FRAME_SAMPLES
    int sample_count = 0;
    Tail tails[2];
    std::vector<Layer> layers;
    int final_frames = 0, frames = 0;  // frames: with those that lack later ones
    Array<Number> cross;               // keys and values for the decoder
    int cross_positions = 0;
};

// Frames of all streams one behind the other: of each stream final ones, then provisional ones.
struct Span {
    int first = 0, final_count = 0, provisional_count = 0;

    int count() const { return final_count + provisional_count; }
};

template <class Number>
class StreamEncoder {
  public:
    // Throws std::invalid_argument for what is missing, and for a shape that this code is not written for.
    StreamEncoder(const StreamEncoderShape& shape, const Parameters& parameters) : shape_(shape), width_(shape.dim) {
        check_width("the encoder's attention", shape.attention_dim());
        if (width_.whole > MOST_DIM || shape.mlp_dim % LANES || rounded_up(shape.head_dim, LANES) > MOST_HEAD)
            throw std::invalid_argument("the encoder's dimensions are not taken");
        linear_ = &parameters.weights("frontend.linear");
        conv_[0] = &parameters.weights("frontend.conv1"), conv_[1] = &parameters.weights("frontend.conv2");
        compression_ = *parameters.table("frontend.compression");
        const float* windows = parameters.table("encoder.windows");
        for (int layer = 0; layer < shape.layers; ++layer)
            layers_.push_back(layer_of(parameters, layer, static_cast<int>(windows[2 * layer]), static_cast<int>(windows[2 * layer + 1])));
        norm_ = parameters.table("encoder.norm"), positions_ = parameters.table("encoder.positions");
        max_frames_ = static_cast<int>(parameters.count("encoder.positions") / width_.whole);
        adapter_ = parameters.has("encoder.adapter") ? &parameters.weights("encoder.adapter") : nullptr;
        for (int layer = 0; layer < shape.decoder_layers; ++layer) cross_.push_back(&parameters.weights("cross." + std::to_string(layer)));
    }

    Stream<Number>* open() const {
        auto stream = std::make_unique<Stream<Number>>();
        stream->samples = zeros<float>(FRAME_SAMPLES);
        for (int index = 0; index < 2; ++index) stream->tails[index].frames = zeros<float>(size_t(TAPS - 1) * (index + 1) * width_.whole);
        for (const Layer& layer : layers_) {
            typename Stream<Number>::Layer kept;
            kept.frames = room<float>(size_t(layer.future) * width_.whole), kept.queries = room<float>(size_t(layer.future) * shape_.attention_dim());
            kept.keys = room<float>(size_t(layer.past + layer.future) * shape_.attention_dim());
            kept.values = room<float>(size_t(layer.past + layer.future) * shape_.attention_dim());
            stream->layers.push_back(std::move(kept));
        }
        return stream.release();
    }

    // samples: new ones of all streams, one behind the other; counts: of each. Throws std::invalid_argument, before anything is
    // changed, for a stream that would have more frames than there are positions.
    void append(Team& team, const std::vector<Stream<Number>*>& streams, const float* samples, const int* counts) const {
        check_room(streams, counts);
        std::vector<Span> spans;
        Array<float> x = front(team, streams, samples, counts, spans);
        for (size_t layer = 0; layer < layers_.size(); ++layer) x = encode(team, layer, streams, x, spans);
        finish(team, streams, x.get(), spans);
    }

  private:
    static constexpr int MOST_HEAD = 256, MOST_SEEN = 64;  // dimensions of a head, frames that one frame sees

    struct Layer {
        const float *attention_norm, *mlp_norm;
        const Weights *qkv, *out, *fc1, *fc2;
        int past, future;  // frames before and after it that a frame sees
    };

    static Layer layer_of(const Parameters& parameters, int layer, int past, int future) {
        if (past < 0 || future < 0 || past + 1 + future > MOST_SEEN)
            throw std::invalid_argument("a window of " + std::to_string(past) + " and " + std::to_string(future) + " frames is not taken");
        const std::string at = "encoder." + std::to_string(layer) + ".";
        return {parameters.table(at + "attention_norm"), parameters.table(at + "mlp_norm"), &parameters.weights(at + "qkv"),
                &parameters.weights(at + "out"), &parameters.weights(at + "fc1"), &parameters.weights(at + "fc2"), past, future};
    }

    // Outputs of a causal convolution after so many inputs.
    static int outputs_after(int inputs) { return inputs > 0 ? (inputs - 1) / CONV_STRIDE + 1 : 0; }

    void check_room(const std::vector<Stream<Number>*>& streams, const int* counts) const {
        for (size_t index = 0; index < streams.size(); ++index) {
            const Stream<Number>& stream = *streams[index];
            const int inputs = stream.tails[0].seen + (stream.sample_count + counts[index]) / FRAME_SAMPLES;
            if (outputs_after(outputs_after(inputs)) > max_frames_)
                throw std::invalid_argument("a stream has more than " + std::to_string(max_frames_) + " frames");
        }
    }

    // Samples into frames of `dim` numbers, 50 in a second.
    Array<float> front(Team& team, const std::vector<Stream<Number>*>& streams, const float* samples, const int* counts,
                       std::vector<Span>& spans) const {
        const int dim = width_.whole;
        int total = 0;
        for (size_t index = 0; index < streams.size(); ++index) {
            spans.push_back({total, (streams[index]->sample_count + counts[index]) / FRAME_SAMPLES, 0});
            total += spans.back().final_count;
        }
        Prepared compressed(*linear_, total);
        for (size_t index = 0; index < streams.size(); samples += counts[index], ++index)
            compress(*streams[index], samples, counts[index], spans[index], compressed);
        Array<float> x = room<float>(size_t(total) * dim);
        multiply(team, *linear_, compressed.rows(), total, [&](int row, int column, Floats values) {
            store(&x[size_t(row) * dim + column], silu(values));
        });
        x = convolve(team, 0, streams, x.get(), spans, [](Floats values) { return silu(values); });
        return convolve(team, 1, streams, x.get(), spans, [](Floats values) { return values; });
    }

    void compress(Stream<Number>& stream, const float* samples, int count, const Span& span, Prepared& compressed) const {
        int taken = 0;
        for (int frame = 0; frame < span.final_count; ++frame) {
            const int kept = stream.sample_count;
            std::copy_n(samples + taken, FRAME_SAMPLES - kept, stream.samples.get() + kept);
            taken += FRAME_SAMPLES - kept, stream.sample_count = 0;
            float values[FRAME_SAMPLES];
            compress_frame(stream.samples.get(), values);
            compressed.put(span.first + frame, values);
        }
        std::copy_n(samples + taken, count - taken, stream.samples.get() + stream.sample_count);
        stream.sample_count += count - taken;
    }

    // asinh(compression * x) of samples around zero, scaled to a common loudness.
    void compress_frame(const float* samples, float* values) const {
        float total = 0, squares = 0;
        for (int index = 0; index < FRAME_SAMPLES; ++index) total += samples[index];
        const float mean = total / FRAME_SAMPLES;
        for (int index = 0; index < FRAME_SAMPLES; ++index) squares += (samples[index] - mean) * (samples[index] - mean);
        const float scale = compression_ / std::sqrt(squares / FRAME_SAMPLES + CENTRED_EPSILON);
        for (int index = 0; index < FRAME_SAMPLES; ++index) {
            const float value = (samples[index] - mean) * scale, size = std::fabs(value);
            values[index] = std::copysign(std::log(size + std::sqrt(size * size + 1.0f)), value);
        }
    }

    // A convolution is a product whose rows overlap. spans: of the inputs, and then of the outputs.
    template <class Activation>
    Array<float> convolve(Team& team, int number, const std::vector<Stream<Number>*>& streams, const float* x, std::vector<Span>& spans,
                          const Activation& activation) const {
        const Weights& weights = *conv_[number];
        const int inputs = weights.depth / TAPS, before = TAPS - 1;
        std::vector<Span> outputs;
        int total = 0;
        for (size_t index = 0; index < streams.size(); ++index) {
            const int seen = streams[index]->tails[number].seen;
            outputs.push_back({total, outputs_after(seen + spans[index].final_count) - outputs_after(seen), 0});
            total += outputs.back().final_count;
        }
        Prepared windows(weights, total);
        team.each(static_cast<int>(streams.size()), [&](int index) {
            auto& tail = streams[index]->tails[number];
            const Span &from = spans[index], &to = outputs[index];
            Array<float> all = room<float>(size_t(before + from.final_count) * inputs);
            std::copy_n(tail.frames.get(), size_t(before) * inputs, all.get());
            std::copy_n(x + size_t(from.first) * inputs, size_t(from.final_count) * inputs, &all[size_t(before) * inputs]);
            const int first = tail.seen % CONV_STRIDE;  // of the new inputs, the one that the first output ends with
            for (int row = 0; row < to.final_count; ++row) windows.put(to.first + row, &all[size_t(first + row * CONV_STRIDE) * inputs]);
            std::copy_n(&all[size_t(from.final_count) * inputs], size_t(before) * inputs, tail.frames.get());
            tail.seen += from.final_count;
        });
        Array<float> y = room<float>(size_t(total) * weights.columns);
        multiply(team, weights, windows.rows(), total, [&](int row, int column, Floats values) {
            store(&y[size_t(row) * weights.columns + column], activation(values));
        });
        spans = std::move(outputs);
        return y;
    }

    // One layer. Returns the outputs of all frames that are known: those that waited, and the new ones.
    Array<float> encode(Team& team, size_t number, const std::vector<Stream<Number>*>& streams, const Array<float>& x,
                        std::vector<Span>& spans) const {
        const Layer& layer = layers_[number];
        const int dim = width_.whole, width = shape_.attention_dim(), rows = spans.back().first + spans.back().count();
        const Array<float> qkv = project(team, layer.attention_norm, *layer.qkv, x.get(), width_, rows);
        std::vector<Span> outputs;
        int total = 0;
        for (size_t index = 0; index < streams.size(); ++index) {
            const int waiting = streams[index]->layers[number].waiting, known = waiting + spans[index].final_count;
            const int final_count = std::max(0, known - layer.future);
            outputs.push_back({total, final_count, known + spans[index].provisional_count - final_count});
            total += outputs.back().count();
        }
        Array<float> y = room<float>(size_t(total) * dim), context = room<float>(size_t(total) * width);
        team.each(static_cast<int>(streams.size()), [&](int index) {
            attend_and_keep(layer, streams[index]->layers[number], spans[index], outputs[index], x.get(), qkv.get(), y.get(), context.get());
        });
        add_product(team, *layer.out, context.get(), width, total, y.get());
        feed_forward(team, layer.mlp_norm, *layer.fc1, *layer.fc2, y.get(), width_, total);
        spans = std::move(outputs);
        return y;
    }

    // Of one stream: puts the outputs' residuals into y and their contexts into `context`, and keeps what later frames need.
    void attend_and_keep(const Layer& layer, typename Stream<Number>::Layer& kept, const Span& in, const Span& out, const float* x,
                         const float* qkv, float* y, float* context) const {
        const int dim = width_.whole, width = shape_.attention_dim(), frames = kept.past + out.count();
        Array<float> queries = room<float>(size_t(out.count()) * width);
        Array<float> keys = room<float>(size_t(frames) * width), values = room<float>(size_t(frames) * width);
        float* residuals = y + size_t(out.first) * dim;
        std::copy_n(kept.frames.get(), size_t(kept.waiting) * dim, residuals);
        std::copy_n(x + size_t(in.first) * dim, size_t(in.count()) * dim, residuals + size_t(kept.waiting) * dim);
        std::copy_n(kept.queries.get(), size_t(kept.waiting) * width, queries.get());
        const int held = kept.past + kept.waiting;
        std::copy_n(kept.keys.get(), size_t(held) * width, keys.get());
        std::copy_n(kept.values.get(), size_t(held) * width, values.get());
        for (int row = 0; row < in.count(); ++row) {
            const float* from = qkv + size_t(in.first + row) * 3 * width;
            std::copy_n(from, width, &queries[size_t(kept.waiting + row) * width]);
            std::copy_n(from + width, width, &keys[size_t(held + row) * width]);
            std::copy_n(from + 2 * width, width, &values[size_t(held + row) * width]);
        }
        std::fill_n(&keys[size_t(frames) * width], LANES, 0.0f);  // a head that is no whole vector is read with what lies behind it
        for (int row = 0; row < out.count(); ++row) {
            const int at = kept.past + row, first = std::max(0, at - layer.past), last = std::min(frames - 1, at + layer.future);
            for (int head = 0; head < shape_.heads; ++head) {
                const int column = head * shape_.head_dim;
                attend(&queries[size_t(row) * width + column], &keys[size_t(first) * width + column], &values[size_t(first) * width + column],
                       last - first + 1, context + size_t(out.first + row) * width + column);
            }
        }
        const int waiting = kept.waiting + in.final_count - out.final_count;
        const int past = std::min(kept.past + out.final_count, layer.past), begin = kept.past + out.final_count - past;
        std::copy_n(residuals + size_t(out.final_count) * dim, size_t(waiting) * dim, kept.frames.get());
        std::copy_n(&queries[size_t(out.final_count) * width], size_t(waiting) * width, kept.queries.get());
        std::copy_n(&keys[size_t(begin) * width], size_t(past + waiting) * width, kept.keys.get());
        std::copy_n(&values[size_t(begin) * width], size_t(past + waiting) * width, kept.values.get());
        kept.past = past, kept.waiting = waiting;
    }

    // One query of one head over `seen` keys and values, which lie as far apart as attention is wide.
    void attend(const float* query, const float* keys, const float* values, int seen, float* context) const {
        const int width = shape_.attention_dim(), whole = rounded_up(shape_.head_dim, LANES);
        float padded[MOST_HEAD] = {}, scores[MOST_SEEN];
        std::copy_n(query, shape_.head_dim, padded);
        for (int index = 0; index < seen; ++index) {
            Floats sum = spread(0.0f);
            for (int d = 0; d < whole; d += LANES) sum = multiply_add(load(padded + d), load(keys + size_t(index) * width + d), sum);
            scores[index] = sum_of(sum);
        }
        softmax(scores, seen, seen);
        for (int d = 0; d < whole; d += LANES) {
            Floats sum = spread(0.0f);
            for (int index = 0; index < seen; ++index)
                sum = multiply_add(spread(scores[index]), load(values + size_t(index) * width + d), sum);
            store(padded + d, sum);
        }
        std::copy_n(padded, shape_.head_dim, context);
    }

    // The last layer's outputs into keys and values of the decoder's layers.
    void finish(Team& team, const std::vector<Stream<Number>*>& streams, const float* x, const std::vector<Span>& spans) const {
        const int rows = spans.back().first + spans.back().count(), width = shape_.decoder_attention_dim();
        Array<float> positioned = room<float>(size_t(rows) * width_.whole);
        team.each(static_cast<int>(streams.size()), [&](int index) {
            Stream<Number>& stream = *streams[index];
            const Span& span = spans[index];
            for (int row = 0; row < span.count(); ++row) {
                float* to = &positioned[size_t(span.first + row) * width_.whole];
                normalise(x + size_t(span.first + row) * width_.whole, norm_, width_, to);
                const float* position = positions_ + size_t(stream.final_frames + row) * width_.whole;
                for (int d = 0; d < width_.whole; d += LANES) store(to + d, load(to + d) + load(position + d));
            }
            stream.frames = stream.final_frames + span.count();
            make_room(stream);
        });
        Prepared prepared(*cross_[0], rows);
        prepare(team, positioned.get(), rows, prepared);
        Array<Number> keys_values = room<Number>(size_t(rows) * 2 * width);
        for (int layer = 0; layer < shape_.decoder_layers; ++layer) {
            multiply(team, *cross_[layer], prepared.rows(), rows, [&](int row, int column, Floats values) {
                store(&keys_values[size_t(row) * 2 * width + column], values);
            });
            team.each(static_cast<int>(streams.size()) * shape_.decoder_heads, [&](int task) {
                const Stream<Number>& stream = *streams[task / shape_.decoder_heads];
                const Span& span = spans[task / shape_.decoder_heads];
                const int head = task % shape_.decoder_heads;
                const Number* from = &keys_values[size_t(span.first) * 2 * width + head * shape_.decoder_head_dim];
                head_of(stream, layer * shape_.decoder_heads + head).keep_all(stream.final_frames, from, from + width, 2 * width, span.count());
            });
        }
        for (size_t index = 0; index < streams.size(); ++index) streams[index]->final_frames += spans[index].final_count;
    }

    // The adapter: from the encoder's width to the decoder's.
    void prepare(Team& team, const float* x, int rows, Prepared& prepared) const {
        if (adapter_ == nullptr) {
            team.each(rows, [&](int row) { prepared.put(row, x + size_t(row) * width_.whole); });
            return;
        }
        Prepared encoded(*adapter_, rows);
        team.each(rows, [&](int row) { encoded.put(row, x + size_t(row) * width_.whole); });
        Array<float> adapted = room<float>(size_t(rows) * adapter_->columns);
        multiply(team, *adapter_, encoded.rows(), rows, [&](int row, int column, Floats values) {
            store(&adapted[size_t(row) * adapter_->columns + column], values);
        });
        team.each(rows, [&](int row) { prepared.put(row, &adapted[size_t(row) * adapter_->columns]); });
    }

    Head<Number> head_of(const Stream<Number>& stream, int index) const {
        return Head<Number>(stream.cross.get(), index, stream.cross_positions, shape_.decoder_head_dim);
    }

    // For the keys and values of all its frames; those that are final move along.
    void make_room(Stream<Number>& stream) const {
        if (stream.frames <= stream.cross_positions) return;
        Stream<Number> larger_one;
        larger_one.cross_positions = rounded_up(stream.frames, CROSS_STEP);
        const int heads = shape_.decoder_layers * shape_.decoder_heads;
        larger_one.cross = lasting<Number>(heads * Head<Number>::size(larger_one.cross_positions, shape_.decoder_head_dim));
        for (int index = 0; index < heads && stream.cross_positions; ++index) {
            const Head<Number> from = head_of(stream, index), to = head_of(larger_one, index);
            for (int d = 0; d < from.dim; ++d)
                std::copy_n(from.key + size_t(d) * from.positions, stream.final_frames, to.key + size_t(d) * to.positions);
            std::copy_n(from.value, size_t(stream.final_frames) * from.value_dim, to.value);
        }
        stream.cross = std::move(larger_one.cross), stream.cross_positions = larger_one.cross_positions;
    }

    StreamEncoderShape shape_;
    Width width_;
    std::vector<Layer> layers_;
    std::vector<const Weights*> cross_;
    const Weights *linear_ = nullptr, *conv_[2] = {}, *adapter_ = nullptr;
    const float *norm_ = nullptr, *positions_ = nullptr;
    float compression_ = 1.0f;
    int max_frames_ = 0;
};

}  // namespace moonshine
