// The library's functions, as runtime/engine/native_library.py calls them. Each returns 0, or -1 after putting a sentence in `error`.
#include <cstdio>
#include <exception>

#include "clip_encoder.h"
#include "decoder.h"
#include "stream_encoder.h"

using namespace moonshine;

#ifdef MOONSHINE_HALF
typedef Half Kept;
#else
typedef float Kept;
#endif

constexpr int ERROR_BYTES = 256;

// A decoder, and an encoder of one kind or the other.
struct Model {
    DecoderShape decoder_shape;
    StreamEncoderShape stream_shape;
    int clip_layers;  // 0: a model of streams
    Parameters parameters;
    std::unique_ptr<Decoder<Kept>> decoder;
    std::unique_ptr<ClipEncoder<Kept>> clip_encoder;
    std::unique_ptr<StreamEncoder<Kept>> stream_encoder;

    void complete() {
        parameters.complete();
        decoder = std::make_unique<Decoder<Kept>>(decoder_shape, parameters);
        if (clip_layers)
            clip_encoder = std::make_unique<ClipEncoder<Kept>>(decoder_shape, clip_layers, parameters);
        else
            stream_encoder = std::make_unique<StreamEncoder<Kept>>(stream_shape, parameters);
    }
};

template <class Function>
static int guarded(char* error, const Function& function) {
    try {
        function();
        return 0;
    } catch (const std::exception& failure) {
        std::snprintf(error, ERROR_BYTES, "%s", failure.what());
        return -1;
    }
}

extern "C" {

// shape: of the decoder and of the encoder; see SHAPE in native_library.py.
Model* moonshine_open(const int* shape) {
    const DecoderShape decoder{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], shape[6], shape[7], shape[8]};
    const StreamEncoderShape stream{shape[10], shape[11], shape[12], shape[13], shape[14], decoder.layers, decoder.heads, decoder.head_dim};
    return new Model{decoder, stream, shape[9], {}, nullptr, nullptr, nullptr};
}

void moonshine_close(Model* model) {
    delete model;
    Store::shared().clear();
}

// Null where there cannot be so many threads.
Team* moonshine_team(int threads) {
    try {
        return new Team(threads);
    } catch (const std::exception&) {
        return nullptr;
    }
}

void moonshine_dismiss(Team* team) { delete team; }

int moonshine_kept_bytes() { return sizeof(Kept); }

int moonshine_block() { return BLOCK; }

int moonshine_floats(Model* model, const char* name, const float* weight, int columns, int depth, char* error) {
    return guarded(error, [&] { model->parameters.set_weights(name, packed(weight, columns, depth)); });
}

int moonshine_bfloat16(Model* model, const char* name, const Bfloat16* weight, int columns, int depth, char* error) {
    return guarded(error, [&] { model->parameters.set_weights(name, packed(weight, columns, depth)); });
}

int moonshine_int8(Model* model, const char* name, const int8_t* weight, const float* scales, int columns, int depth,
                   char* error) {
    return guarded(error, [&] { model->parameters.set_weights(name, packed(weight, scales, columns, depth)); });
}

int moonshine_table(Model* model, const char* name, const float* numbers, int64_t count, char* error) {
    return guarded(error, [&] { model->parameters.set_table(name, numbers, count); });
}

int moonshine_complete(Model* model, char* error) {
    return guarded(error, [&] { model->complete(); });
}

int64_t moonshine_head_size(const Model* model, int positions) { return Head<Kept>::size(positions, model->decoder_shape.head_dim); }

int moonshine_encode(const Model* model, Team* team, const float* audio, int samples, Kept* cross, int positions, char* error) {
    return guarded(error, [&] { model->clip_encoder->encode(*team, audio, samples, cross, positions); });
}

// Null where there is no memory for it.
Stream<Kept>* moonshine_open_stream(const Model* model) {
    try {
        return model->stream_encoder->open();
    } catch (const std::exception&) {
        return nullptr;
    }
}

void moonshine_close_stream(Stream<Kept>* stream) { delete stream; }

// samples: new ones of all streams, one behind the other. cross, positions, frames: of each stream, afterwards.
int moonshine_append(const Model* model, Team* team, int count, void** streams, const float* samples, const int* counts, void** cross,
                     int* positions, int* frames, char* error) {
    return guarded(error, [&] {
        std::vector<Stream<Kept>*> all;
        for (int index = 0; index < count; ++index) all.push_back(static_cast<Stream<Kept>*>(streams[index]));
        model->stream_encoder->append(*team, all, samples, counts);
        for (int index = 0; index < count; ++index) {
            cross[index] = all[index]->cross.get();
            positions[index] = all[index]->cross_positions, frames[index] = all[index]->frames;
        }
    });
}

int moonshine_decode(const Model* model, Team* team, int row_count, const int64_t* tokens, const int* counts, const int* pasts,
                     const int* frames, const float* end_biases, void** self, void** cross, int self_positions,
                     const int* cross_positions, const int* bias_numbers, int list_count, const int* list_ends,
                     const int64_t* biased_tokens, const float* biases, int64_t* chosen, float* log_probs, char* error) {
    return guarded(error, [&] {
        std::vector<BiasList> lists;
        for (int list = 0, begin = 0; list < list_count; begin = list_ends[list++])
            lists.push_back({biased_tokens + begin, biases + begin, list_ends[list] - begin});
        std::vector<Row> rows;
        for (int row = 0; row < row_count; tokens += counts[row], ++row)
            rows.push_back({tokens, counts[row], pasts[row], frames[row], end_biases[row], self[row], cross[row], cross_positions[row]});
        model->decoder->decode(*team, rows, self_positions, lists, bias_numbers, chosen, log_probs);
    });
}

int moonshine_align(const Model* model, Team* team, const int64_t* tokens, int count, int frames, void* self, void* cross,
                    int self_positions, int cross_positions, const int* heads, int head_count, float* shares, char* error) {
    return guarded(error, [&] {
        model->decoder->align(*team, Row{tokens, count, 0, frames, 0.0f, self, cross, cross_positions}, heads, head_count, self_positions,
                              shares);
    });
}

}  // extern "C"
